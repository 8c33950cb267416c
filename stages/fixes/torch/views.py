"""Writes in place that views share, made visible to torch 1.5.1's exporter.

The exporter takes `x.view(-1).mul_(2)` for an operator whose result nobody reads: it knows only
that what is written itself has changed, not the tensor behind it, nor other views of that. Here
each such write is followed by what it means without sharing: the tensor behind is computed anew
from the view, and every other view anew from the tensor.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Sequence

import torch

from stages.fixes.torch.graph_values import Writer, get_shape, read_integers, replace_uses

_INPLACE = re.compile(r"aten::\w*[a-z0-9]_$")
_RESHAPES = {"aten::view", "aten::reshape", "aten::unsqueeze", "aten::squeeze", "aten::flatten"}
_RESHAPES |= {"aten::view_as", "aten::reshape_as", "aten::_unsafe_view"}
_SAME = {"aten::detach", "aten::contiguous", "aten::alias"}
_TURNS = {"aten::transpose", "aten::permute", "aten::t", "aten::numpy_T"}
_PARTS = {"aten::select", "aten::slice", "aten::narrow"}
_VIEWS = _RESHAPES | _SAME | _TURNS | _PARTS | {"aten::expand", "aten::expand_as", "aten::diagonal"}
# These copy unless the elements already lie in order.
_MAYBE_COPIES = {"aten::reshape", "aten::reshape_as", "aten::flatten", "aten::contiguous"}
_SPLITS = {"aten::chunk", "aten::split", "aten::split_with_sizes", "aten::unbind"}
# The exporter itself carries this through parts of a tensor, but would look for the tensor behind
# the view for both.
_CARRIED = "aten::copy_"
_DETACHED = {"aten::copy_", "aten::index_put_"}


def unshare_writes(graph: Any) -> bool:
    """Make the graph's writes through views explicit; tell whether there were any."""
    return _Views(graph).run()


class _Views:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.nodes = list(graph.nodes())
        # The node that makes a view, by its value's number.
        self.makers: Dict[int, Any] = {}

    def run(self) -> bool:
        changed = self._unpack_parts()
        for position, node in enumerate(self.nodes):
            kind = node.kind()
            if kind in _VIEWS and self._shares(node):
                self.makers[node.output().unique()] = node
            elif _INPLACE.match(kind) and node.outputsSize() == 1:
                changed |= self._unshare(node, position)
        return changed

    def _unpack_parts(self) -> bool:
        """Write chunks and splits that are written to as slices; tell whether there were any."""
        written = set()
        for node in self.nodes:
            if _INPLACE.match(node.kind()):
                maker = _strip(node.inputsAt(0)).node()
                if maker.kind() == "prim::ListUnpack" and maker.input().node().kind() in _SPLITS:
                    written.add(maker.output().unique() if maker.outputsSize() == 1 else id(maker))
                    self._slice_parts(maker)
        self.nodes = list(self.graph.nodes())
        return bool(written)

    def _slice_parts(self, unpack: Any) -> None:
        split = unpack.input().node()
        source = split.inputsAt(0)
        axes = read_integers(list(split.inputs())[-1])
        if not axes or get_shape(source) is None:
            return
        writer, begin = Writer(self.graph, unpack), 0
        for output in list(unpack.outputs()):
            shape = get_shape(output)
            if shape is None:
                return
            if split.kind() == "aten::unbind":
                inputs = [axes[0], begin]
                kind, begin = "aten::select", begin + 1
            else:
                inputs = [axes[0], begin, begin + shape[axes[0]], 1]
                kind, begin = "aten::slice", inputs[2]
            numbers = [writer.make_integer(number) for number in inputs]
            part = writer.call(kind, [source, *numbers], output)
            output.replaceAllUsesWith(part)

    def _shares(self, node: Any) -> bool:
        if node.kind() not in _MAYBE_COPIES:
            return True
        chain = self._trace_back(node.inputsAt(0))
        return all(maker.kind() in _RESHAPES | _SAME for maker in chain)

    def _trace_back(self, value: Any) -> List[Any]:
        """List the nodes that make a view, the last one first; none for what is no view."""
        chain = []
        while value.unique() in self.makers:
            chain.append(self.makers[value.unique()])
            value = chain[-1].inputsAt(0)
        return chain

    def _unshare(self, write: Any, position: int) -> bool:
        target = write.inputsAt(0)
        chain = self._trace_back(target)
        root = chain[-1].inputsAt(0) if chain else target
        later = self.nodes[position + 1 :]
        others = [
            maker
            for number, maker in self.makers.items()
            if maker not in chain and self._get_root(maker.output()) == root.unique()
            if _is_read(maker.output(), later, self.graph)
        ]
        carried = write.kind() == _CARRIED and _is_one_index(chain)
        if not others and (not chain or carried or self._is_written_back(write, root, later)):
            return False
        writer = Writer(self.graph, write)
        if carried and chain:
            updated = root  # the exporter replaces what is read of it
        else:
            if write.kind() in _DETACHED and chain:
                write = _detach_write(write, writer)
            updated = self._write_back(chain, write.output(), writer) if chain else write.output()
        if updated is None:
            return False
        if updated.unique() != root.unique():
            replace_uses(root, updated, later, self.graph)
        # Every view that is still read is taken of the new value, the written one included.
        read = [maker for maker in chain[1:] if _is_read(maker.output(), later, self.graph)]
        for maker in [*chain[:1], *read, *others]:
            self._derive_again(maker, updated, writer, later, write if maker in chain[:1] else None)
        return True

    def _get_root(self, value: Any) -> int:
        chain = self._trace_back(value)
        return int((chain[-1].inputsAt(0) if chain else value).unique())

    def _is_written_back(self, write: Any, root: Any, later: Sequence[Any]) -> bool:
        """Tell whether `y[i] += v` is being carried out, which ends in a copy to the same place."""
        for node in later:
            if node.kind() == "aten::copy_" and _same(_strip(node.inputsAt(1)), write.output()):
                return _same(_strip(node.inputsAt(0)), root)
            if node.kind() not in _VIEWS and any(_same(value, root) for value in node.inputs()):
                return False
        return False

    def _write_back(self, chain: Sequence[Any], current: Any, writer: Writer) -> Optional[Any]:
        """Compute the root of a chain of views from the value of the last; None if that fails."""
        for maker in chain:
            source, kind = maker.inputsAt(0), maker.kind()
            shape = get_shape(source)
            if kind in _RESHAPES and shape is not None:
                sizes = writer.make_integers(shape)
                current = writer.call("aten::reshape", [current, sizes], source)
            elif kind in ("aten::transpose", "aten::t", "aten::numpy_T"):
                current = writer.clone(maker, current)
                current.setType(source.type())
            elif kind == "aten::permute":
                axes = read_integers(maker.inputsAt(1))
                if axes is None:
                    return None
                back = [axes.index(i) for i in range(len(axes))] if min(axes) >= 0 else None
                if back is None:
                    axes = [axis % len(axes) for axis in axes]
                    back = [axes.index(i) for i in range(len(axes))]
                current = writer.call(
                    "aten::permute", [current, writer.make_integers(back)], source
                )
            elif kind in _PARTS and shape is not None:
                current = _put_part(maker, shape, current, writer)
            elif kind not in _SAME:
                return None
            if current is None:
                return None
        return current

    def _derive_again(
        self, maker: Any, root: Any, writer: Writer, later: Sequence[Any], write: Any
    ) -> None:
        """Take a view of the root's new value, for whatever reads the view, or the write, later."""
        current = root
        for step in reversed([maker, *self._trace_back(maker.inputsAt(0))]):
            current = writer.clone(step, current)
            self.makers[current.unique()] = current.node()
        for old in (maker.output(), *([write.output()] if write is not None else [])):
            replace_uses(old, current, later, self.graph)


def _is_one_index(chain: Sequence[Any]) -> bool:
    """Tell whether a chain of views is what one index makes, such as `[:, 1]`, axis by axis."""
    expected = 0
    for maker in reversed(chain):
        axis = read_integers(maker.inputsAt(1)) if maker.kind() in _PARTS else None
        if axis != [expected]:
            return False
        expected += maker.kind() != "aten::select"
    return True


def _detach_write(write: Any, writer: Writer) -> Any:
    """Replace a write by its result: the exporter would look for the tensor behind the view."""
    target = write.inputsAt(0)
    if write.kind() == "aten::copy_":
        result = writer.call("aten::expand_as", [write.inputsAt(1), target], target)
    else:
        sizes = writer.make_integers(get_shape(target) or [])
        whole = writer.call("aten::reshape", [target, sizes], target)
        rest = list(write.inputs())[1:]
        result = writer.call("aten::index_put", [whole, *rest], target)
    write.output().replaceAllUsesWith(result)
    write.destroy()
    return result.node()


def _put_part(maker: Any, shape: Sequence[int], part: Any, writer: Writer) -> Optional[Any]:
    """Return a tensor with one part of it, which `maker` takes, replaced; None if unknown."""
    source, kind = maker.inputsAt(0), maker.kind()
    numbers = [read_integers(value) for value in list(maker.inputs())[1:]]
    if any(number is None for number in numbers):
        return None
    axis, *bounds = [number[0] for number in numbers if number]
    axis %= len(shape)
    length = shape[axis]
    if kind == "aten::select":
        places = [bounds[0] % length]
        part = writer.call("aten::unsqueeze", [part, writer.make_integer(axis)], source)
    elif kind == "aten::narrow":
        places = list(range(length))[bounds[0] :][: bounds[1]]
    else:
        places = list(range(length))[slice(*bounds)]
    if len(places) == length:
        return part
    first, last = places[0], places[-1] + 1
    whole = [slice(None)] * axis
    if len(places) == last - first:
        pieces = [part]
        for begin, end, place in ((0, first, 0), (last, length, len(pieces) + 1)):
            if begin < end:
                given = [axis, begin, end, 1]
                inputs = [source, *(writer.make_integer(number) for number in given)]
                pieces.insert(place, writer.call("aten::slice", inputs, source))
        inputs = [writer.make_list(pieces), writer.make_integer(axis)]
        return writer.call("aten::cat", inputs, source)
    order = torch.tensor([places.index(i) if i in places else 0 for i in range(length)])
    spread = writer.call(
        "aten::index_select", [part, writer.make_integer(axis), writer.make_tensor(order)], source
    )
    mask = torch.zeros(list(shape), dtype=torch.bool)
    mask[(*whole, places)] = True
    return writer.call("aten::where", [writer.make_tensor(mask), spread, source], source)


def _strip(value: Any) -> Any:
    """Return what a value is a view of."""
    while value.node().kind() in _VIEWS:
        value = value.node().inputsAt(0)
    return value


def _same(one: Any, other: Any) -> bool:
    return bool(one.unique() == other.unique())


def _is_read(value: Any, nodes: Sequence[Any], graph: Any) -> bool:
    number = value.unique()
    return any(
        read.unique() == number for node in [*nodes, graph.return_node()] for read in node.inputs()
    )
