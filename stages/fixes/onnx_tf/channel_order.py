"""Shuffles of channels without moving data: the weights around them take another order instead.

ShuffleNet and its kin interleave the channels of two branches between convolutions, as a Reshape, a
Transpose and a Reshape. In which order the channels of a tensor lie is free wherever convolutions
write and read them: the rows of the weights before and the columns of those behind follow. So each
convolution writes its channels sorted by who reads them, and each reader takes its pieces together.

A *class* is a set of tensors whose channels lie in one order, since operators that work on each
channel alone tie their results to what they read. A *region* is a connected set of nodes that only
move data. What a region does is found by running it on indices, so that any spelling is understood.
"""

from __future__ import annotations

from collections import Counter
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from stages.fixes.onnx_tf.folding import fold
from stages.fixes.onnx_tf.layout import Value
from stages.fixes.onnx_tf.onnx_graph import (
    Graph,
    decode_attributes,
    list_all_inputs,
    read_attributes,
)

_MOVING = (
    "Concat", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
# Operators that work on each channel alone and have no constants per channel.
_UNARY = (
    "Abs", "AveragePool", "Clip", "Elu", "Erf", "Exp", "GlobalAveragePool", "GlobalMaxPool",
    "HardSigmoid", "LeakyRelu", "MaxPool", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt",
    "Tanh",
)  # fmt: skip
_BINARY = ("Add", "Div", "Max", "Min", "Mul", "PRelu", "Sub")
_COPYING = ("Concat", "Gather", "Slice", "Split", "Transpose")
_OPSET = 11

Shapes = Dict[str, List[Optional[int]]]
# A source of a region and one of its channels.
Channel = Tuple[str, int]


class Region(NamedTuple):
    """Connected nodes that only move data, what they read, and what others read of them."""

    nodes: List[onnx.NodeProto]
    sources: List[str]
    outputs: List[str]


class Piece(NamedTuple):
    """The channels of a source from `start` to `stop`, as they are stored."""

    source: str
    start: int
    stop: int


class Plan(NamedTuple):
    """What takes a region's place: the order of each tensor's channels, each output's pieces."""

    orders: Dict[str, List[int]]
    pieces: Dict[str, List[Piece]]


def fold_shuffles(graph: Graph) -> bool:
    """Replace each region that shuffles channels by fewer copies; tell whether any was replaced."""
    moving = [node for node in graph.nodes if _only_moves(graph, node)]
    regions = [
        region
        for region in _list_regions(graph, moving)
        if any(_may_shuffle(node) for node in region.nodes)
    ]
    if not regions:
        return False
    shapes = _infer_shapes(graph)
    classes = _Classes(graph, shapes, moving)
    found = False
    for region in regions:
        plan = _plan(graph, region, shapes, classes)
        if plan is not None:
            _apply(graph, region, plan, classes)
            found = True
    return found


def _only_moves(graph: Graph, node: onnx.NodeProto) -> bool:
    data = _list_data(node)
    return (
        node.op_type in _MOVING
        and not any(name in graph.consts for name in data)
        and all(not name or name in graph.consts for name in node.input[len(data) :])
    )


def _list_data(node: onnx.NodeProto) -> List[str]:
    """Return the inputs of a moving node that are not indices or a shape."""
    return list(node.input) if node.op_type == "Concat" else list(node.input[:1])


def _may_shuffle(node: onnx.NodeProto) -> bool:
    has_steps = node.op_type == "Slice" and len(node.input) > 4
    return node.op_type in ("Transpose", "Gather") or has_steps


class _Sets:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parents: Dict[str, str] = {}

    def find(self, name: str) -> str:
        """Return the name that stands for a name's set."""
        while self._parents.get(name, name) != name:
            name = self._parents[name]
        return name

    def tie(self, names: Sequence[str]) -> None:
        for name in names:
            self._parents[self.find(name)] = self.find(names[0])


def _list_regions(graph: Graph, moving: Sequence[onnx.NodeProto]) -> List[Region]:
    sets = _Sets()
    for node in moving:
        sets.tie([*_list_data(node), *node.output])
    members: Dict[str, List[onnx.NodeProto]] = {}
    for node in moving:
        members.setdefault(sets.find(node.output[0]), []).append(node)
    inside = {id(node) for node in moving}
    read_outside = set(graph.outputs)
    for node in graph.nodes:
        if id(node) not in inside:
            read_outside.update(list_all_inputs(node))
    regions = []
    for nodes in members.values():
        made = [name for node in nodes for name in node.output]
        read = dict.fromkeys(name for node in nodes for name in _list_data(node))
        sources = [name for name in read if name not in made]
        regions.append(Region(nodes, sources, [name for name in made if name in read_outside]))
    return regions


def _infer_shapes(graph: Graph) -> Shapes:
    """Return the shapes that ONNX infers; it is not given the weights' values."""
    inputs = [
        *graph.inputs,
        *(
            # An initialiser alone has no shape for it if it is a single number.
            helper.make_tensor_value_info(
                name, onnx.mapping.NP_TYPE_TO_TENSOR_TYPE[array.dtype], array.shape
            )
            for name, array in graph.consts.items()
        ),
    ]
    small = [
        numpy_helper.from_array(array, name)
        for name, array in graph.consts.items()
        if array.dtype.kind != "f"
    ]
    proto = helper.make_graph(graph.nodes, "graph", inputs, [], small)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)])
    inferred = shape_inference.infer_shapes(model).graph
    return {
        value.name: [d.dim_value or None for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input)
        if value.type.tensor_type.HasField("shape")
    }


class _Classes:
    """The classes of a graph's tensors, and the weights that write and read them."""

    def __init__(self, graph: Graph, shapes: Shapes, moving: Sequence[onnx.NodeProto]) -> None:
        self._graph = graph
        self._shapes = shapes
        self._sets = _Sets()
        self._nodes: List[onnx.NodeProto] = []
        inside = {id(node) for node in moving}
        fixed = [*graph.outputs, *(value.name for value in graph.inputs)]
        for node in graph.nodes:
            if id(node) in inside:
                continue
            tied = self._list_tied(node)
            if tied is None:
                fixed += [*list_all_inputs(node), *node.output]
            else:
                self._nodes.append(node)
                self._sets.tie(tied)
        self._fixed = {self._sets.find(name) for name in fixed}
        self._made = Counter(self._sets.find(name) for node in moving for name in node.output)
        self._read: Dict[str, Set[str]] = {}
        for node in moving:
            for name in _list_data(node):
                self._read.setdefault(self._sets.find(name), set()).add(name)

    def find(self, name: str) -> str:
        """Return the name that stands for a tensor's class."""
        return self._sets.find(name)

    def is_free(self, source: str, region: Region) -> bool:
        """Tell whether convolutions alone write the class of a region's source, for it alone."""
        root = self.find(source)
        return (
            root not in self._fixed
            and not self._made[root]
            and self._read[root] <= set(region.sources)
        )

    def takes_any(self, output: str) -> bool:
        """Tell whether convolutions alone read the class of a region's output."""
        root = self.find(output)
        return root not in self._fixed and self._made[root] == 1 and root not in self._read

    def _list_tied(self, node: onnx.NodeProto) -> Optional[List[str]]:
        """Return the tensors that a node ties together; None if it needs ONNX's own order."""
        consts, kind = self._graph.consts, node.op_type
        if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
            return None
        if kind in _BINARY:
            return self._list_tied_by_broadcast(node)
        if not node.input or node.input[0] in consts:
            return None
        if any(name and name not in consts for name in node.input[1:]):
            return None
        through = [node.input[0], node.output[0]]
        if kind in _UNARY or kind == "BatchNormalization":
            return through
        if kind not in ("Conv", "ConvTranspose"):
            return None
        group = read_attributes(node).get("group", 1)
        if group == 1:
            return []
        return through if consts[node.input[1]].shape[:2] == (group, 1) else None

    def _list_tied_by_broadcast(self, node: onnx.NodeProto) -> Optional[List[str]]:
        out = self._shapes.get(node.output[0])
        if out is None or len(out) < 3 or out[1] is None:
            return None
        tied = [node.output[0]]
        for name in node.input:
            const = self._graph.consts.get(name)
            shape = self._shapes.get(name) if const is None else [1] * (len(out) - const.ndim)
            if const is not None:
                shape = [*shape, *const.shape]
            if shape is None or len(shape) != len(out) or shape[1] not in (1, out[1]):
                return None
            if const is None and shape[1] == out[1]:
                tied.append(name)
        return tied

    def permute(self, name: str, order: Sequence[int]) -> None:
        """Let the channels of a tensor's class lie in this order, by the weights around them."""
        root, graph = self.find(name), self._graph
        for node in self._nodes:
            reads = any(self.find(read) == root for read in node.input)
            writes = self.find(node.output[0]) == root
            for index in range(len(node.input)):
                for axis in self._list_channel_axes(node, index, reads, writes):
                    fresh = graph.make_fresh_name(f"{node.output[0]}_ordered_{index}")
                    graph.consts[fresh] = graph.consts[node.input[index]].take(order, axis)
                    node.input[index] = fresh
            if writes:
                graph.channels[node.output[0]] = list(order)

    def _list_channel_axes(
        self, node: onnx.NodeProto, index: int, reads: bool, writes: bool
    ) -> List[int]:
        """Return the axes of a node's constant that are the channels that it reads or writes."""
        array = self._graph.consts.get(node.input[index])
        if array is None or not (reads or writes):
            return []
        if node.op_type in ("Conv", "ConvTranspose"):
            into, out = (1, 0) if node.op_type == "Conv" else (0, 1)
            if index == 2 or read_attributes(node).get("group", 1) > 1:
                into, out = 1, 0
                reads = False
            return [into] * reads + [out] * writes
        if node.op_type == "BatchNormalization":
            return [0]
        if node.op_type not in _BINARY:
            return []
        axis = array.ndim - len(self._shapes[node.output[0]]) + 1
        return [axis] if axis >= 0 and array.shape[axis] > 1 else []


def _plan(graph: Graph, region: Region, shapes: Shapes, classes: _Classes) -> Optional[Plan]:
    """Return how to do without a region; None if it is needed, or moves no more than that would."""
    if not all(classes.takes_any(name) for name in region.outputs):
        return None
    sizes = _list_sizes(region, shapes)
    traced = _trace(graph, region, sizes) if sizes is not None else None
    if sizes is None or traced is None:
        return None
    channels, moved = traced
    readers: Dict[Channel, List[int]] = {}
    for number, output in enumerate(region.outputs):
        if len(set(channels[output])) < len(channels[output]):
            return None
        for source, channel in channels[output]:
            readers.setdefault((classes.find(source), channel), []).append(number)
    orders: Dict[str, List[int]] = {}
    for source in region.sources:
        order = list(range(sizes[source][1]))
        if classes.is_free(source, region):
            # By who reads them; what nothing reads comes last.
            last = [len(region.outputs)]
            order.sort(key=lambda channel: readers.get((classes.find(source), channel), last))
        orders[source] = order
    pieces = _cut(region, channels, orders)
    if any(len(parts) > 2 * len(region.sources) for parts in pieces.values()):
        return None  # the order of a source is fixed, and what is read of it lies apart
    for output, parts in pieces.items():
        index = {channel: number for number, channel in enumerate(channels[output])}
        stored = [(p.source, c) for p in parts for c in orders[p.source][p.start : p.stop]]
        orders[output] = [index[channel] for channel in stored]
    if _count_moved(pieces, sizes) >= moved:
        return None
    return Plan(orders, pieces)


def _list_sizes(region: Region, shapes: Shapes) -> Optional[Dict[str, List[int]]]:
    """Return the shape of each source; None if one has no channels, or an unknown size."""
    found = {}
    for name in region.sources:
        known = [size for size in shapes.get(name, []) if size is not None]
        if len(known) < 3 or len(known) < len(shapes[name]):
            return None
        found[name] = known
    return found


def _trace(
    graph: Graph, region: Region, sizes: Dict[str, List[int]]
) -> Optional[Tuple[Dict[str, List[Channel]], int]]:
    """Return the channels that each output has, and how many elements the region copies.

    None if an output has anything but whole channels of the sources.
    """
    values: Dict[str, Value] = {}
    planes: Dict[int, Tuple[Channel, np.ndarray]] = {}
    start = 0
    for source in region.sources:
        indices = start + np.arange(int(np.prod(sizes[source]))).reshape(sizes[source])
        start += indices.size
        values[source] = Value.from_const(indices)
        for channel, plane in enumerate(np.moveaxis(indices, 1, 0)):
            planes[int(plane.flat[0])] = ((source, channel), plane)
    moved = 0
    for node in region.nodes:
        attributes = decode_attributes(node)
        if node.op_type == "Split" and "split" not in attributes:
            return None
        inputs = [
            values[name] if name in values else _read_const(graph, name) for name in node.input
        ]
        try:
            results = fold(node.op_type, attributes, inputs, _OPSET)
        except (IndexError, ValueError):  # it holds for no shape but its author's
            return None
        if results is None:
            return None
        values.update(zip(node.output, results))
        if node.op_type in _COPYING:
            moved += sum(result.size for result in results)
    channels: Dict[str, List[Channel]] = {}
    for output in region.outputs:
        indices = np.asarray(values[output].const)
        if indices.ndim < 3 or not indices.size:
            return None
        channels[output] = []
        for plane in np.moveaxis(indices, 1, 0):
            channel, whole = planes.get(int(plane.flat[0]), (None, plane))
            if channel is None or not np.array_equal(plane, whole):
                return None
            channels[output].append(channel)
    return channels, moved


def _read_const(graph: Graph, name: str) -> Optional[Value]:
    return Value.from_const(graph.consts[name]) if name else None


def _cut(
    region: Region, channels: Dict[str, List[Channel]], orders: Dict[str, List[int]]
) -> Dict[str, List[Piece]]:
    """Cut the sources into the pieces that outputs take whole; list those of each output."""
    places = {
        (source, channel): place
        for source in region.sources
        for place, channel in enumerate(orders[source])
    }
    taken: Dict[str, Dict[str, Set[int]]] = {}
    cuts: Dict[str, Set[int]] = {source: {0, len(orders[source])} for source in region.sources}
    for output in region.outputs:
        taken[output] = {}
        for source, channel in channels[output]:
            taken[output].setdefault(source, set()).add(places[source, channel])
        for source, own in taken[output].items():
            cuts[source] |= {place for place in own if place - 1 not in own}
            cuts[source] |= {place + 1 for place in own if place + 1 not in own}
    return {
        output: [
            Piece(source, start, stop)
            for source, own in sources.items()
            for start, stop in _list_spans(cuts[source])
            if start in own
        ]
        for output, sources in taken.items()
    }


def _list_spans(cuts: Iterable[int]) -> List[Tuple[int, int]]:
    places = sorted(cuts)
    return list(zip(places, places[1:]))


def _count_moved(pieces: Dict[str, List[Piece]], sizes: Dict[str, List[int]]) -> int:
    """Count the elements that splits into the pieces and their concatenations copy."""
    moved = 0
    for parts in pieces.values():
        for part in parts:
            size = sizes[part.source]
            copied = (part.stop - part.start < size[1]) + (len(parts) > 1)
            moved += copied * (part.stop - part.start) * int(np.prod(size)) // size[1]
    return moved


def _apply(graph: Graph, region: Region, plan: Plan, classes: _Classes) -> None:
    """Put the plan's splits and concatenations where the region's nodes are."""
    permuted: Set[str] = set()
    for name in (*region.sources, *region.outputs):
        order, root = plan.orders[name], classes.find(name)
        if root not in permuted and order != sorted(order):
            classes.permute(name, order)
            graph.channels[name] = order
            permuted.add(root)
    cuts: Dict[str, Set[int]] = {name: {0, len(plan.orders[name])} for name in region.sources}
    for parts in plan.pieces.values():
        for part in parts:
            cuts[part.source] |= {part.start, part.stop}
    gone = {id(node) for node in region.nodes}
    waiting = dict.fromkeys(region.sources)
    nodes: List[onnx.NodeProto] = []
    for node in graph.nodes:
        if id(node) not in gone:
            nodes.append(node)
            continue
        for source in [name for name in waiting if name in _list_data(node)]:
            del waiting[source]
            spans = _list_spans(cuts[source])
            if len(spans) > 1:
                names = [_name_piece(Piece(source, *span), cuts) for span in spans]
                sizes = [stop - start for start, stop in spans]
                nodes.append(
                    helper.make_node("Split", [source], names, node.name, axis=1, split=sizes)
                )
        for output in node.output:
            if output in plan.pieces:
                names = [_name_piece(part, cuts) for part in plan.pieces[output]]
                nodes.append(helper.make_node("Concat", names, [output], node.name, axis=1))
    graph.nodes = nodes


def _name_piece(piece: Piece, cuts: Dict[str, Set[int]]) -> str:
    whole = len(cuts[piece.source]) == 2
    return piece.source if whole else f"{piece.source}_channels_{piece.start}_{piece.stop}"
