"""The trace of the stage `tflite`: the frozen graph's values against the TensorFlow Lite model's.

TensorFlow 2.4, which made the file, runs the graph here as well, so its values need no detour.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Sequence, Set

import numpy as np

from stages.convert import graph_to_tflite
from stages.kit.contract import Job, Signature, Stage, run_as_program, write_json
from stages.kit.tensorflow import import_tensorflow
from stages.kit.trace_samples import trace_inputs
from stages.kit.tracing import Arrays, Comparison, Pair, Piece, compare_tensors, signature_of

# What the converter makes a part of the operator before it.
_FUSED = ("Add", "AddV2", "BiasAdd", "Maximum", "Minimum", "Mul", "Relu", "Relu6", "Sub")
_LONGEST = 4
# Channels first to channels last, and the other way round.
_LAYOUTS = {3: [(0, 2, 1)], 4: [(0, 2, 3, 1), (0, 3, 1, 2)]}


def convert(job: Job) -> Signature:
    """Compare `model.tflite` with `model.pb`; the artifact is empty but for its name."""
    from stages.trace.frozen_graph import FrozenGraph
    from stages.trace.tflite_model import TfliteModel

    tf = import_tensorflow()
    signature = signature_of(job)
    samples = trace_inputs(job, signature.inputs)
    graph_def = tf.compat.v1.GraphDef.FromString(
        (job.volume / graph_to_tflite.STAGE.consumes).read_bytes()
    )
    source = FrozenGraph(graph_def, [tensor.node for tensor in signature.inputs])
    path = job.volume / graph_to_tflite.STAGE.produces
    interpreter = tf.lite.Interpreter(model_path=str(path))
    inputs = graph_to_tflite._indices(
        interpreter.get_input_details(), signature.inputs, may_be_dropped=True
    )
    outputs = graph_to_tflite._indices(interpreter.get_output_details(), signature.outputs)
    artifact = TfliteModel(path.read_bytes(), inputs)
    pairs = matched(source.graph, source.order(), artifact)
    ends = {artifact.names[index]: t.node for index, t in zip(outputs, signature.outputs)}
    pairs = [p for p in pairs if p.name not in ends and p.reference not in ends.values()]
    pairs += [Pair(name, node) for name, node in ends.items()]
    pairs = _without_relaid(artifact, source, pairs, [array[0] for array in samples])
    names = sorted({pair.reference for pair in pairs})
    run = source.plain(names)
    modules = _modules(job)
    cuts = {pair.reference for pair in pairs}

    def reference(sample: int, values: Sequence[np.ndarray]) -> Arrays:
        return dict(zip(names, run(values)))

    def modules_of(pair: Pair, piece: Piece) -> List[str]:
        made = source.piece(pair.reference, cuts)
        return [
            module
            for tensor in made.tensors
            for module in modules.get(tensor.partition(":")[0], [])
        ]

    comparison = Comparison(artifact, pairs, reference, modules_of)
    with job.phase("trace"):
        compare_tensors(job, samples, comparison)
    source.close()
    write_json(job.output, {"matched": len(pairs)})
    return signature


def matched(graph: Any, present: Sequence[str], artifact: Any) -> List[Pair]:
    """Tensors that are certainly the same: by the converter's names, and by shape.

    The converter names the result of operators that it fuses after all of them, with `;` between,
    mostly the last one first; some of the names belong to other layers, since equal constants are
    shared. A name that is taken gets digits at its end. So the first name counts, or what follows
    upon it among the others, and one that could be another's with a digit is left out.
    """
    known: Set[str] = set(present)
    taken: Dict[str, Pair] = {}
    for name in artifact.order():
        index = artifact.indices[name]
        tensor = artifact.graph.tensors[index]
        first, *others = tensor.name.decode(errors="replace").split(";")
        node = first if ":" in first else f"{first}:0"
        if node not in known:
            continue
        operation = graph.get_tensor_by_name(node).op
        if operation.type == "Transpose":
            # The converter moves it over other operators, and it keeps its name.
            continue
        if len(operation.outputs) > 1:
            # Which of them a name is for is not certain; their places are.
            place, count = artifact.place(index)
            if count != len(operation.outputs):
                continue
            node = operation.outputs[place].name
        else:
            node = _last(graph, node, set(others))
        found = graph.get_tensor_by_name(node)
        if node in taken or node not in known or found.dtype.name != artifact.dtype(index):
            continue
        if not _same_shape(found, tensor) or _ambiguous(graph, first, tensor):
            continue
        taken[node] = Pair(name, node)
    return list(taken.values())


def _without_relaid(
    artifact: Any, source: Any, pairs: Sequence[Pair], sample: Sequence[np.ndarray]
) -> List[Pair]:
    """The pairs without those whose tensor the converter lays out in another order of axes.

    Shapes show that, but for sizes that are alike; then values have to, those of one plain run.
    """
    alike = [pair for pair in pairs if _turns(source.graph.get_tensor_by_name(pair.reference))]
    if not alike:
        return list(pairs)
    try:
        found = artifact.plain([pair.name for pair in alike])(sample)
    except Exception:  # the comparison says so, with the interpreter's words
        return list(pairs)
    expected = source.plain([pair.reference for pair in alike])(sample)
    relaid = set()
    for pair, value, right in zip(alike, found, expected):
        turns = _turns(source.graph.get_tensor_by_name(pair.reference))
        if value.shape == right.shape and right.dtype.kind == "f":
            direct = np.abs(value - right).max(initial=0)
            turned = min(np.abs(value - right.transpose(axes)).max(initial=0) for axes in turns)
            if turned < 0.1 * direct:
                relaid.add(pair.name)
    return [pair for pair in pairs if pair.name not in relaid]


def _turns(tensor: Any) -> List[Any]:
    """The changes of layout that leave the tensor's shape as it is."""
    if tensor.shape.rank is None or None in tensor.shape.as_list():
        return []
    shape = tensor.shape.as_list()
    return [
        axes
        for axes in _LAYOUTS.get(len(shape), ())
        if [shape[axis] for axis in axes] == shape and max(shape) > 1
    ]


def _last(graph: Any, node: str, others: Set[str]) -> str:
    """The tensor at the end of the named operators that are fused after this one."""
    found, reach = node, 0
    pending = [(graph.get_tensor_by_name(node), 1)]
    while pending:
        tensor, depth = pending.pop()
        for op in tensor.consumers():
            # One between may have lost its name.
            if op.type in _FUSED and depth <= _LONGEST:
                pending.append((op.outputs[0], depth + 1))
                if op.name in others and depth > reach:
                    found, reach = op.outputs[0].name, depth
    return found


def _same_shape(found: Any, tensor: Any) -> bool:
    if found.shape.rank is None:
        return True
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    return len(shape) == found.shape.rank and all(
        size is None or size == other for size, other in zip(found.shape.as_list(), shape)
    )


def _ambiguous(graph: Any, name: str, tensor: Any) -> bool:
    """Whether the name may be a shorter one's with a digit that made it unique."""
    match = re.fullmatch(r"(.*?[^\d])?(\d+)", name)
    if match is None:
        return False
    for digits in range(1, len(match.group(2)) + 1):
        try:
            other = graph.get_tensor_by_name(f"{name[:-digits]}:0")
        except (KeyError, ValueError):
            continue
        if name[-digits:] in ("1", "2", "3") and _same_shape(other, tensor):
            return True
    return False


def _modules(job: Job) -> Dict[str, List[str]]:
    """The modules of each operation of the graph, as the stage before tells them."""
    try:
        found = json.loads((job.volume / "trace-graph.json").read_text())["operations"]
    except (OSError, ValueError, KeyError):
        return {}
    return dict(found)


STAGE = Stage(
    name="trace-tflite",
    summary=__doc__ or "",
    consumes=graph_to_tflite.STAGE.produces,
    produces="trace-graph_to_tflite.json",
    packages=graph_to_tflite.STAGE.packages,
    convert=convert,
    check=lambda job: None,
)

if __name__ == "__main__":
    run_as_program(STAGE)
