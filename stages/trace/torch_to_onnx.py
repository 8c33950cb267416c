"""The trace of the stage `torch`: PyTorch's own values of every operator against the ONNX model's.

The export is done once more, listened to: it tells which value of PyTorch's graph became which
tensor of the ONNX model, and PyTorch's interpreter runs that graph with all of them as outputs.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from stages.convert import torch_to_onnx as torch_stage
from stages.frameworks.torch_reference import copy_model, load_job_model, make_predict
from stages.kit.contract import Job, Signature, Stage, run_as_program, write_json
from stages.kit.layers import read_layers
from stages.kit.pixels import read_preprocessing
from stages.kit.trace_files import Kept
from stages.kit.trace_samples import open_trace_inputs
from stages.kit.tracing import (
    Arrays,
    Comparison,
    Pair,
    compare_tensors,
    get_first_line,
    read_signature,
)

# In-place operators that are run as their plain counterparts, since even the values read before
# them would show the change. Values that other in-place operators change are not compared.
_PLAIN = tuple(
    f"aten::{name}_"
    for name in (
        "add", "celu", "clamp", "clamp_max", "clamp_min", "div", "dropout", "elu", "hardtanh",
        "leaky_relu", "mul", "relu", "selu", "sigmoid", "sub", "tanh", "threshold",
    )
)  # fmt: skip

_NOT_THE_MODEL = (
    "the operators that the exporter recorded give another value than the model itself: forward() "
    "takes a way that depends on the values of its inputs, which tracing does not see "
    "(torch.jit.script does)"
)


def convert(job: Job) -> Signature:
    """Compare `model.onnx` with PyTorch, and write an index of the ONNX model's own values."""
    import onnx
    import torch

    from stages.trace.onnx_model import OnnxModel

    signature = read_signature(job)
    model = load_job_model(job, job.input)
    samples = open_trace_inputs(job, signature.inputs)
    prepare = read_preprocessing(job, signature.inputs).prepare
    first = [torch.from_numpy(np.array(value)) for value in prepare([a[0] for a in samples])]
    with job.phase("export"):
        recording = _record_export(torch, model, first, signature, job)
    proto = onnx.load(str(job.volume / torch_stage.STAGE.produces))
    artifact = OnnxModel(proto, [tensor.name for tensor in signature.inputs])
    names = [tensor.name for tensor in signature.outputs]
    notes: List[str] = []
    reasons: Dict[str, str] = {}
    try:
        reference, matched = _trace_inside(torch, model, recording, first, names, reasons)
    except Exception as error:  # PyTorch's internal graph is not meant to be run like this
        notes.append(
            "PyTorch's own values inside the model cannot be had, so only its outputs are compared "
            f"in this stage: {get_first_line(error)}"
        )
        reference, matched = _trace_outputs(torch, model, names), names
    layers = read_layers(job.volume) or recording.layers
    kept = Kept.of(job.volume, artifact, samples)
    samples = [array[: kept.count] for array in samples]
    comparison = Comparison(
        artifact,
        [Pair(name, name) for name in matched],
        lambda sample, values: reference(sample, prepare(values)),
        lambda pair, piece: [layers.get(name, "") for name in piece.tensors],
        keep=kept.add,
        notes=[*notes, *kept.notes],
        reasons=reasons,
    )
    with job.phase("trace"):
        compare_tensors(job, samples, comparison)
    write_json(job.output, kept.index())
    return signature


def _record_export(
    torch: Any, model: Any, inputs: Sequence[Any], signature: Signature, job: Job
) -> Any:
    """Export again as the stage did, into a temporary file, and return the recording."""
    with tempfile.TemporaryDirectory(dir=str(job.volume)) as folder:
        again = replace(job, output=Path(folder) / "again.onnx", report={})
        return torch_stage.export_with_fixes(
            torch,
            model,
            inputs,
            signature.inputs,
            [tensor.name for tensor in signature.outputs],
            again,
        )


def _trace_inside(
    torch: Any,
    model: Any,
    recording: Any,
    inputs: Sequence[Any],
    names: Sequence[str],
    reasons: Dict[str, str],
) -> Tuple[Callable[[int, Sequence[np.ndarray]], Arrays], List[str]]:
    """Return a function that computes PyTorch's values by ONNX name, and those names.

    Raises if PyTorch's graph does not run. As samples run, `reasons` collects the outputs for which
    the graph differs from the model itself.
    """
    graph = recording.graph
    tensors: Dict[str, Any] = {}
    changed = set()
    for node in list(graph.nodes()):
        kind = node.kind()
        if kind in _PLAIN:
            plain = graph.create(kind[:-1], list(node.inputs()), 1)
            plain.insertBefore(node)
            name = node.output().debugName()
            plain.output().copyMetadata(node.output())
            node.output().replaceAllUsesWith(plain.output())
            node.destroy()
            plain.output().setDebugName(name)
            node = plain
        elif kind.startswith("aten::") and kind.endswith("_") and not kind.endswith("__"):
            changed.update(value.debugName() for value in list(node.inputs())[:1])
        for value in node.outputs():
            if value.type().kind() == "TensorType":
                tensors[value.debugName()] = value
    ends = list(graph.outputs())
    wanted = {
        name: tensors[value]
        for name, value in recording.values.items()
        if value in tensors and value not in changed
    }
    # Outputs are matched by position, whatever their names.
    for name, value in zip(names, ends):
        if value.type().kind() == "TensorType" or value.debugName() in tensors:
            wanted[name] = value
    graph.return_node().removeAllInputs()
    pack = graph.create("prim::TupleConstruct", list(wanted.values()), 1)
    graph.appendNode(pack)
    pack.output().setType(torch._C.TupleType([value.type() for value in wanted.values()]))
    graph.registerOutput(pack.output())
    function = torch._C._create_function_from_graph("trace", graph)

    outside = _trace_outputs(torch, model, names)

    def reference(sample: int, values: Sequence[np.ndarray]) -> Arrays:
        given = [torch.from_numpy(np.array(value)) for value in values]
        with torch.no_grad():
            results = function(*given, *recording.parameters)
        found = {name: value.numpy() for name, value in zip(wanted, results)}
        for name, value in outside(sample, values).items():
            if name in found and not _are_close(found[name], value):
                reasons[name] = _NOT_THE_MODEL
        return found

    reference(0, [tensor.numpy() for tensor in inputs])
    return reference, list(wanted)


def _are_close(one: np.ndarray, other: np.ndarray) -> bool:
    scale = float(np.abs(np.nan_to_num(other.astype(np.float64))).max(initial=0.0))
    return one.shape == other.shape and bool(
        np.allclose(one, other, rtol=1e-3, atol=1e-5 * scale + 1e-12, equal_nan=True)
    )


def _trace_outputs(
    torch: Any, model: Any, names: Sequence[str]
) -> Callable[[int, Sequence[np.ndarray]], Arrays]:
    """Return a function that computes PyTorch's outputs alone, by ONNX name."""
    predict = make_predict(torch, copy_model(torch, model))

    def reference(sample: int, values: Sequence[np.ndarray]) -> Arrays:
        return dict(zip(names, predict([np.array(value) for value in values])))

    return reference


STAGE = Stage(
    name="trace-torch",
    summary=__doc__ or "",
    consumes=torch_stage.STAGE.consumes,
    produces="trace-onnx.json",
    packages=torch_stage.STAGE.packages,
    convert=convert,
    check=lambda job: None,
    options=torch_stage.STAGE.options,
)

if __name__ == "__main__":
    run_as_program(STAGE)
