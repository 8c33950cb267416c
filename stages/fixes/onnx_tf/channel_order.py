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
from itertools import groupby
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

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
_COPYING = ("Concat", "Gather", "Slice", "Split", "Transpose")
# Operators that work on each channel alone and have no constants per channel.
_UNARY = (
    "Abs", "AveragePool", "Clip", "Elu", "Erf", "Exp", "GlobalAveragePool", "GlobalMaxPool",
    "HardSigmoid", "LeakyRelu", "MaxPool", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt",
    "Tanh",
)  # fmt: skip
_BINARY = ("Add", "Div", "Max", "Min", "Mul", "PRelu", "Sub")
# A region that reads more elements costs more time and memory here than it is worth.
_MOST_INDICES = 1 << 24
# An output of more pieces than this a source is put together from channels that lie apart, since
# their order is not free; moving them together costs more than the shuffle does.
_MOST_PIECES = 2

Shapes = Dict[str, List[Optional[int]]]
Sizes = Dict[str, List[int]]
# A source of a region and one of its channels.
Channel = Tuple[str, int]


class Region(NamedTuple):
    """Connected nodes that only move data, what they read, and what is read of them elsewhere.

    An output of the graph is read elsewhere too.
    """

    nodes: List[onnx.NodeProto]
    sources: List[str]
    outputs: List[str]


class Piece(NamedTuple):
    """The channels of a source from `start` to `stop`, as they are stored, and who reads them.

    `readers` are the numbers of outputs of the region.
    """

    source: str
    start: int
    stop: int
    readers: Tuple[int, ...]


class Plan(NamedTuple):
    """What takes a region's place: the order of each tensor's channels, and the pieces.

    An order has ONNX's channel at each place. `pieces` are what each source is cut into, `taken`
    those that each output is put together from.
    """

    orders: Dict[str, List[int]]
    pieces: Dict[str, List[Piece]]
    taken: Dict[str, List[Piece]]


def fold_shuffles(graph: Graph) -> bool:
    """Replace each region that shuffles channels by one that copies fewer elements.

    Return whether any was replaced.
    """
    if not any(node.op_type in ("Conv", "ConvTranspose") for node in graph.nodes):
        return False
    moving = [node for node in graph.nodes if _only_moves(graph, node)]
    regions = [
        region
        for region in _list_regions(graph, moving)
        if region.outputs and any(_may_reorder(node) for node in region.nodes)
    ]
    if not regions:
        return False
    shapes = _infer_shapes(graph)
    classes = _Classes(graph, shapes, moving)
    found = False
    for region in regions:
        plan = _plan(graph, region, shapes, classes)
        if plan is not None:
            classes.store(plan.orders)
            _replace(graph, region.nodes, plan)
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


def _may_reorder(node: onnx.NodeProto) -> bool:
    """Tell whether a moving node may change an order; a Slice does by its steps, the fifth input.

    Reshapes do with one of these alone.
    """
    return node.op_type in ("Transpose", "Gather") or (
        node.op_type == "Slice" and len(node.input) > 4
    )


class _Sets:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parents: Dict[str, str] = {}

    def find(self, name: str) -> str:
        """Return the name that stands for a name's set."""
        root = name
        while self._parents.get(root, root) != root:
            root = self._parents[root]
        while name != root:  # the next search is a short one
            self._parents[name], name = root, self._parents[name]
        return root

    def tie(self, names: Sequence[str]) -> None:
        """Make one set of those that these names are in."""
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
    read_elsewhere = set(graph.outputs)
    for node in graph.nodes:
        if id(node) not in inside:
            read_elsewhere.update(list_all_inputs(node))
    regions = []
    for nodes in members.values():
        made = dict.fromkeys(name for node in nodes for name in node.output)
        read = dict.fromkeys(name for node in nodes for name in _list_data(node))
        sources = [name for name in read if name not in made]
        regions.append(Region(nodes, sources, [name for name in made if name in read_elsewhere]))
    return regions


def _infer_shapes(graph: Graph) -> Shapes:
    """Return the shapes that ONNX infers, of which it needs no weights; {} if it fails."""
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
    # Shapes, indices, sizes and scales are vectors.
    vectors = [
        numpy_helper.from_array(array, name)
        for name, array in graph.consts.items()
        if array.ndim < 2
    ]
    proto = helper.make_graph(graph.nodes, "graph", inputs, [], vectors)
    # onnx 1.7 infers nothing of a Split before set 11; for Pad and a few others it wants their own.
    for opset in dict.fromkeys((max(graph.opset, 11), graph.opset)):
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)])
        try:
            inferred = shape_inference.infer_shapes(model).graph
        except RuntimeError:  # of operators that it takes for wrong, though they may convert
            continue
        return {
            value.name: [d.dim_value or None for d in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.input)
            if value.type.tensor_type.HasField("shape")
        }
    return {}


class _Classes:
    """The classes of a graph's tensors, and the weights that write and read them."""

    def __init__(self, graph: Graph, shapes: Shapes, moving: Sequence[onnx.NodeProto]) -> None:
        self._graph = graph
        self._shapes = shapes
        self._sets = _Sets()
        inside = {id(node) for node in moving}
        fixed = [*graph.outputs, *(value.name for value in graph.inputs)]
        followers = []
        for node in graph.nodes:
            if id(node) in inside:
                continue
            tied = self._list_tied(node)
            if tied is None:
                fixed += [*list_all_inputs(node), *node.output]
            else:
                followers.append(node)
                self._sets.tie(tied)
        self._fixed = {self.find(name) for name in fixed}
        self._made = Counter(self.find(name) for node in moving for name in node.output)
        self._moved: Dict[str, Set[str]] = {}
        for node in moving:
            for name in _list_data(node):
                self._moved.setdefault(self.find(name), set()).add(name)
        # The nodes that can follow the order of a class that they read or write.
        self._followers: Dict[str, List[onnx.NodeProto]] = {}
        for node in followers:
            for root in dict.fromkeys(self.find(name) for name in (*node.input, *node.output)):
                self._followers.setdefault(root, []).append(node)

    def find(self, name: str) -> str:
        """Return the name that stands for a tensor's class."""
        return self._sets.find(name)

    def is_free(self, source: str, region: Region) -> bool:
        """Tell whether convolutions alone write the class of a region's source, for it alone."""
        root = self.find(source)
        return (
            root not in self._fixed
            and not self._made[root]
            and self._moved[root] <= set(region.sources)
        )

    def takes_any(self, output: str) -> bool:
        """Tell whether convolutions alone read the class of a region's output."""
        root = self.find(output)
        return root not in self._fixed and self._made[root] == 1 and root not in self._moved

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
            shape = self._shapes.get(name)
            if const is not None:
                shape = [*[1] * (len(out) - const.ndim), *const.shape]
            if shape is None or len(shape) != len(out) or shape[1] not in (1, out[1]):
                return None
            if const is None and shape[1] == out[1]:
                tied.append(name)
        return tied

    def store(self, orders: Dict[str, List[int]]) -> None:
        """Let the channels of these tensors' classes lie in these orders, by their weights."""
        done: Set[str] = set()
        for name, order in orders.items():
            root = self.find(name)
            if root not in done and order != sorted(order):
                done.add(root)
                # A region writes its own outputs; _permute notes what other nodes write.
                self._graph.channels[name] = order
                self._permute(root, order)

    def _permute(self, root: str, order: List[int]) -> None:
        graph = self._graph
        for node in self._followers.get(root, ()):
            reads = any(self.find(name) == root for name in node.input)
            writes = self.find(node.output[0]) == root
            for index in range(len(node.input)):
                for axis in self._list_channel_axes(node, index, reads, writes):
                    array = graph.consts[node.input[index]].take(order, axis)
                    node.input[index] = graph.make_fresh_name(f"{node.output[0]}_ordered_{index}")
                    graph.consts[node.input[index]] = array
            if writes:
                graph.channels[node.output[0]] = order

    def _list_channel_axes(
        self, node: onnx.NodeProto, index: int, reads: bool, writes: bool
    ) -> List[int]:
        """Return the axes of a node's constant that are the channels that it reads or writes."""
        array = self._graph.consts.get(node.input[index])
        if array is None:
            return []
        if node.op_type in ("Conv", "ConvTranspose"):
            if index == 2 or read_attributes(node).get("group", 1) > 1:
                return [0] if writes else []
            into, out = (1, 0) if node.op_type == "Conv" else (0, 1)
            return [*([into] if reads else []), *([out] if writes else [])]
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
    if sizes is None:
        return None
    traced = _trace(graph, region, sizes)
    if traced is None:
        return None
    channels, moved = traced
    readers: Dict[str, List[List[int]]] = {
        source: [[] for _ in range(sizes[source][1])] for source in region.sources
    }
    of_class: Dict[Channel, List[int]] = {}
    for number, output in enumerate(region.outputs):
        if len(set(channels[output])) < len(channels[output]):
            return None
        for source, channel in channels[output]:
            readers[source][channel].append(number)
            of_class.setdefault((classes.find(source), channel), []).append(number)
    orders: Dict[str, List[int]] = {}
    pieces: Dict[str, List[Piece]] = {}
    for source, read in readers.items():
        orders[source] = list(range(len(read)))
        if classes.is_free(source, region):
            # By who reads them; what nothing reads comes last.
            root, last = classes.find(source), [len(region.outputs)]
            orders[source].sort(key=lambda channel: of_class.get((root, channel), last))
        pieces[source] = _cut(source, [tuple(read[channel]) for channel in orders[source]])
    taken = _group_by_output(region, pieces)
    if any(len(parts) > _MOST_PIECES * len(region.sources) for parts in taken.values()):
        return None
    if _count_moved(taken, sizes) >= moved:
        return None
    for output, parts in taken.items():
        index = {channel: number for number, channel in enumerate(channels[output])}
        stored = [(p.source, c) for p in parts for c in orders[p.source][p.start : p.stop]]
        orders[output] = [index[channel] for channel in stored]
    return Plan(orders, pieces, taken)


def _list_sizes(region: Region, shapes: Shapes) -> Optional[Sizes]:
    """Return the shape of each source; None if one has no channels, or is unknown or too large."""
    found: Sizes = {}
    for name in region.sources:
        shape = shapes.get(name, ())
        found[name] = [size for size in shape if size is not None]
        if len(shape) < 3 or len(found[name]) < len(shape):
            return None
    total = sum(int(np.prod(size)) for size in found.values())
    return found if total <= _MOST_INDICES else None


def _trace(
    graph: Graph, region: Region, sizes: Sizes
) -> Optional[Tuple[Dict[str, List[Channel]], int]]:
    """Return the channels that each output has, and how many elements the region copies.

    None if an output has anything but whole channels of the sources.
    """
    values: Dict[str, Value] = {}
    planes: Dict[int, Tuple[Channel, np.ndarray]] = {}
    start = 0
    for source, size in sizes.items():
        count = int(np.prod(size))
        indices = np.arange(start, start + count, dtype=np.int32).reshape(size)
        start += count
        values[source] = Value.from_const(indices)
        for channel, plane in enumerate(np.moveaxis(indices, 1, 0)):
            planes[int(plane.flat[0])] = ((source, channel), plane)
    moved = 0
    for node in region.nodes:
        inputs = [
            values[name] if name in values else _read_const(graph, name) for name in node.input
        ]
        attributes = decode_attributes(node)
        if node.op_type == "Split" and "split" not in attributes:
            assert inputs[0] is not None
            length = inputs[0].shape[attributes.get("axis", 0)] or 0
            attributes["split"] = [length // len(node.output)] * len(node.output)
        try:
            results = fold(node.op_type, attributes, inputs, limit=start)
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


def _cut(source: str, readers: Sequence[Tuple[int, ...]]) -> List[Piece]:
    """Cut a source where those that read its channels, as they are stored, change."""
    pieces = []
    start = 0
    for who, places in groupby(readers):
        stop = start + len(list(places))
        pieces.append(Piece(source, start, stop, who))
        start = stop
    return pieces


def _group_by_output(region: Region, pieces: Dict[str, List[Piece]]) -> Dict[str, List[Piece]]:
    """Return the pieces that each output of a region takes."""
    taken: Dict[str, List[Piece]] = {output: [] for output in region.outputs}
    for parts in pieces.values():
        for part in parts:
            for number in part.readers:
                taken[region.outputs[number]].append(part)
    return taken


def _count_moved(taken: Dict[str, List[Piece]], sizes: Sizes) -> int:
    """Count the elements that splits into the pieces and their concatenations copy."""
    moved = 0
    for parts in taken.values():
        for part in parts:
            size = sizes[part.source]
            copies = (part.stop - part.start < size[1]) + (len(parts) > 1)
            moved += copies * (part.stop - part.start) * int(np.prod(size)) // size[1]
    return moved


def _replace(graph: Graph, moving: Sequence[onnx.NodeProto], plan: Plan) -> None:
    """Put splits and concatenations where a region's nodes were."""
    names = {
        part: part.source
        if len(parts) == 1
        else graph.make_fresh_name(f"{part.source}_channels_{part.start}")
        for parts in plan.pieces.values()
        for part in parts
    }
    waiting = {source: parts for source, parts in plan.pieces.items() if len(parts) > 1}
    gone = {id(node) for node in moving}
    nodes: List[onnx.NodeProto] = []
    for node in graph.nodes:
        if id(node) not in gone:
            nodes.append(node)
            continue
        for source in _list_data(node):
            parts = waiting.pop(source, [])
            if parts:
                pieces, sizes = [names[p] for p in parts], [p.stop - p.start for p in parts]
                nodes.append(
                    helper.make_node("Split", [source], pieces, node.name, axis=1, split=sizes)
                )
        for output in node.output:
            if output in plan.taken:
                pieces = [names[part] for part in plan.taken[output]]
                nodes.append(helper.make_node("Concat", pieces, [output], node.name, axis=1))
    graph.nodes = nodes
