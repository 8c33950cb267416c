"""A float .tflite file to a quantised one, by ai-edge-quantizer's own recipes.

Weights are quantised per channel, those of FULLY_CONNECTED too, which older interpreters compute
wrongly. It wants a SignatureDef and a name of its own for every tensor, and gets both. Ranges are
those of all samples, where the tool by itself takes a moving average, which cuts off what is rare:
on the example that costs 10 dB.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from typing import Any, Dict, Iterator, List

import numpy as np

from stages.kit.contract import InputError, Job, Signature, Stage, StageError
from stages.quantize.calibration import iterate, write_calibration
from stages.quantize.stage import CALIBRATED, make_stage

_KEY = "serving_default"


def make_ai_edge_stage(mode: str, summary: str) -> Stage:
    """Make the stage of a mode."""
    return make_stage(
        mode,
        lambda job: _quantize(job, mode),
        summary=summary,
        consumes="model.tflite",
        packages=("ai-edge-quantizer", "ai-edge-litert", "numpy"),
        ends=("int8",) if mode == "int8" else (),
    )


def _quantize(job: Job, mode: str) -> bytes:
    """Return the quantised model. Raises `StageError` if the tool fails, `InputError` if it may."""
    from ai_edge_quantizer import calibrator, quantizer
    from ai_edge_quantizer.utils import qsv_utils

    signature = job.require_upstream_signature()
    model = read_model(job.input.read_bytes())
    names = _add_signature(model, signature)
    content = write_model(model)
    recipe = _make_recipe(mode, job.options.get("io", "float"))
    tool = quantizer.Quantizer(content, recipe.get_quantization_recipe())
    arrays: List[np.ndarray] = []
    if mode in CALIBRATED:
        with job.phase("calibrate"):
            arrays = write_calibration(job, signature.inputs)
    try:
        # Its progress bars would fill the log.
        with contextlib.redirect_stderr(io.StringIO()):
            statistics = None
            if arrays:
                found = calibrator.Calibrator(
                    memoryview(content), num_threads=1, qsv_update_func=qsv_utils.min_max_update
                )
                found.calibrate({_KEY: _Samples(arrays, signature, names)}, recipe)
                statistics = found.get_model_qsvs()
            result = tool.quantize(statistics, enable_progress_report=False)
    except Exception as error:  # the tool raises plain types
        raise StageError(
            f"ai-edge-quantizer cannot quantise the model to {mode}: "
            f"{type(error).__name__}: {error}",
            "Take another mode (loops and LSTMs are not calibrated), or a toolchain whose own "
            "converter quantises.",
        ) from error
    return bytes(result.quantized_model)


class _Samples:
    """Calibration samples by the inputs' names, which can be gone through more than once."""

    def __init__(self, arrays: List[np.ndarray], signature: Signature, names: Dict[int, str]):
        self._arrays, self._inputs, self._names = arrays, signature.inputs, names

    def __iter__(self) -> Iterator[Dict[str, np.ndarray]]:
        for values in iterate(self._arrays, self._inputs):
            yield {
                self._names[int(tensor.node)]: value
                for tensor, value in zip(self._inputs, values)
                if int(tensor.node) >= 0
            }


def _make_recipe(mode: str, ends: str) -> Any:
    """Make the recipe of a mode; int8 and int16x8 have float inputs and outputs unless said."""
    from ai_edge_quantizer import qtyping, recipe, recipe_manager

    names, operations = recipe.AlgorithmName, qtyping.TFLOperationName
    made = recipe_manager.RecipeManager()
    everything = {"regex": ".*", "operation_name": operations.ALL_SUPPORTED}
    if mode == "float16":
        made.add_weight_only_config(**everything, num_bits=16, algorithm_key=names.FLOAT_CASTING)
    elif mode == "dynamic":
        made.add_dynamic_config(**everything, num_bits=8)
    else:
        bits = 8 if mode == "int8" else 16
        made.add_static_config(**everything, activation_num_bits=bits, weight_num_bits=8)
        if ends == "float":
            for end in (operations.INPUT, operations.OUTPUT):
                made.add_quantization_config(".*", end, algorithm_key=names.NO_QUANTIZE)
    return made


def read_model(content: bytes) -> Any:
    """Read a .tflite file as a tree of objects (flatbuffers' object API)."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def write_model(model: Any) -> bytes:
    """Write such a tree as a file."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _add_signature(model: Any, signature: Signature) -> Dict[int, str]:
    """Give the model one SignatureDef, and every tensor a name of its own.

    Return the inputs' names by their tensors' numbers. Raises `InputError` for a model with several
    signatures.
    """
    from ai_edge_litert import schema_py_generated as schema

    if len(model.signatureDefs or ()) > 1:
        keys = ", ".join(entry.signatureKey.decode() for entry in model.signatureDefs)
        raise InputError(
            f"The model has several signatures: {keys}.",
            "Export a file for each of them, and quantise these.",
        )
    for graph in model.subgraphs:
        _name_apart(graph)
    if not model.signatureDefs:
        graph = model.subgraphs[0]
        given = {int(t.node): t.name for t in (*signature.inputs, *signature.outputs) if t.node}
        entry = schema.SignatureDefT()
        entry.subgraphIndex = 0
        entry.inputs = _map_tensors(graph, graph.inputs, given)
        entry.outputs = _map_tensors(graph, graph.outputs, given)
        model.signatureDefs = [entry]
    (entry,) = model.signatureDefs
    entry.signatureKey = _KEY.encode()
    return {
        tensor.tensorIndex: tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
        for tensor in entry.inputs
    }


def _map_tensors(graph: Any, indices: Any, given: Dict[int, str]) -> List[Any]:
    from ai_edge_litert import schema_py_generated as schema

    made: List[Any] = []
    for index in map(int, indices):
        entry = schema.TensorMapT()
        entry.name = given.get(index) or graph.tensors[index].name.decode()
        entry.tensorIndex = index
        made.append(entry)
    return made


def _name_apart(graph: Any) -> None:
    """Number tensors that share a name: the tool keeps their ranges by name."""
    count = Counter(tensor.name for tensor in graph.tensors)
    for number, tensor in enumerate(graph.tensors):
        if count[tensor.name] > 1 or not tensor.name:
            tensor.name = (tensor.name or b"") + b";%d" % number
