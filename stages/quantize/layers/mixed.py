"""Models of int8 with layers in float: the float model beside the quantised one, put together."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from stages.convert.graph_to_tflite import make_converter
from stages.frameworks.tensorflow import import_tensorflow
from stages.frameworks.tflite_model import TfliteModel
from stages.frameworks.tflite_runtime import find_indices
from stages.kit.contract import Job, Signature
from stages.kit.layers import LayerFinder
from stages.kit.samples import reorder_axes
from stages.quantize.calibration import open_calibration
from stages.quantize.layers.keep_float import keep_in_float
from stages.quantize.layers.search import Pair, find_named, search


def keep_layers(job: Job, signature: Signature, content: bytes) -> bytes:
    """Return the int8 model with the layers of the option `keep_float` in float."""
    pair = _open_pair(job, signature, content)
    return keep_in_float(pair.source, pair.quantized, find_named(pair, job.options["keep_float"]))


def keep_kinds(job: Job, signature: Signature, content: bytes, kinds: Sequence[str]) -> bytes:
    """Return the integer model with its operators of these kinds in float (fix `int16-tables`).

    TensorFlow 2.4's kernels of sigmoid and tanh take int16 inputs to have one scale, which they
    need not have: the outputs are wrong. From 2.5.0 on the same file is computed right.
    """
    quantized, _ = open_model(signature, content)
    if not set(kinds).intersection(quantized.kinds):
        return content
    pair = _open_pair(job, signature, content)
    kept = {
        name
        for name in pair.source.order()
        if pair.source.kinds[pair.source.producers[pair.source.indices[name]]] in kinds
    }
    if not kept:
        return content
    job.report["fixes"] = [*job.report.get("fixes", ()), "int16-tables"]
    return keep_in_float(pair.source, pair.quantized, kept)


def search_layers(job: Job, signature: Signature, content: bytes) -> bytes:
    """Return the int8 model with as few layers in float as its gate takes."""
    pair = _open_pair(job, signature, content)
    arrays = open_rows(job, signature)
    with job.phase("search"):
        kept = search(job, pair, arrays, job.options["min_sqnr"], job.options["min_top1"])
    return keep_in_float(pair.source, pair.quantized, kept) if kept else content


def open_rows(job: Job, signature: Signature) -> List[np.ndarray]:
    """Open the calibration samples in the graph's order of axes: an array per input."""
    return [
        np.stack([reorder_axes(row, tensor.axes) for row in array])
        for array, tensor in zip(open_calibration(job, signature.inputs), signature.inputs)
    ]


def _open_pair(job: Job, signature: Signature, content: bytes) -> Pair:
    """Convert the graph to float once more, and open both models."""
    tf = import_tensorflow()
    source, outputs = open_model(signature, convert_float(job, signature))
    quantized, _ = open_model(signature, content)
    graph_def = tf.compat.v1.GraphDef.FromString(job.input.read_bytes())
    return Pair(source, quantized, outputs, LayerFinder(job.volume, graph_def))


def convert_float(job: Job, signature: Signature) -> bytes:
    """Convert the job's graph to a float model, as the stage `tflite` has it."""
    return bytes(make_converter(import_tensorflow(), job, signature).convert())


def open_model(signature: Signature, content: bytes) -> Tuple[TfliteModel, List[str]]:
    """Open a model of the graph with this signature; return it with its outputs' names."""
    interpreter = import_tensorflow().lite.Interpreter(model_content=content)
    inputs = find_indices(interpreter.get_input_details(), signature.inputs, may_be_dropped=True)
    model = TfliteModel(content, inputs)
    places = find_indices(interpreter.get_output_details(), signature.outputs)
    return model, [model.names[place] for place in places if place is not None]
