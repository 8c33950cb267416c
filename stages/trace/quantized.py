"""The trace of quantised models: each against the float model of the same graph, layer by layer.

`request["trace"]["quantized"]` has the file of each mode; the float model is the stage `tflite`'s.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Sequence

import numpy as np

from stages.convert import graph_to_tflite
from stages.frameworks.tensorflow import import_tensorflow
from stages.frameworks.tflite_runtime import find_indices
from stages.kit.contract import InputError, Job, Signature, Stage, run_as_program, write_json
from stages.kit.layers import LayerFinder, deduplicate
from stages.kit.trace_samples import open_trace_inputs
from stages.kit.tracing import get_first_line, read_signature
from stages.quantize.layers.noise import Layer, measure
from stages.quantize.layers.reasons import Fault, find_faults

# What is written for a ratio without noise, in dB.
_MOST_DECIBELS = 200.0


def convert(job: Job) -> Signature:
    """Trace the quantised models; the artifact has only how many tensors of each were compared."""
    from stages.frameworks.tflite_model import TfliteModel

    tf = import_tensorflow()
    signature = read_signature(job)
    samples = open_trace_inputs(job, signature.inputs)

    def open_model(name: str) -> Any:
        path = job.volume / name
        if not path.is_file():
            raise InputError(f"There is no {name} to trace.")
        interpreter = tf.lite.Interpreter(model_path=str(path))
        inputs = find_indices(
            interpreter.get_input_details(), signature.inputs, may_be_dropped=True
        )
        return TfliteModel(path.read_bytes(), inputs), interpreter

    source, interpreter = open_model(graph_to_tflite.STAGE.produces)
    details = interpreter.get_output_details()
    places = find_indices(details, signature.outputs)
    outputs = [source.names[place] for place in places if place is not None]
    layers = LayerFinder(job.volume, _read_graph(job, tf))
    found = []
    with job.phase("trace"):
        for mode, name in job.request["trace"]["quantized"].items():
            try:
                model, _ = open_model(name)
                found.append(_trace(job, mode, name, source, model, samples, outputs, layers))
            except Exception as error:  # every file gets its own answer
                found.append(_make_entry(mode, name, failure=get_first_line(error)))
    job.report["quantized"] = found
    write_json(job.output, {entry["mode"]: entry["matched"] for entry in found})
    return signature


def _trace(
    job: Job,
    mode: str,
    name: str,
    source: Any,
    model: Any,
    samples: Sequence[np.ndarray],
    outputs: Sequence[str],
    finder: LayerFinder,
) -> Dict[str, Any]:
    layers = measure(source, model, samples, outputs)
    ends = {source.names[index] for index in source.inputs if index is not None}
    modules = {
        layer.name: [] if layer.name in ends else finder.find_all(layer.name) for layer in layers
    }
    for layer in layers:
        layer.title = " + ".join(modules[layer.name])
    moved = _read_moved(job, mode, source)
    faults = find_faults(layers, model, moved)
    return {
        **_make_entry(mode, name),
        "samples": len(samples[0]),
        "tensors": len(source.order()) + len(source.inputs),
        "matched": len(layers),
        "points": [_describe(layer, modules[layer.name]) for layer in layers],
        "faults": [_describe_fault(fault, modules[fault.layer.name]) for fault in faults],
    }


def _make_entry(mode: str, name: str, failure: str = "") -> Dict[str, Any]:
    return {
        "mode": mode,
        "artifact": name,
        "samples": 0,
        "tensors": 0,
        "matched": 0,
        "points": [],
        "faults": [],
        "failure": failure,
    }


def _describe(layer: Layer, modules: Sequence[str]) -> Dict[str, Any]:
    levels = layer.levels.range if layer.levels.scale else None
    return {
        "tensor": layer.name,
        "operators": deduplicate(layer.operators),
        "modules": list(modules),
        "shape": list(layer.shape),
        "inputs": list(layer.inputs),
        "sqnr": to_decibels(layer.ratio),
        "own_sqnr": to_decibels(layer.own_ratio),
        "quiet_sqnr": to_decibels(layer.quiet_ratio),
        "output_sqnr": to_decibels(1 / layer.output_noise if layer.output_noise else np.inf),
        "levels": None if levels is None else [float(end) for end in levels],
        "seen": [float(layer.low.min(initial=0.0)), float(layer.high.max(initial=0.0))],
        "outside": layer.outside / max(layer.values, 1),
    }


def _describe_fault(fault: Fault, modules: Sequence[str]) -> Dict[str, Any]:
    layer = fault.layer
    return {
        "tensor": layer.name,
        "operators": deduplicate(layer.operators),
        "modules": list(modules),
        "kind": fault.kind,
        "reason": fault.reason,
    }


def to_decibels(ratio: float) -> float:
    """Return a ratio of powers in dB, within what a report can hold."""
    if not ratio > 0:
        return -_MOST_DECIBELS
    return (
        float(min(10 * np.log10(ratio), _MOST_DECIBELS)) if np.isfinite(ratio) else _MOST_DECIBELS
    )


def _read_moved(job: Job, mode: str, source: Any) -> Dict[str, str]:
    """Read what the mode's stage found of its calibration, by the model's names of the inputs."""
    try:
        report = json.loads((job.volume / "reports" / f"{mode}.json").read_text())
        moved = report["calibration"]["moved"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    signature = read_signature(job)
    return {
        source.names[index]: str(moved[tensor.name])
        for index, tensor in zip(source.inputs, signature.inputs)
        if index is not None and tensor.name in moved
    }


def _read_graph(job: Job, tf: Any) -> Any:
    path = job.volume / graph_to_tflite.STAGE.consumes
    return tf.compat.v1.GraphDef.FromString(path.read_bytes()) if path.is_file() else None


STAGE = Stage(
    name="trace-quantized",
    summary=__doc__ or "",
    consumes=graph_to_tflite.STAGE.produces,
    produces="trace-quantized.json",
    packages=graph_to_tflite.STAGE.packages,
    convert=convert,
    check=lambda job: None,
)

if __name__ == "__main__":
    run_as_program(STAGE)
