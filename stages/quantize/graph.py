"""A frozen graph to quantised TensorFlow Lite, by the converter that makes the float model.

What the modes do is described in TensorFlow's guide to post-training quantisation. Weights are
quantised per channel in convolutions, per tensor in FULLY_CONNECTED. The result is judged by its
signal-to-noise ratio, against PyTorch's float outputs.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from stages.convert.graph_to_tflite import make_converter
from stages.fixes.catalogue import resolve, select
from stages.frameworks.tensorflow import import_tensorflow
from stages.frameworks.tflite_runtime import (
    Runtime,
    dequantize_end,
    find_indices,
    make_resizer,
    quantize_end,
)
from stages.kit.contract import InputError, Job, Option, Signature, Stage, StageError, flag
from stages.kit.samples import Predict, open_samples
from stages.quantize.calibration import iterate, write_calibration
from stages.quantize.check.latency import measure_latency
from stages.quantize.check.quality import GATE, compare_quality
from stages.quantize.pad_values import mend_pads
from stages.quantize.small_ranges import drop_weight_ranges
from stages.quantize.trained import choose_trained_ranges, convert_trained

# What makes the file of the converter's model.
Finish = Callable[[Job, Signature, bytes], bytes]

# The types at the ends of an int8 model.
_ENDS = ("float", "int8", "uint8")
INTEGER_ENDS = Option("io", str, "float", "inputs and outputs: float, int8 or uint8")
FIXES = Option("fixes", str, "all", "fixes to apply: all, none, A,B or -A,-B")


def finish_integers(job: Job, signature: Signature, content: bytes) -> bytes:
    """Apply the fixes of integer models that the option `fixes` selects."""
    if "weight-ranges" not in resolve(job.options, "quantize"):
        return content
    job.report["fixes"] = [*job.report.get("fixes", ()), "weight-ranges"]
    return drop_weight_ranges(content)


def _mend(job: Job, content: bytes) -> bytes:
    """Apply the fix without which the interpreter refuses the model, if it is selected."""
    if "integer-pads" in [fix.name for fix in select(job.options["fixes"], "quantize")]:
        content, count = mend_pads(content)
        if count:
            job.report["fixes"] = [*job.report.get("fixes", ()), "integer-pads"]
    return content


def make_stage(
    mode: str,
    summary: str,
    set_up: Callable[[Any, Any], None],
    *,
    calibrated: bool = False,
    finish: Finish = lambda job, signature, content: content,
    options: Tuple[Option, ...] = (),
) -> Stage:
    """Make the stage of a mode.

    `set_up` gets TensorFlow and the converter, and prepares it; `finish` gets the job, its
    signature and the converter's model, and returns what is written.
    """
    options = (*GATE, *options)
    if calibrated:
        options += (
            Option("calibration", str, "", "the file of calibration samples in the volume"),
            Option("noise", flag, False, "calibrate on normal noise"),
        )

    def convert(job: Job) -> Signature:
        signature, content = _convert(job, set_up, calibrated)
        if calibrated:
            content = _mend(job, content)
        job.output.write_bytes(finish(job, signature, content))
        return signature

    return Stage(
        name=mode,
        summary=summary,
        consumes="model.pb",
        produces=f"model.{mode}.tflite",
        packages=("tensorflow", "numpy"),
        convert=convert,
        check=check,
        imports=("tensorflow",),
        options=options,
    )


def _convert(
    job: Job, set_up: Callable[[Any, Any], None], calibrated: bool
) -> Tuple[Signature, bytes]:
    """Return the signature of the graph, and the quantised model that the converter makes of it."""
    ends = job.options.get("io", "float")
    if ends not in _ENDS:
        raise InputError(f"There are no ends of type '{ends}'.", f"They are {', '.join(_ENDS)}.")
    tf = import_tensorflow()
    signature = job.require_upstream_signature()
    if choose_trained_ranges(tf, job):
        return signature, convert_trained(tf, job, signature, ends)
    converter = make_converter(tf, job, signature)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    set_up(tf, converter)
    if calibrated:
        with job.phase("calibrate"):
            arrays = write_calibration(job, signature.inputs)
        converter.representative_dataset = lambda: iterate(arrays, signature.inputs)
    if ends != "float":
        # Only a model that is of integers throughout can have them at its ends.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, ends)
    content = converter.convert()
    if not isinstance(content, bytes) or not content:
        raise StageError("The converter returned no model.")
    return signature, content


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the interpreter on every sample and judge its outputs; None without samples."""
    tf = import_tensorflow()

    def new_interpreter() -> Any:
        return tf.lite.Interpreter(model_path=str(job.artifact), num_threads=1)

    job.report["operators"] = dict(
        Counter(o["op_name"] for o in new_interpreter()._get_ops_details())
    )
    samples = open_samples(job.volume)
    if samples is None:
        job.note("The volume holds no samples, so the model was not checked.")
        return None
    assert job.signature is not None
    signature = job.signature

    def make_predict() -> Predict:
        interpreter = new_interpreter()
        interpreter.allocate_tensors()
        given, made = interpreter.get_input_details(), interpreter.get_output_details()
        details = {detail["index"]: detail for detail in (*given, *made)}
        inputs = find_indices(given, signature.inputs, may_be_dropped=True)
        outputs = find_indices(made, signature.outputs)
        resize = make_resizer(interpreter, inputs, signature.inputs)

        def predict(values: Sequence[np.ndarray]) -> List[np.ndarray]:
            resize(values)
            for index, value in zip(inputs, values):
                if index is not None:
                    interpreter.set_tensor(index, quantize_end(value, details[index]))
            interpreter.invoke()
            return [dequantize_end(interpreter.get_tensor(i), details[i]) for i in outputs]

        return predict

    job.report["latency"] = measure_latency(job, Runtime())
    return compare_quality(job, samples, f"TensorFlow Lite {tf.__version__}", make_predict)
