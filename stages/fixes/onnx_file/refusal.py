"""What is raised about a node that cannot be converted, and which operators never can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type

from stages.kit.contract import InputError

_TABLE: Dict[str, Any] = json.loads((Path(__file__).parent / "operators.json").read_text("utf-8"))
# The operators of operator set 12 that are converted, and the newer ones that are rewritten.
CONVERTED = frozenset(_TABLE["converted"])
REWRITTEN = frozenset(_TABLE["rewritten"])


class Refused(Exception):
    """Raised about a node by a rule that has nothing of the same meaning to put in its place.

    `kind` is what it becomes for the user.
    """

    def __init__(self, why: str, remedy: str = "", kind: Type[InputError] = InputError) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy
        self.kind = kind


class SizesNeeded(InputError):
    """A refusal that fixed sizes of the model's inputs may settle."""


def make_refusal(
    node: Any, why: str, remedy: str = "", kind: Type[InputError] = InputError
) -> InputError:
    """Return the error that names a node, its operator, why it is refused and what to change."""
    name = node.name or (node.output[0] if node.output else node.op_type)
    return kind(
        f"The node '{name}' (ONNX operator {node.op_type}) cannot be converted: {why}",
        remedy or f"Replace {node.op_type} in the model, and export it again.",
    )


def explain_operator(op_type: str) -> Tuple[str, str]:
    """Return why an operator is never converted, and a remedy; empty texts if it is."""
    if op_type in CONVERTED or op_type in REWRITTEN:
        return "", ""
    for reason in _TABLE["refused"]:
        if op_type in reason["operators"]:
            return reason["why"], reason["remedy"]
    return _TABLE["unknown"]["why"], _TABLE["unknown"]["remedy"]


def refuse_operators(graph: Any) -> None:
    """Raise `InputError` about the first node whose operator is never converted."""
    for node in walk(graph):
        why, remedy = explain_operator(node.op_type)
        if why:
            raise make_refusal(node, why, remedy)


def walk(graph: Any) -> List[Any]:
    """Return the nodes of a graph and of its subgraphs, in their order."""
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            for inner in list_graphs(attribute):
                found += walk(inner)
    return found


def list_graphs(attribute: Any) -> List[Any]:
    """Return the graphs that an attribute holds."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
