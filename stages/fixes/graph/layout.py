"""Frozen graphs: channels last from end to end, whatever layout the graph was made for.

Each tensor keeps the value that the graph gives it ('plain', channels first where operators say
NCHW) and, where somebody has computed it, a channels-last twin. Operators that can work on twins;
the plain value of one is made, by a transpose, only for an operator that must have it. A transpose
in the graph from one layout to the other is no operator at all: it names the twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from stages.fixes.graph.folding import (
    Shape,
    constant_node,
    constants,
    data_inputs,
    in_order,
    key,
    shapes_and_types,
    short,
)
from stages.kit.tensorflow import import_tensorflow

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
TWIN_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}  # of a plain tensor, in its twin

REDUCTIONS = ("All", "Any", "Max", "Mean", "Min", "Prod", "Sum")
# Which input of an operator with a data format has that format.
_FORMATTED = {
    "AvgPool": 0, "BiasAdd": 0, "Conv2D": 0, "Conv2DBackpropInput": 2, "DepthToSpace": 0,
    "DepthwiseConv2dNative": 0, "FusedBatchNorm": 0, "FusedBatchNormV2": 0, "FusedBatchNormV3": 0,
    "MaxPool": 0, "SpaceToDepth": 0,
}  # fmt: skip
# Those after which a tensor is no image any more.
_ENDS = ("Reshape", "Squeeze", *REDUCTIONS)
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


@dataclass
class Value:
    """A tensor of the given graph: its shape there, and what the new graph has of it."""

    shape: Shape
    kind: int  # its type's number
    plain: Optional[str] = None
    twin: Optional[str] = None
    const: Optional[np.ndarray] = None
    prefers_twin: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether operators should work on the twin: no other exists, or it is wanted anyway."""
        return self.plain is None or self.prefers_twin

    @property
    def is_image(self) -> bool:
        return self.shape is not None and len(self.shape) == 4 and None not in self.shape

    @property
    def is_flat(self) -> bool:
        """Whether both layouts have the same elements in the same order."""
        return self.is_image and (self.shape[1] == 1 or self.shape[2:] == (1, 1))  # type: ignore


# A handler emits a node's twin and says True, or says False: then the node is copied.
Handler = Callable[["Rewriting", Any, Sequence[Value]], bool]


class Rewriting:
    """One pass over a graph, in the order of its operators."""

    def __init__(self, graph_def: Any, handlers: Mapping[str, Handler], io: bool = False) -> None:
        self.handlers = handlers
        self.io = io
        self.turned_io: Set[str] = set()
        self.tf = import_tensorflow()
        self.given = in_order(graph_def)
        self.shapes, self.types = shapes_and_types(graph_def)
        self.arrays = constants(graph_def)
        self.nodes: List[Any] = []
        self.values: Dict[str, Value] = {}
        self._by_name = {node.name: node for node in self.given}
        self._readers: Dict[str, List[Any]] = {}
        self._taken = {node.name for node in graph_def.node}
        self._turns: List[Tuple[Any, Any]] = []  # to channels last: the first and last operator

    def run(self) -> None:
        for node in self.given:
            values = [self.values[key(name)] for name in data_inputs(node)]
            if _is_channels_first(node):
                self._formatted(node, values)
                continue
            handler = self.handlers.get(node.op)
            if handler is None or not handler(self, node, values):
                self._copied(node, values)

    def output(self, name: str) -> str:
        """Make an output's plain value, under the name that it has in the given graph if it can."""
        value = self.values[name]
        if self.io and value.plain is None:
            self.turned_io.add(name)
        tensor = self.twin(value) if name in self.turned_io else self.plain(value)
        if key(tensor) == name:
            return name
        first = name.endswith(":0")
        node = self.tf.compat.v1.NodeDef(
            name=short(name) if first else self._free(name.replace(":", "_")), op="Identity"
        )
        node.input.append(short(tensor))
        node.attr["T"].type = value.kind
        self.nodes.append(node)
        return f"{node.name}:0"

    def direct_inputs(self) -> None:
        """One Transpose for Reshape, Transpose, Reshape at an input where that is safe.

        TensorFlow 2.4's layout pass moves a transpose to channels last over its readers. It stays
        valid where a convolution reads it, which is never moved, or a Pad before one alone.
        """
        nodes = {node.name: node for node in self.nodes}
        readers: Dict[str, List[Any]] = {}
        for node in self.nodes:
            for name in data_inputs(node):
                readers.setdefault(name, []).append(node)
        for first, last in self._turns:
            source = nodes.get(first.input[0])
            if source is None or source.op != "Placeholder":
                continue
            reading = readers.get(last.name, [])
            if len(reading) == 1 and reading[0].op == "Pad":
                reading = readers.get(reading[0].name, [])
            if all(reader.op in _CONVOLUTIONS for reader in reading):
                last.op = "Transpose"
                last.input[0] = source.name
                permutation = constant_node(last.input[1], np.array(TO_LAST, np.int32))
                nodes[last.input[1]].CopyFrom(permutation)
                last.attr["Tperm"].CopyFrom(last.attr["Tshape"])
                del last.attr["Tshape"]

    # What the handlers need.

    def plain(self, value: Value) -> str:
        """The tensor as the given graph has it."""
        if value.plain is None:
            assert value.twin is not None
            value.plain = self._turned(value.twin, value, TO_FIRST)
            value.prefers_twin = True
        return value.plain

    def twin(self, value: Value) -> str:
        """The tensor with channels last."""
        if value.twin is None:
            assert value.plain is not None
            if value.const is not None:
                array = value.const.transpose(TO_LAST)
                value.twin = self.constant(short(value.plain), array)
            else:
                value.twin = self._turned(value.plain, value, TO_LAST)
        return value.twin

    def constant(self, like: str, array: np.ndarray) -> str:
        node = constant_node(self._free(like.replace(":", "_")), np.array(array, order="C"))
        self.nodes.append(node)
        return str(node.name)

    def emit(self, node: Any, inputs: Sequence[str], twin: bool) -> Any:
        """A copy of a node with other inputs; `twin` if its results have channels last."""
        new = self.tf.compat.v1.NodeDef()
        new.CopyFrom(node)
        if twin:
            new.name = self._free(node.name)
        del new.input[:]
        new.input.extend(short(name) for name in inputs)
        if "_output_shapes" in new.attr:
            del new.attr["_output_shapes"]
        self.nodes.append(new)
        for index, (name, shape) in enumerate(self._results(node)):
            made = f"{new.name}:{index}"
            is_image = twin and shape is not None and len(shape) == 4
            self.define(name, **{"twin" if is_image else "plain": made})
        return new

    def define(self, name: str, plain: Optional[str] = None, twin: Optional[str] = None) -> Value:
        """What the new graph has of a tensor of the given one."""
        self.values[name] = Value(self.shapes[name], self.types[name], plain, twin)
        return self.values[name]

    def reshape(self, name: str, tensor: str, shape: Sequence[Optional[int]], kind: int) -> Any:
        node = self.tf.compat.v1.NodeDef(name=self._free(name), op="Reshape")
        amounts = self.constant(f"{name}/shape", np.array(shape, np.int32))
        node.input.extend([short(tensor), amounts])
        node.attr["T"].type = kind
        node.attr["Tshape"].type = self.tf.int32.as_datatype_enum
        self.nodes.append(node)
        return node

    def producer(self, name: str) -> Any:
        """The given graph's operator that makes a tensor."""
        return self._by_name[name.partition(":")[0]]

    def _copied(self, node: Any, values: Sequence[Value]) -> None:
        new = self.emit(node, [self.plain(value) for value in values], twin=False)
        if node.op == "Placeholder":
            value = self.values[f"{node.name}:0"]
            value.prefers_twin = value.is_image and self._feeds_images(node)
            if self.io and value.prefers_twin:
                value.plain, value.twin = None, value.plain
                sizes = new.attr["shape"].shape.dim
                for size, axis in zip(sizes, TO_LAST):
                    size.size = int(value.shape[axis] or 0)  # type: ignore[index]
                self.turned_io.add(f"{node.name}:0")
        if node.op == "Const":
            self.values[f"{node.name}:0"].const = self.arrays[f"{node.name}:0"]

    def _feeds_images(self, source: Any) -> bool:
        """Whether an operator on images reads this one, through operators that do not care."""
        if not self._readers:
            for node in self.given:
                for name in data_inputs(node):
                    self._readers.setdefault(name.partition(":")[0], []).append(node)
        seen, pending = {source.name}, [source]
        while pending:
            for node in self._readers.get(pending.pop().name, []):
                if _is_channels_first(node):
                    return True
                if node.op == "Transpose":
                    order = self.arrays.get(key(node.input[1]))
                    if order is not None and tuple(order) == TO_LAST:
                        return True
                elif node.op in self.handlers and node.op not in _ENDS and node.name not in seen:
                    seen.add(node.name)
                    pending.append(node)
        return False

    def _formatted(self, node: Any, values: Sequence[Value]) -> None:
        """An operator that says NCHW: the same with channels last, on twins."""
        image = _FORMATTED[node.op]
        inputs = [
            self.twin(value) if index == image else self.plain(value)
            for index, value in enumerate(values)
        ]
        if node.op == "Conv2DBackpropInput":
            sizes = values[0].const
            assert sizes is not None
            inputs[0] = self.constant(f"{node.name}/sizes", sizes[list(TO_LAST)])
        new = self.emit(node, inputs, twin=True)
        new.attr["data_format"].s = b"NHWC"
        for name in ("strides", "ksize", "dilations"):
            if name in new.attr:
                sizes = list(new.attr[name].list.i)
                new.attr[name].list.i[:] = [sizes[axis] for axis in TO_LAST]
        if "explicit_paddings" in new.attr and new.attr["explicit_paddings"].list.i:
            paddings = list(new.attr["explicit_paddings"].list.i)
            pairs = [paddings[2 * axis : 2 * axis + 2] for axis in TO_LAST]
            new.attr["explicit_paddings"].list.i[:] = [n for pair in pairs for n in pair]

    def _turned(self, tensor: str, value: Value, order: Tuple[int, ...]) -> str:
        """A tensor in the other layout.

        As Reshape, Transpose, Reshape of merged axes: TensorFlow 2.4's layout pass moves a
        Transpose that it recognises, sometimes to where its operand does not exist yet.
        """
        assert value.is_image and value.shape is not None
        batch, channels, height, width = (int(size or 0) for size in value.shape)
        kind, to_last = value.kind, order == TO_LAST
        name = f"{short(tensor).replace(':', '_')}/{'last' if to_last else 'first'}"
        target = [batch, height, width, channels] if to_last else [batch, channels, height, width]
        if value.is_flat:
            return f"{self.reshape(name, tensor, target, kind).name}:0"
        area = height * width
        merged = [batch, channels, area] if to_last else [batch, area, channels]
        first = self.reshape(f"{name}/merged", tensor, merged, kind)
        turn = self.tf.compat.v1.NodeDef(name=self._free(f"{name}/turned"), op="Transpose")
        turn.input.extend([first.name, self.constant(f"{name}/order", np.array([0, 2, 1], "i4"))])
        turn.attr["T"].type = kind
        turn.attr["Tperm"].type = self.tf.int32.as_datatype_enum
        self.nodes.append(turn)
        last = self.reshape(name, f"{turn.name}:0", target, kind)
        if to_last:
            self._turns.append((first, last))
        return f"{last.name}:0"

    def _results(self, node: Any) -> List[Tuple[str, Shape]]:
        found = []
        while f"{node.name}:{len(found)}" in self.shapes:
            name = f"{node.name}:{len(found)}"
            found.append((name, self.shapes[name]))
        return found

    def _free(self, name: str) -> str:
        free, count = name, 0
        while free in self._taken:
            count += 1
            free = f"{name}/{count}"
        self._taken.add(free)
        return free


def _is_channels_first(node: Any) -> bool:
    return node.op in _FORMATTED and node.attr["data_format"].s == b"NCHW"
