"""If and Loop without functions: a constant branch, or both and a SELECT; unrolled loops."""

from __future__ import annotations

from typing import Any, List, Sequence

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles
from stages.fixes.onnx_tf.handlers.elementwise import broadcast
from stages.fixes.onnx_tf.layout import Value, reshape
from stages.fixes.onnx_tf.onnx_graph import Graph

_MOST_ITERATIONS = 256


def _run(emitter: Emitter, proto: Any, scope: str, arguments: Sequence[Value] = ()) -> List[Value]:
    """Emit a subgraph and return its outputs; its names are gone afterwards."""
    outside = dict(emitter.values)
    graph = Graph(proto)
    for name, value in zip((v.name for v in proto.input), arguments):
        emitter.values[name] = value
    try:
        emitter.run(graph, scope)
        return [emitter.values[name] for name in graph.outputs]
    finally:
        emitter.values = outside


@handles("control-flow", "If")
def if_handler(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit one branch if the condition is constant, else both: they have no side effects."""
    condition = inputs[0]
    assert condition is not None
    if condition.const is not None:
        name = "then_branch" if condition.const.all() else "else_branch"
        return _run(emitter, node.get(name), "")
    then = _run(emitter, node.get("then_branch"), "then_")
    other = _run(emitter, node.get("else_branch"), "else_")
    if any(a.shape != b.shape for a, b in zip(then, other)):
        raise Decline
    results = []
    for a, b in zip(then, other):
        flag = reshape(condition, (1,) * a.rank)
        results.append(broadcast(emitter, tf.where, flag, a, b))
    return results


@handles("control-flow", "Loop")
def loop(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    limit, condition, state = inputs[0], inputs[1], list(inputs[2:])
    if limit is None or limit.const is None or int(limit.const) > _MOST_ITERATIONS:
        raise Decline
    if condition is not None and condition.const is None:
        raise Decline
    going = condition is None or bool(condition.const.all())
    scans: List[List[Value]] = [[] for _ in range(len(node.outputs) - len(state))]
    for iteration in range(int(limit.const)):
        if not going:
            break
        arguments = [
            Value.from_const(np.array(iteration)),
            Value.from_const(np.array(True)),
            *state,
        ]
        outputs = _run(emitter, node.get("body"), f"step{iteration}_", arguments)
        if outputs[0].const is None:
            raise Decline
        going = bool(outputs[0].const.all())
        state = outputs[1 : 1 + len(state)]
        for scan, value in zip(scans, outputs[1 + len(state) :]):
            scan.append(value)
    stacked = []
    for scan in scans:
        if not scan:
            raise Decline
        stacked.append(emitter.wrap(tf.stack([value.tensor() for value in scan])))
    return [*state, *stacked]
