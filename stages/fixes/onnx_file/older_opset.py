"""The fix `older-opset`: an ONNX file of a newer operator set is rewritten for operator set 12.

Node by node, by a rule for each operator whose meaning or form has changed since, or that is new.
onnx 1.7.0 reads such files, as protobuf keeps what it does not know, but has no schema for them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, List, Optional

import onnx

from stages.fixes.onnx_file.known import Known
from stages.fixes.onnx_file.refusal import Refused, explain_operator, list_graphs, make_refusal
from stages.fixes.onnx_file.rules import RULES
from stages.fixes.onnx_file.rules.rewriter import Rewriter

# What onnx 1.7.0, ONNX Runtime 1.4 and onnx-tf 1.6 read, and the newest whose changes are known.
TARGET = 12
NEWEST = 23


def get_opset(model: Any) -> int:
    """Return the version of ONNX's own operators that a model is of; 0 if it does not say."""
    own = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    return int(max(own, default=0))


def lower(model: Any) -> Counter:
    """Rewrite a model of a newer operator set; return how often which operators were.

    Raises `InputError` about the first node that cannot be.
    """
    version = get_opset(model)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = TARGET
    rewritten: Counter = Counter()
    names = _collect_names(model.graph)
    _lower_graph(model, model.graph, version, names, rewritten, None)
    return rewritten


def _lower_graph(
    model: Any,
    graph: Any,
    version: int,
    names: set,
    rewritten: Counter,
    outer: Optional[Known],
) -> None:
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    known = Known(model, graph, outer)
    for node in nodes:
        for attribute in node.attribute:
            for inner in list_graphs(attribute):
                _lower_graph(model, inner, version, names, rewritten, known)
        for new in _lower_node(node, version, known, names, rewritten):
            graph.node.append(new)
            known.add_node(graph.node[-1])


def _lower_node(node: Any, version: int, known: Known, names: set, rewritten: Counter) -> List[Any]:
    why, remedy = explain_operator(node.op_type)
    if why and not onnx.defs.has(node.op_type):
        raise make_refusal(node, why, remedy)
    since, rule = RULES.get(node.op_type, (0, None))
    if rule is None or version < since:
        return [node]
    before = node.SerializeToString()
    rewriter = Rewriter(node, version, known, names)
    try:
        rule(rewriter)
    except Refused as error:
        raise make_refusal(node, error.why, error.remedy, error.kind) from None
    nodes = rewriter.finish()
    if len(nodes) != 1 or nodes[0].SerializeToString() != before:
        rewritten[node.op_type] += 1
    return nodes


def _collect_names(graph: Any) -> set:
    found = {value.name for value in [*graph.input, *graph.initializer]}
    for node in graph.node:
        found.update(node.output)
        for attribute in node.attribute:
            for inner in list_graphs(attribute):
                found |= _collect_names(inner)
    return found
