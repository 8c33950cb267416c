"""TensorFlow Lite models, opened in the interpreter of TensorFlow 2.4."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from stages.compare.opened import MakePredict, Opened, OpenEnd, Size
from stages.frameworks.tensorflow import import_tensorflow
from stages.kit.contract import InputError, Job, Tensor
from stages.kit.samples import Predict

_NEWER_REMEDY = (
    "It was made for a newer runtime. Convert the model again with operators of 2020 (this "
    "toolchain does), or compare it by a newer interpreter, such as ai-edge-litert's."
)


def open_file(job: Job, file: Path) -> Opened:
    """Load a .tflite file; quantised inputs and outputs become float32, as a note says.

    Raises `InputError` if the interpreter refuses the file or an end is not a tensor of numbers.
    """
    tf = import_tensorflow()

    def new_interpreter() -> Any:
        try:
            return tf.lite.Interpreter(model_path=str(file), num_threads=1)
        except (ValueError, RuntimeError) as error:
            raise _explain_refusal(tf, file, error) from None

    first = new_interpreter()
    ins, outs = first.get_input_details(), first.get_output_details()
    for detail in [*ins, *outs]:
        if np.dtype(detail["dtype"]).kind not in "fiub":
            raise InputError(f"'{detail['name']}' of '{file.name}' is not a tensor of numbers.")
    quantised = [d["name"] for d in [*ins, *outs] if _get_quantization(d)]
    if quantised:
        job.note(
            f"'{file.name}' is quantised at {', '.join(quantised)}: it is given and gives float32 "
            "here, rounded to its steps."
        )

    def prepare(inputs: Sequence[Tensor]) -> MakePredict:
        def make_predict() -> Predict:
            interpreter = new_interpreter()
            for detail, tensor in zip(ins, inputs):
                if tuple(detail["shape"]) != tuple(tensor.shape):
                    interpreter.resize_tensor_input(detail["index"], tensor.shape)
            try:
                interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise _explain_refusal(tf, file, error) from None

            def predict(values: Sequence[np.ndarray]) -> List[np.ndarray]:
                for detail, value in zip(ins, values):
                    interpreter.set_tensor(detail["index"], _quantize(detail, value))
                interpreter.invoke()
                return [_dequantize(d, interpreter.get_tensor(d["index"])) for d in outs]

            return predict

        return make_predict

    operators = Counter(op["op_name"] for op in first._get_ops_details())
    flex = sorted(name for name in operators if name.startswith("Flex"))
    return Opened(
        framework=f"TensorFlow Lite {tf.__version__}",
        inputs=[_describe_end(detail) for detail in ins],
        prepare=prepare,
        outputs=[_describe_end(detail) for detail in outs],
        operators=dict(operators.most_common()),
        facts={"Flex": ", ".join(flex)} if flex else {},
    )


def _explain_refusal(tf: Any, file: Path, error: Exception) -> InputError:
    """Return an `InputError` that says in one sentence why the interpreter refuses the file."""
    text = " ".join(str(error).split())
    unknown = re.search(r"op for builtin opcode '(\w+)' version '(\d+)'", text)
    if unknown:
        return InputError(
            f"TensorFlow Lite {tf.__version__}'s interpreter has no {unknown[1]} of version "
            f"{unknown[2]}, which '{file.name}' uses.",
            _NEWER_REMEDY,
        )
    beyond = re.search(r"builtin_code out of range: (\d+)", text)
    if beyond:
        return InputError(
            f"TensorFlow Lite {tf.__version__}'s interpreter does not know the operator of code "
            f"{beyond[1]}, which '{file.name}' uses.",
            _NEWER_REMEDY,
        )
    if "unresolved custom op" in text.lower():
        return InputError(
            f"'{file.name}' needs a custom operator that is not here: {text}",
            "It runs only where the application brings that operator.",
        )
    return InputError(
        f"TensorFlow Lite {tf.__version__} cannot load '{file.name}': {text}",
        "See what it is: runner inspect FILE.",
    )


def _describe_end(detail: Dict[str, Any]) -> OpenEnd:
    return OpenEnd(detail["name"], _get_sizes(detail), _get_dtype(detail), 0, 10)


def _get_sizes(detail: Dict[str, Any]) -> List[Size]:
    signature = detail.get("shape_signature")
    fixed = [int(size) for size in detail["shape"]]
    if signature is None or len(signature) != len(fixed):
        return list(fixed)
    return ["?" if size < 0 else own for size, own in zip(signature, fixed)]


def _get_quantization(detail: Dict[str, Any]) -> Optional[Tuple[float, int]]:
    """Return a quantised tensor's scale and zero point; None for floats and plain integers."""
    scale, zero = detail["quantization"]
    whole = np.dtype(detail["dtype"]) in (np.int8, np.uint8, np.int16)
    return (float(scale), int(zero)) if whole and scale else None


def _get_dtype(detail: Dict[str, Any]) -> str:
    return np.dtype(np.float32 if _get_quantization(detail) else detail["dtype"]).name


def _quantize(detail: Dict[str, Any], value: np.ndarray) -> np.ndarray:
    steps = _get_quantization(detail)
    if steps is None:
        return value
    limits = np.iinfo(detail["dtype"])
    rounded = np.round(value.astype(np.float64) / steps[0]) + steps[1]
    return np.clip(rounded, limits.min, limits.max).astype(detail["dtype"])


def _dequantize(detail: Dict[str, Any], value: np.ndarray) -> np.ndarray:
    steps = _get_quantization(detail)
    if steps is None:
        return value
    return ((value.astype(np.float32) - steps[1]) * np.float32(steps[0])).astype(np.float32)
