"""Reading and making values of a traced graph."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence

import torch


def read_integers(value: Any) -> Optional[List[int]]:
    """Read an integer, or a list of them, that the graph holds as constants; None if it is none."""
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        items = [item.toIValue() for item in node.inputs()]
    else:
        found = value.toIValue()
        items = list(found) if isinstance(found, (list, tuple)) else [found]
    return items if all(isinstance(item, int) for item in items) else None


def get_shape(value: Any) -> Optional[List[int]]:
    """Return the sizes of a tensor in the graph; None where they are unknown."""
    kind = value.type()
    if kind.kind() != "TensorType" or kind.sizes() is None:
        return None
    return [int(size) for size in kind.sizes()]


def replace_uses(old: Any, new: Any, nodes: Sequence[Any], graph: Any) -> None:
    """Let these nodes, and the graph's outputs, read another value."""
    number = old.unique()
    for node in [*nodes, graph.return_node()]:
        for index, read in enumerate(list(node.inputs())):
            if read.unique() == number:
                node.replaceInput(index, new)


class Writer:
    """Inserts nodes one after another, behind a given node."""

    def __init__(self, graph: Any, after: Any) -> None:
        self.graph = graph
        self.last = after

    def insert(self, node: Any) -> Any:
        node.insertAfter(self.last)
        self.last = node
        return node

    def make_integer(self, number: int) -> Any:
        node = self.graph.create("prim::Constant", [], 1)
        node.i_("value", int(number))
        node.output().setType(torch._C.IntType.get())
        return self.insert(node).output()

    def make_integers(self, numbers: Sequence[int]) -> Any:
        items = [self.make_integer(number) for number in numbers]
        node = self.graph.create("prim::ListConstruct", items, 1)
        node.output().setType(torch._C.ListType.ofInts())
        return self.insert(node).output()

    def make_flag(self, flag: bool) -> Any:
        node = self.graph.create("prim::Constant", [], 1)
        node.i_("value", int(flag))
        node.output().setType(torch._C.BoolType.get())
        return self.insert(node).output()

    def make_none(self) -> Any:
        node = self.graph.create("prim::Constant", [], 1)
        node.output().setType(torch._C.NoneType.get())
        return self.insert(node).output()

    def make_tensor(self, tensor: Any) -> Any:
        node = self.graph.create("prim::Constant", [], 1)
        node.t_("value", tensor)
        node.output().inferTypeFrom(tensor)
        return self.insert(node).output()

    def make_list(self, items: Sequence[Any]) -> Any:
        node = self.graph.create("prim::ListConstruct", list(items), 1)
        node.output().setType(torch._C.ListType(torch._C.TensorType.get()))
        return self.insert(node).output()

    def call(self, kind: str, inputs: Sequence[Any], like: Any) -> Any:
        """Insert an operator; its output has the type of `like`."""
        node = self.graph.create(kind, list(inputs), 1)
        node.output().setType(like.type())
        return self.insert(node).output()

    def clone(self, node: Any, source: Any) -> Any:
        """Insert a copy of a node with another first input."""
        first = node.inputsAt(0).unique()
        copy = self.graph.createClone(
            node, lambda value: source if value.unique() == first else value
        )
        return self.insert(copy).output()
