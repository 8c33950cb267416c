"""Channels-last layout of a frozen graph from end to end, whatever layout it was made for.

Each tensor has the value that the graph gives it ('plain', channels first where operators say NCHW)
and, where it has been emitted, a channels-last twin. Operators work on twins where they can; the
plain value is then made, by a transpose, only for an operator that needs it. A transpose in the
graph from one layout to the other becomes no operator at all: it names the twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from stages.fixes.graph.folding import (
    Shape,
    infer_shapes_and_types,
    list_data_inputs,
    make_constant_node,
    make_tensor_name,
    read_constants,
    shorten_name,
    sort_nodes,
)
from stages.frameworks.tensorflow import import_tensorflow

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
TWIN_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}  # from a plain tensor to its twin

REDUCTIONS = ("All", "Any", "Max", "Mean", "Min", "Prod", "Sum")
# The input that has the data format, for each operator with one.
_FORMATTED = {
    "AvgPool": 0, "BiasAdd": 0, "Conv2D": 0, "Conv2DBackpropInput": 2, "DepthToSpace": 0,
    "DepthwiseConv2dNative": 0, "FusedBatchNorm": 0, "FusedBatchNormV2": 0, "FusedBatchNormV3": 0,
    "MaxPool": 0, "SpaceToDepth": 0,
}  # fmt: skip
# Operators whose result is no longer an image.
_ENDS = ("Reshape", "Squeeze", *REDUCTIONS)
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


@dataclass
class Value:
    """A tensor of the given graph: its shape there, and its names in the new graph."""

    shape: Shape
    kind: int  # the number of its dtype
    plain: Optional[str] = None
    twin: Optional[str] = None
    const: Optional[np.ndarray] = None
    prefers_twin: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether operators should work on the twin: no plain value exists, or it is preferred."""
        return self.plain is None or self.prefers_twin

    @property
    def is_image(self) -> bool:
        return self.shape is not None and len(self.shape) == 4 and None not in self.shape

    @property
    def is_flat(self) -> bool:
        """Whether the elements have the same order in both layouts."""
        return self.is_image and (self.shape[1] == 1 or self.shape[2:] == (1, 1))  # type: ignore


# Emits a node on twins and returns True, or returns False to have the node copied.
Handler = Callable[["Rewriting", Any, Sequence[Value]], bool]


class Rewriting:
    """One pass over a graph in topological order."""

    def __init__(self, graph_def: Any, handlers: Mapping[str, Handler], io: bool = False) -> None:
        self.handlers = handlers
        self.io = io
        self.turned_io: Set[str] = set()
        self.tf = import_tensorflow()
        self.given = sort_nodes(graph_def)
        self.shapes, self.types = infer_shapes_and_types(graph_def)
        self.arrays = read_constants(graph_def)
        self.nodes: List[Any] = []
        self.values: Dict[str, Value] = {}
        self._by_name = {node.name: node for node in self.given}
        self._readers: Dict[str, List[Any]] = {}
        self._taken = {node.name for node in graph_def.node}
        self._turns: List[Tuple[Any, Any]] = []  # first and last node of each transpose to NHWC

    def run(self) -> None:
        for node in self.given:
            values = [self.values[make_tensor_name(name)] for name in list_data_inputs(node)]
            if _is_channels_first(node):
                self._emit_formatted(node, values)
                continue
            handler = self.handlers.get(node.op)
            if handler is None or not handler(self, node, values):
                self._copy(node, values)

    def output(self, name: str) -> str:
        """Emit an output and return its tensor's name: the one in the given graph if possible."""
        value = self.values[name]
        if self.io and value.plain is None:
            self.turned_io.add(name)
        tensor = self.twin(value) if name in self.turned_io else self.plain(value)
        if make_tensor_name(tensor) == name:
            return name
        first = name.endswith(":0")
        node = self.tf.compat.v1.NodeDef(
            name=shorten_name(name) if first else self._reserve_name(name.replace(":", "_")),
            op="Identity",
        )
        node.input.append(shorten_name(tensor))
        node.attr["T"].type = value.kind
        self.nodes.append(node)
        return f"{node.name}:0"

    def merge_input_transposes(self) -> None:
        """Merge Reshape, Transpose, Reshape at an input into one Transpose where that is safe.

        TensorFlow 2.4's layout pass moves a transpose to channels last past its readers, but never
        past a convolution: one is safe if only convolutions read it, or a single Pad before them.
        """
        nodes = {node.name: node for node in self.nodes}
        readers: Dict[str, List[Any]] = {}
        for node in self.nodes:
            for name in list_data_inputs(node):
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
                permutation = make_constant_node(last.input[1], np.array(TO_LAST, np.int32))
                nodes[last.input[1]].CopyFrom(permutation)
                last.attr["Tperm"].CopyFrom(last.attr["Tshape"])
                del last.attr["Tshape"]

    # The interface for handlers.

    def plain(self, value: Value) -> str:
        """Return the tensor as the given graph has it, emitting it if it is missing."""
        if value.plain is None:
            assert value.twin is not None
            value.plain = self._transpose(value.twin, value, TO_FIRST)
            value.prefers_twin = True
        return value.plain

    def twin(self, value: Value) -> str:
        """Return the tensor with channels last, emitting it if it is missing."""
        if value.twin is None:
            assert value.plain is not None
            if value.const is not None:
                array = value.const.transpose(TO_LAST)
                value.twin = self.constant(shorten_name(value.plain), array)
            else:
                value.twin = self._transpose(value.plain, value, TO_LAST)
        return value.twin

    def constant(self, like: str, array: np.ndarray) -> str:
        node = make_constant_node(
            self._reserve_name(like.replace(":", "_")), np.array(array, order="C")
        )
        self.nodes.append(node)
        return str(node.name)

    def emit(self, node: Any, inputs: Sequence[str], twin: bool) -> Any:
        """Emit a copy of a node with other inputs; `twin` if its results have channels last."""
        new = self.tf.compat.v1.NodeDef()
        new.CopyFrom(node)
        if twin:
            new.name = self._reserve_name(node.name)
        del new.input[:]
        new.input.extend(shorten_name(name) for name in inputs)
        if "_output_shapes" in new.attr:
            del new.attr["_output_shapes"]
        self.nodes.append(new)
        for index, (name, shape) in enumerate(self._list_results(node)):
            made = f"{new.name}:{index}"
            is_image = twin and shape is not None and len(shape) == 4
            self.define(name, **{"twin" if is_image else "plain": made})
        return new

    def define(self, name: str, plain: Optional[str] = None, twin: Optional[str] = None) -> Value:
        """Record the names that a tensor of the given graph has in the new one."""
        self.values[name] = Value(self.shapes[name], self.types[name], plain, twin)
        return self.values[name]

    def reshape(self, name: str, tensor: str, shape: Sequence[Optional[int]], kind: int) -> Any:
        node = self.tf.compat.v1.NodeDef(name=self._reserve_name(name), op="Reshape")
        amounts = self.constant(f"{name}/shape", np.array(shape, np.int32))
        node.input.extend([shorten_name(tensor), amounts])
        node.attr["T"].type = kind
        node.attr["Tshape"].type = self.tf.int32.as_datatype_enum
        self.nodes.append(node)
        return node

    def producer(self, name: str) -> Any:
        """Return the given graph's operator that produces a tensor."""
        return self._by_name[name.partition(":")[0]]

    def _copy(self, node: Any, values: Sequence[Value]) -> None:
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
        """Tell whether an operator on images reads this one, through layout-agnostic operators."""
        if not self._readers:
            for node in self.given:
                for name in list_data_inputs(node):
                    self._readers.setdefault(name.partition(":")[0], []).append(node)
        seen, pending = {source.name}, [source]
        while pending:
            for node in self._readers.get(pending.pop().name, []):
                if _is_channels_first(node):
                    return True
                if node.op == "Transpose":
                    order = self.arrays.get(make_tensor_name(node.input[1]))
                    if order is not None and tuple(order) == TO_LAST:
                        return True
                elif node.op in self.handlers and node.op not in _ENDS and node.name not in seen:
                    seen.add(node.name)
                    pending.append(node)
        return False

    def _emit_formatted(self, node: Any, values: Sequence[Value]) -> None:
        """Emit an NCHW operator as NHWC, on twins."""
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

    def _transpose(self, tensor: str, value: Value, order: Tuple[int, ...]) -> str:
        """Emit a tensor in the other layout and return its name.

        It takes Reshape, Transpose, Reshape on merged axes: TensorFlow 2.4's layout pass moves a
        Transpose that it recognises, sometimes to before its operand exists.
        """
        assert value.is_image and value.shape is not None
        batch, channels, height, width = (int(size or 0) for size in value.shape)
        kind, to_last = value.kind, order == TO_LAST
        name = f"{shorten_name(tensor).replace(':', '_')}/{'last' if to_last else 'first'}"
        target = [batch, height, width, channels] if to_last else [batch, channels, height, width]
        if value.is_flat:
            return f"{self.reshape(name, tensor, target, kind).name}:0"
        area = height * width
        merged = [batch, channels, area] if to_last else [batch, area, channels]
        first = self.reshape(f"{name}/merged", tensor, merged, kind)
        turn = self.tf.compat.v1.NodeDef(name=self._reserve_name(f"{name}/turned"), op="Transpose")
        turn.input.extend([first.name, self.constant(f"{name}/order", np.array([0, 2, 1], "i4"))])
        turn.attr["T"].type = kind
        turn.attr["Tperm"].type = self.tf.int32.as_datatype_enum
        self.nodes.append(turn)
        last = self.reshape(name, f"{turn.name}:0", target, kind)
        if to_last:
            self._turns.append((first, last))
        return f"{last.name}:0"

    def _list_results(self, node: Any) -> List[Tuple[str, Shape]]:
        found = []
        while f"{node.name}:{len(found)}" in self.shapes:
            name = f"{node.name}:{len(found)}"
            found.append((name, self.shapes[name]))
        return found

    def _reserve_name(self, name: str) -> str:
        free, count = name, 0
        while free in self._taken:
            count += 1
            free = f"{name}/{count}"
        self._taken.add(free)
        return free


def _is_channels_first(node: Any) -> bool:
    return node.op in _FORMATTED and node.attr["data_format"].s == b"NCHW"
