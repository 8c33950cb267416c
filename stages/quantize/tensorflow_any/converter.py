"""A frozen graph, a SavedModel or an ONNX model to quantised TensorFlow Lite.

The converter is that of the image's TensorFlow, 1.15 to 2.17, and makes the float model too. ONNX
models become SavedModels by onnx2tf.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Iterator, List, Sequence

from stages.frameworks.saved_model import unpack
from stages.frameworks.tensorflow import import_tensorflow, strip_output_index
from stages.frameworks.tflite_runtime import locate_tensors
from stages.kit.contract import Job, Signature, Stage, StageError, Tensor
from stages.plain.onnx_to_tflite import run_onnx2tf
from stages.quantize.calibration import iterate, write_calibration
from stages.quantize.order import sort_dequantized
from stages.quantize.stage import CALIBRATED, make_stage, read_float_signature

_INT16X8 = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"


def make_tensorflow_stage(mode: str, summary: str) -> Stage:
    """Make the stage of a mode."""
    return make_stage(
        mode,
        lambda job: _quantize(job, mode),
        summary=summary,
        consumes="saved_model.zip",
        packages=("tensorflow", "onnx2tf", "numpy"),
        imports=("tensorflow",),
        ends=("int8", "uint8") if mode == "int8" else (),
    )


def _quantize(job: Job, mode: str) -> bytes:
    """Return the quantised model. Raises `StageError` if the converter fails."""
    tf = import_tensorflow()
    with _open_source(tf, job) as make_converter:
        converter = make_converter()
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        _set_up(tf, converter, mode)
        if mode in CALIBRATED:
            inputs = read_float_signature(job).inputs
            with job.phase("calibrate"):
                arrays = write_calibration(job, inputs)
            order = _find_order(job, make_converter, inputs)
            ordered = [inputs[place] for place in order]
            taken = [arrays[place] for place in order]
            converter.representative_dataset = lambda: iterate(taken, ordered)
        ends = job.options.get("io", "float")
        if ends != "float":
            # Only a model that is of integers throughout can have them at its ends.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = getattr(tf, ends)
        try:
            content = converter.convert()
        except Exception as error:  # the converter raises ConverterError and plain types
            lines = [line for line in str(error).split("\n") if line.strip()]
            raise StageError(
                f"TensorFlow {tf.__version__} cannot quantise the model to {mode}: "
                f"{type(error).__name__}: {' '.join(lines[-3:])[-500:]}"
            ) from error
    if mode == "float16" and content and not tf.__version__.startswith("1."):
        return sort_dequantized(content)
    return content  # type: ignore[no-any-return]


def _set_up(tf: Any, converter: Any, mode: str) -> None:
    sets = tf.lite.OpsSet
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif mode == "int8":
        # An operator without an int8 kernel stays in float, between two conversions.
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8, sets.TFLITE_BUILTINS]
    elif mode == "int16x8":
        converter.target_spec.supported_ops = [getattr(sets, _INT16X8), sets.TFLITE_BUILTINS]


def _find_order(job: Job, make_converter: Callable[[], Any], inputs: Sequence[Tensor]) -> List[int]:
    """Return the inputs' places in the order in which the converter takes calibration samples.

    That is the order of a float model's inputs, which a SavedModel does not show.
    """
    if len(inputs) == 1:
        return [0]
    path = job.volume / ".order.tflite"
    try:
        path.write_bytes(make_converter().convert())
        return _read_order(job, path)
    finally:
        if path.exists():
            path.unlink()


def _read_order(job: Job, path: Path) -> List[int]:
    from stages.frameworks.tflite_runtime import Runtime

    known = read_float_signature(job)
    found = locate_tensors(job, path, known)
    places = [int(detail["index"]) for detail in Runtime().open(path).get_input_details()]
    numbers = [int(tensor.node) for tensor in found.inputs]
    return [numbers.index(place) for place in places]


@contextmanager
def _open_source(tf: Any, job: Job) -> Iterator[Callable[[], Any]]:
    """Yield a function that makes a new converter for the job's input."""
    kind = job.input.suffix
    if kind == ".pb":
        known = job.require_upstream_signature()
        yield lambda: _make_graph_converter(tf, job, known)
    elif kind == ".zip":
        with unpack(job.input) as folder:
            yield lambda: tf.lite.TFLiteConverter.from_saved_model(str(folder))
    else:
        with TemporaryDirectory() as name:
            names = [t.name for t in read_float_signature(job).inputs if not t.axes]
            folder = run_onnx2tf(job, Path(name), names)
            yield lambda: tf.lite.TFLiteConverter.from_saved_model(str(folder))


def _make_graph_converter(tf: Any, job: Job, known: Signature) -> Any:
    # TensorFlow 1.15 starts its converter, `toco_from_protos`, by name.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
    return tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
        str(job.input),
        [strip_output_index(tensor.node) for tensor in known.inputs],
        [strip_output_index(tensor.node) for tensor in known.outputs],
        {strip_output_index(t.node): list(t.own_shape) for t in known.inputs},
    )
