"""The trace of the stage `tflite`: the frozen graph's values against the TensorFlow Lite model's.

TensorFlow 2.4, which made the file, runs the graph here as well, so its values need no detour.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Sequence, Set

import numpy as np

from stages.convert import graph_to_tflite
from stages.frameworks.tensorflow import import_tensorflow
from stages.frameworks.tflite_runtime import find_indices
from stages.kit.contract import Job, Signature, Stage, run_as_program, write_json
from stages.kit.layers import FUSED
from stages.kit.trace_samples import open_trace_inputs
from stages.kit.tracing import Arrays, Comparison, Pair, Piece, compare_tensors, read_signature

_LONGEST = 4
# Channels first to channels last, and vice versa.
_LAYOUTS = {3: [(0, 2, 1)], 4: [(0, 2, 3, 1), (0, 3, 1, 2)]}


def convert(job: Job) -> Signature:
    """Compare `model.tflite` with `model.pb`; the artifact has only the number of matches."""
    from stages.frameworks.tflite_model import TfliteModel
    from stages.trace.frozen_graph import FrozenGraph

    tf = import_tensorflow()
    signature = read_signature(job)
    samples = open_trace_inputs(job, signature.inputs)
    graph_def = tf.compat.v1.GraphDef.FromString(
        (job.volume / graph_to_tflite.STAGE.consumes).read_bytes()
    )
    source = FrozenGraph(graph_def, [tensor.node for tensor in signature.inputs])
    path = job.volume / graph_to_tflite.STAGE.produces
    interpreter = tf.lite.Interpreter(model_path=str(path))
    inputs = find_indices(interpreter.get_input_details(), signature.inputs, may_be_dropped=True)
    outputs = find_indices(interpreter.get_output_details(), signature.outputs)
    artifact = TfliteModel(path.read_bytes(), inputs)
    pairs = match_tensors(source.graph, source.order(), artifact)
    ends = {artifact.names[index]: t.node for index, t in zip(outputs, signature.outputs)}
    pairs = [p for p in pairs if p.name not in ends and p.reference not in ends.values()]
    pairs += [Pair(name, node) for name, node in ends.items()]
    pairs = _drop_relaid(artifact, source, pairs, [array[0] for array in samples])
    names = sorted({pair.reference for pair in pairs})
    run = source.plain(names)
    modules = _read_modules(job)
    cuts = {pair.reference for pair in pairs}

    def reference(sample: int, values: Sequence[np.ndarray]) -> Arrays:
        return dict(zip(names, run(values)))

    def find_modules(pair: Pair, piece: Piece) -> List[str]:
        made = source.piece(pair.reference, cuts)
        return [
            module
            for tensor in made.tensors
            for module in modules.get(tensor.partition(":")[0], [])
        ]

    comparison = Comparison(artifact, pairs, reference, find_modules)
    with job.phase("trace"):
        compare_tensors(job, samples, comparison)
    source.close()
    write_json(job.output, {"matched": len(pairs)})
    return signature


def match_tensors(graph: Any, present: Sequence[str], artifact: Any) -> List[Pair]:
    """Match the tensors that are certainly the same, by the converter's names and by shape.

    The converter names the result of fused operators after all of them, joined by `;`, mostly with
    the last one first; some of the names belong to other layers, since equal constants are shared.
    A name that is taken gets digits appended. So the first name counts, or the last of the others
    that is fused after it, and a name that may be another one plus a digit is left out.
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
            # The converter moves a Transpose past other operators without renaming it.
            continue
        if len(operation.outputs) > 1:
            # Names do not tell for certain which output is meant; positions do.
            place, count = artifact.place(index)
            if count != len(operation.outputs):
                continue
            node = operation.outputs[place].name
        else:
            node = _find_last(graph, node, set(others))
        found = graph.get_tensor_by_name(node)
        if node in taken or node not in known or found.dtype.name != artifact.dtype(index):
            continue
        if not _has_same_shape(found, tensor) or _is_ambiguous(graph, first, tensor):
            continue
        taken[node] = Pair(name, node)
    return list(taken.values())


def _drop_relaid(
    artifact: Any, source: Any, pairs: Sequence[Pair], sample: Sequence[np.ndarray]
) -> List[Pair]:
    """Drop the pairs whose tensor the converter has laid out in another order of axes.

    Shapes do not show that if sizes are equal, so the values of one plain run have to.
    """
    alike = [pair for pair in pairs if _list_turns(source.graph.get_tensor_by_name(pair.reference))]
    if not alike:
        return list(pairs)
    try:
        found = artifact.plain([pair.name for pair in alike])(sample)
    except Exception:  # the comparison reports it in the interpreter's own words
        return list(pairs)
    expected = source.plain([pair.reference for pair in alike])(sample)
    relaid = set()
    for pair, value, right in zip(alike, found, expected):
        turns = _list_turns(source.graph.get_tensor_by_name(pair.reference))
        if value.shape == right.shape and right.dtype.kind == "f":
            direct = np.abs(value - right).max(initial=0)
            turned = min(np.abs(value - right.transpose(axes)).max(initial=0) for axes in turns)
            if turned < 0.1 * direct:
                relaid.add(pair.name)
    return [pair for pair in pairs if pair.name not in relaid]


def _list_turns(tensor: Any) -> List[Any]:
    """Return the changes of layout that leave the tensor's shape as it is."""
    if tensor.shape.rank is None or None in tensor.shape.as_list():
        return []
    shape = tensor.shape.as_list()
    return [
        axes
        for axes in _LAYOUTS.get(len(shape), ())
        if [shape[axis] for axis in axes] == shape and max(shape) > 1
    ]


def _find_last(graph: Any, node: str, others: Set[str]) -> str:
    """Return the tensor at the end of the chain of named operators fused after this one."""
    found, reach = node, 0
    pending = [(graph.get_tensor_by_name(node), 1)]
    while pending:
        tensor, depth = pending.pop()
        for op in tensor.consumers():
            # An operator in between may be missing from the names.
            if op.type in FUSED and depth <= _LONGEST:
                pending.append((op.outputs[0], depth + 1))
                if op.name in others and depth > reach:
                    found, reach = op.outputs[0].name, depth
    return found


def _has_same_shape(found: Any, tensor: Any) -> bool:
    if found.shape.rank is None:
        return True
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    return len(shape) == found.shape.rank and all(
        size is None or size == other for size, other in zip(found.shape.as_list(), shape)
    )


def _is_ambiguous(graph: Any, name: str, tensor: Any) -> bool:
    """Tell whether the name may be a shorter one with a digit appended to make it unique."""
    match = re.fullmatch(r"(.*?[^\d])?(\d+)", name)
    if match is None:
        return False
    for digits in range(1, len(match.group(2)) + 1):
        try:
            other = graph.get_tensor_by_name(f"{name[:-digits]}:0")
        except (KeyError, ValueError):
            continue
        if name[-digits:] in ("1", "2", "3") and _has_same_shape(other, tensor):
            return True
    return False


def _read_modules(job: Job) -> Dict[str, List[str]]:
    """Read the modules of each operation of the graph, as the previous trace reported them."""
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
