"""A TensorFlow Lite model in the interpreter that the image has: LiteRT's own, or TensorFlow's.

An image with ai-edge-litert checks with that; any other one with the interpreter of its TensorFlow,
whose ways to name a model's inputs and outputs changed from release to release.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from stages.frameworks.tensorflow import strip_output_index
from stages.kit.contract import Job, Signature, StageError, Tensor
from stages.kit.matching import End, find_fitting_order, format_shape, is_ambiguous, pair
from stages.kit.samples import Predict, compare, open_samples

Arrays = Sequence[np.ndarray]

# Of how many inputs both orders are tried, where the shape does not tell: each doubles the tries.
_MOST_UNCLEAR = 4


class Runtime:
    """The interpreter of this environment."""

    def __init__(self) -> None:
        try:
            module = importlib.import_module("ai_edge_litert.interpreter")
            version = importlib.import_module("ai_edge_litert").__version__
            self.name, self._make = f"LiteRT {version}", module.Interpreter
        except ImportError:
            from stages.frameworks.tensorflow import import_tensorflow

            tf = import_tensorflow()
            self.name, self._make = f"TensorFlow Lite {tf.__version__}", tf.lite.Interpreter
        # TensorFlow 2.2 and before have no threads to set.
        self.takes_threads = "num_threads" in inspect.signature(self._make.__init__).parameters

    def open(self, path: Path, threads: int = 1) -> Any:
        """Open a model, without allocating its tensors."""
        more = {"num_threads": threads} if self.takes_threads else {}
        return self._make(model_path=str(path), **more)


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the job's .tflite file on every sample and compare its outputs; None without samples."""
    runtime = Runtime()
    interpreter = runtime.open(job.artifact)
    job.report["operators"] = count_operators(interpreter)
    flex = sorted(name for name in job.report["operators"] if name.startswith("Flex"))
    if flex:
        job.note("Operators that need the Flex delegate: " + ", ".join(flex))
    samples = open_samples(job.volume)
    if samples is None:
        job.note("The volume holds no samples, so the model was not checked.")
        return None
    assert job.signature is not None
    signature = job.signature
    return compare(
        job, samples, runtime.name, lambda: make_predict(runtime.open(job.artifact), signature)
    )


def count_operators(interpreter: Any) -> Dict[str, int]:
    """Count the operators by kind; empty where the interpreter (TensorFlow 1.15) cannot tell."""
    list_operators = getattr(interpreter, "_get_ops_details", None)
    if list_operators is None:
        return {}
    return dict(Counter(operator["op_name"] for operator in list_operators()))


def make_predict(interpreter: Any, signature: Signature) -> Predict:
    """Return a function that runs the model on arrays as the artifact takes them."""
    interpreter.allocate_tensors()
    nodes = {"inputs": signature.inputs, "outputs": signature.outputs}
    inputs, outputs = ([int(tensor.node) for tensor in nodes[side]] for side in nodes)
    # litert-torch narrows int64 to int32; an index is the same number in both.
    given, made = interpreter.get_input_details(), interpreter.get_output_details()
    details = {int(detail["index"]): detail for detail in (*given, *made)}
    resize = make_resizer(interpreter, inputs, signature.inputs)

    def predict(values: Arrays) -> List[np.ndarray]:
        resize(values)
        for index, value in zip(inputs, values):
            if index >= 0:
                value = quantize_end(value, details[index])
                interpreter.set_tensor(index, _narrow(value, np.dtype(details[index]["dtype"])))
        interpreter.invoke()
        found = [dequantize_end(interpreter.get_tensor(i), details[i]) for i in outputs]
        return [_widen(value, t.dtype) for value, t in zip(found, signature.outputs)]

    return predict


def make_resizer(
    interpreter: Any, inputs: Sequence[Optional[int]], tensors: Sequence[Tensor]
) -> Callable[[Sequence[np.ndarray]], None]:
    """Return a function that gives an interpreter's open inputs the shapes of these arrays.

    `inputs` are the inputs' numbers in the model, None or -1 for one that was dropped.
    """
    shapes = {index: tensor.own_shape for index, tensor in zip(inputs, tensors)}
    if not any(tensor.dims for tensor in tensors):
        return lambda values: None

    def resize(values: Sequence[np.ndarray]) -> None:
        changed = False
        for index, value in zip(inputs, values):
            if index is not None and index >= 0 and shapes[index] != value.shape:
                interpreter.resize_tensor_input(index, value.shape)
                shapes[index] = value.shape
                changed = True
        if changed:
            interpreter.allocate_tensors()

    return resize


def quantize_end(value: np.ndarray, detail: Dict[str, Any]) -> np.ndarray:
    """Return a float input as the integers that the model takes, if it takes any."""
    scale, zero = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if value.dtype.kind != "f" or dtype.kind == "f" or not scale:
        return value
    limits = np.iinfo(dtype)
    return np.clip(np.round(value / scale) + zero, limits.min, limits.max).astype(dtype)


def dequantize_end(value: np.ndarray, detail: Dict[str, Any]) -> np.ndarray:
    """Return integers that stand for floats as these."""
    scale, zero = detail["quantization"]
    if value.dtype.kind == "f" or not scale:
        return value
    return ((value.astype(np.float32) - zero) * np.float32(scale)).astype(np.float32)


def _narrow(value: np.ndarray, dtype: Any) -> np.ndarray:
    return value.astype(dtype) if value.dtype.kind in "iu" and dtype.kind in "iu" else value


def _widen(value: np.ndarray, dtype: str) -> np.ndarray:
    same_kind = value.dtype.kind == np.dtype(dtype).kind == "i"
    return value.astype(dtype) if same_kind else value


def find_indices(
    details: Sequence[Dict[str, Any]], tensors: Sequence[Tensor], may_be_dropped: bool = False
) -> List[Optional[int]]:
    """Return the interpreter's index of each tensor, by name if names survived, else by position.

    The converter may drop inputs that no output needs; those get None.
    """
    by_name = {strip_output_index(detail["name"]): detail["index"] for detail in details}
    names = [strip_output_index(tensor.node) for tensor in tensors]
    if set(by_name) == set(names) or (may_be_dropped and set(by_name) < set(names)):
        return [by_name.get(name) for name in names]
    if len(details) != len(tensors):
        raise StageError(
            f"The model has {len(details)} tensors ({', '.join(by_name)}) where the graph has "
            f"{len(tensors)} ({', '.join(names)})."
        )
    return [detail["index"] for detail in details]


def number_tensors(interpreter: Any, known: Signature) -> Signature:
    """Return the signature with tensors' numbers as nodes, where it has their names.

    Raises `StageError` for an output that is not there.
    """
    details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    numbers = {detail["name"].partition(":")[0]: str(detail["index"]) for detail in details}

    def find(tensor: Tensor) -> Tensor:
        node = tensor.node
        if not node.lstrip("-").isdigit():
            name = node.partition(":")[0]
            node = numbers.get(name) or numbers.get(f"{name}_int8") or "-1"  # it was dropped
        return replace(tensor, node=node)

    found = Signature(tuple(map(find, known.inputs)), tuple(map(find, known.outputs)))
    lost = [tensor.name for tensor in found.outputs if tensor.node == "-1"]
    if lost:
        raise StageError(f"The interpreter shows no output '{lost[0]}'.")
    return found


def locate_tensors(job: Job, path: Path, known: Signature) -> Signature:
    """Return the signature with the tensors' numbers in the file, as `node`, and their axes.

    Inputs that the converter dropped have the number -1. Where a shape hides the order of its axes,
    the first sample tells it. Raises `StageError` if inputs or outputs cannot be told apart.
    """
    interpreter = Runtime().open(path)
    interpreter.allocate_tensors()
    names = _read_names(interpreter)
    inputs = _match(known.inputs, interpreter.get_input_details(), names["inputs"], "input")
    outputs = _match(known.outputs, interpreter.get_output_details(), names["outputs"], "output")
    located = Signature(tuple(inputs), tuple(outputs))
    return _settle_ambiguous(job, path, located)


def _read_names(interpreter: Any) -> Dict[str, Dict[int, str]]:
    """Read the names that a file's SignatureDef gives its tensors, by the tensors' numbers."""
    read = getattr(interpreter, "_get_full_signature_list", None)
    raw = getattr(getattr(interpreter, "_interpreter", None), "GetSignatureDefs", None)
    found = (read or raw or dict)()
    entry = next(iter(found.values()), {}) if found else {}
    return {
        side: {int(index): name for name, index in entry.get(side, {}).items()}
        for side in ("inputs", "outputs")
    }


def _match(
    tensors: Sequence[Tensor], details: Sequence[Dict[str, Any]], names: Dict[int, str], side: str
) -> List[Tensor]:
    by_index = {int(detail["index"]): detail for detail in details}
    indices = _order(details, names)
    ends = [
        End(names.get(index, detail["name"]), [int(size) for size in detail["shape"]])
        for index, detail in ((i, by_index[i]) for i in indices)
    ]
    own = [End(tensor.name, tensor.shape) for tensor in tensors]
    pairs = {found.ours: found for found in pair(own, ends)}
    matched = []
    for place, tensor in enumerate(tensors):
        if place not in pairs:
            if side == "input" and len(ends) < len(own):
                matched.append(_place(tensor, -1, ()))
                continue
            raise StageError(
                f"The model's {side}s ({', '.join(map(str, ends))}) do not show which is "
                f"'{tensor.name}' ({format_shape(tensor.shape)})."
            )
        end = ends[pairs[place].theirs]
        order = find_fitting_order(tensor.shape, end.shape) or ()
        turned = order if order != tuple(range(len(order))) else ()
        matched.append(_place(tensor, indices[pairs[place].theirs], turned))
    return matched


def _order(details: Sequence[Dict[str, Any]], names: Dict[int, str]) -> List[int]:
    """Return the tensors' numbers, in the order of names that a converter made up: output_0, ..."""
    indices = [int(detail["index"]) for detail in details]
    found = [re.fullmatch(r"(?:args|output|inputs)_(\d+)", names.get(i, "")) for i in indices]
    if not all(found):
        return indices
    numbers = {i: int(match[1]) for i, match in zip(indices, found) if match}
    return sorted(indices, key=lambda i: numbers[i])


def _place(tensor: Tensor, index: int, axes: Tuple[int, ...]) -> Tensor:
    return replace(tensor, node=str(index), axes=axes)


def _settle_ambiguous(job: Job, path: Path, located: Signature) -> Signature:
    """Tell the axes of tensors that look the same in both orders by the first sample's values."""
    samples = open_samples(job.volume)
    unclear = [i for i, t in enumerate(located.inputs) if is_ambiguous(t.shape)][:_MOST_UNCLEAR]
    if samples is None or not any(map(is_ambiguous, (t.shape for t in _list_tensors(located)))):
        return located
    interpreter = Runtime().open(path)
    first = [array[0] for array in samples.input_arrays]
    wanted = [array[0] for array in samples.output_arrays]
    best: Tuple[float, Signature] = (np.inf, located)
    for choice in itertools.product((False, True), repeat=len(unclear)):
        inputs = list(located.inputs)
        for place, turned in zip(unclear, choice):
            inputs[place] = replace(inputs[place], axes=_move_last(inputs[place]) if turned else ())
        tried = Signature(tuple(inputs), located.outputs)
        values = make_predict(interpreter, tried)(
            [_turn(value, tensor.axes) for value, tensor in zip(first, inputs)]
        )
        found = [_fit(t, v, w) for t, v, w in zip(located.outputs, values, wanted)]
        error = float(sum(error for error, _ in found))
        if error < best[0]:
            best = error, Signature(tried.inputs, tuple(tensor for _, tensor in found))
    return best[1]


def _list_tensors(signature: Signature) -> Tuple[Tensor, ...]:
    return (*signature.inputs, *signature.outputs)


def _fit(tensor: Tensor, value: np.ndarray, wanted: np.ndarray) -> Tuple[float, Tensor]:
    """Return an output's mean error, and the output with the axes that give the smaller one."""
    orders: List[Tuple[int, ...]] = [tensor.axes]
    if is_ambiguous(tensor.shape):
        orders = [(), _move_last(tensor)]
    errors = [float(np.abs(value - _turn(wanted, axes)).mean()) for axes in orders]
    best = int(np.argmin(errors))
    return errors[best], replace(tensor, axes=orders[best])


def _move_last(tensor: Tensor) -> Tuple[int, ...]:
    return (0, *range(2, len(tensor.shape)), 1)


def _turn(value: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    return np.ascontiguousarray(value.transpose(axes)) if axes else value
