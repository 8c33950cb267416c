"""The trace of the stage `onnx-tf`: the ONNX model's values against the frozen graph's."""

from __future__ import annotations

import json
from typing import Dict, List, Sequence

from stages.convert import onnx_to_graph
from stages.frameworks.tensorflow import import_tensorflow
from stages.kit.contract import Job, Signature, Stage, StageError, run_as_program, write_json
from stages.kit.layers import read_layers, read_places
from stages.kit.trace_files import open_kept
from stages.kit.trace_samples import open_trace_inputs
from stages.kit.tracing import Comparison, Pair, Piece, compare_tensors, read_signature


def convert(job: Job) -> Signature:
    """Compare `model.pb` with `model.onnx`; the artifact has the layers of each operation."""
    import onnx

    from stages.trace.frozen_graph import FrozenGraph
    from stages.trace.onnx_model import OnnxModel

    tf = import_tensorflow()
    signature = read_signature(job)
    samples = open_trace_inputs(job, signature.inputs)
    kept = json.loads(job.input.read_text())
    if not kept["tensors"]:
        raise StageError("The ONNX model as a whole does not run, so it has no values to compare.")
    samples = [array[: kept["samples"]] for array in samples]
    values = open_kept(job.volume, kept)
    graph_def = tf.compat.v1.GraphDef.FromString(
        (job.volume / onnx_to_graph.STAGE.produces).read_bytes()
    )
    artifact = FrozenGraph(graph_def, [tensor.node for tensor in signature.inputs])
    source = OnnxModel(
        onnx.load(str(job.volume / onnx_to_graph.STAGE.consumes)),
        [t.name for t in signature.inputs],
    )
    pairs = [
        pair
        for pair in _list_pairs(job, signature, artifact.order())
        if pair.reference in values and values[pair.reference].dtype == artifact.dtype(pair.name)
    ]
    names = {pair.reference for pair in pairs}
    layers = read_layers(job.volume)
    operations: Dict[str, List[str]] = {}

    def find_modules(pair: Pair, piece: Piece) -> List[str]:
        made = source.piece(pair.reference, names)
        found = [layers.get(name, "") for name in made.tensors]
        for tensor in piece.tensors:
            operations.setdefault(tensor.partition(":")[0], [m for m in found if m])
        return found

    comparison = Comparison(
        artifact,
        pairs,
        lambda sample, inputs: {name: values[name][sample] for name in names},
        find_modules,
    )
    with job.phase("trace"):
        compare_tensors(job, samples, comparison)
    artifact.close()
    write_json(job.output, {"operations": operations})
    return signature


def _list_pairs(job: Job, signature: Signature, present: Sequence[str]) -> List[Pair]:
    """Pair ONNX tensors with the graph's; each tensor of the graph stands for only one of them."""
    places = read_places(job.volume)
    for tensor in signature.outputs:
        places[tensor.name] = {"node": tensor.node, "axes": list(tensor.axes)}
    taken: Dict[str, Pair] = {}
    for name, place in places.items():
        axes, channels = (tuple(place.get(key, ())) or None for key in ("axes", "channels"))
        taken.setdefault(place["node"], Pair(place["node"], name, axes, channels))
    known = set(present)
    return [pair for pair in taken.values() if pair.name in known]


STAGE = Stage(
    name="trace-onnx-tf",
    summary=__doc__ or "",
    consumes="trace-onnx.json",
    produces="trace-graph.json",
    packages=onnx_to_graph.STAGE.packages,
    convert=convert,
    check=lambda job: None,
)

if __name__ == "__main__":
    run_as_program(STAGE)
