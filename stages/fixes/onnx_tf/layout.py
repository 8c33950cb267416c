"""Tensors with an axis order of their own, so that a graph is channels-last from end to end.

A `Value` is one ONNX tensor. It may be known at conversion (`const`), and it may exist in the
TensorFlow graph in several axis orders: `order[i]` is the ONNX axis at position `i`. So an ONNX
Transpose costs nothing, elementwise operators work in whatever order they find, and a TensorFlow
transpose is emitted only where an operator needs another order.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

Order = Tuple[int, ...]
Shape = Tuple[Optional[int], ...]
# Builds a deferred tensor once it is needed, in the wanted order if that costs nothing.
Build = Callable[[Optional[Order]], Tuple[tf.Tensor, Order]]


def plain(rank: int) -> Order:
    """Return ONNX's own order of axes."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """Return the order batch, space, channels; below rank 3, ONNX's own."""
    return (0, *range(2, rank), 1) if rank >= 3 else plain(rank)


class Value:
    """One ONNX tensor; `shape` is in ONNX's order of axes."""

    def __init__(
        self,
        shape: Sequence[Optional[int]],
        dtype: tf.DType,
        const: Optional[np.ndarray] = None,
        build: Optional[Build] = None,
        origin: Optional[Value] = None,
    ) -> None:
        self.shape: Shape = tuple(shape)
        self.dtype = dtype
        self.const = const
        self.origin = origin
        # The order that operators should find, if not that of the existing tensor.
        self.preferred: Optional[Order] = None
        # What was quantised, by which scale and zero point, if it is the result of that.
        self.quantized: Optional[Tuple[Value, np.ndarray, np.ndarray]] = None
        # The same in 32 bits, once something has asked for it.
        self.narrowed: Optional[Value] = None
        self._build = build
        self._tensors: Dict[Order, tf.Tensor] = {}

    @classmethod
    def from_const(cls, array: np.ndarray) -> Value:
        array = np.asarray(array)
        return cls(array.shape, tf.as_dtype(array.dtype), const=array)

    @classmethod
    def from_tensor(cls, tensor: tf.Tensor, order: Optional[Order] = None) -> Value:
        if order is None:
            order = plain(tensor.shape.rank)
        sizes = tensor.shape.as_list()
        value = cls([sizes[order.index(axis)] for axis in range(len(order))], tensor.dtype)
        value._tensors[tuple(order)] = tensor
        return value

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return None not in self.shape

    @property
    def size(self) -> int:
        return int(np.prod([1 if d is None else d for d in self.shape], dtype=np.int64))

    @property
    def is_pending(self) -> bool:
        """Whether nothing has been emitted for it yet."""
        return self.const is None and not self._tensors

    @property
    def is_emitted(self) -> bool:
        """Whether it lies in the graph as the result of an operator."""
        return self.const is None and bool(self._tensors)

    def place(self) -> Tuple[tf.Tensor, Order]:
        """Return the tensor that its operator emitted, and the order of its axes."""
        order, tensor = next(iter(self._tensors.items()))
        return tensor, order

    @property
    def order(self) -> Order:
        """The order of its axes in the graph."""
        if self.const is not None:
            return plain(self.rank)
        if self.preferred is not None:
            return self.preferred
        self._realize(None)
        return next(iter(self._tensors))

    def tensor(self, order: Optional[Order] = None) -> tf.Tensor:
        """Return the tensor in this order of axes, by default in ONNX's."""
        order = plain(self.rank) if order is None else tuple(order)
        if order not in self._tensors:
            if self.const is not None:
                return tf.constant(np.asarray(self.const.transpose(order), order="C"))
            self._realize(order)
        if order not in self._tensors:
            source, tensor = next(iter(self._tensors.items()))
            self._tensors[order] = transpose(tensor, [source.index(axis) for axis in order])
        return self._tensors[order]

    def permute(self, axes: Sequence[int]) -> Value:
        """Return ONNX's Transpose of this value: another view of the same tensors."""
        if self.const is not None:
            return Value.from_const(self.const.transpose(axes))
        self._realize(None)
        value = Value([self.shape[axis] for axis in axes], self.dtype)
        if self.preferred is not None:
            value.preferred = tuple(list(axes).index(axis) for axis in self.preferred)
        for order, tensor in self._tensors.items():
            value._tensors[tuple(list(axes).index(axis) for axis in order)] = tensor
        return value

    def _realize(self, wanted: Optional[Order]) -> None:
        if not self._tensors and self._build is not None:
            tensor, order = self._build(wanted)
            self._tensors[order] = tensor


def narrow(value: Value) -> Value:
    """Return a value of 64-bit integers as one of 32 bits, and any other as it is.

    Constants that do not fit, such as the end of a slice that has none, stay as they are.
    """
    if value.dtype != tf.int64:
        return value
    if value.const is not None:
        fits = (np.abs(value.const) < 2**31).all()
        return Value.from_const(value.const.astype(np.int32)) if fits else value
    order = value.order
    if value.narrowed is None:
        value.narrowed = Value.from_tensor(tf.cast(value.tensor(order), tf.int32), order)
    return value.narrowed


def sizes(shape: Sequence[Optional[int]]) -> List[int]:
    """Return a shape as tf.reshape takes it: -1 for an unknown size."""
    return [-1 if d is None else int(d) for d in shape]


def reshape_tensor(tensor: tf.Tensor, shape: Sequence[Optional[int]]) -> tf.Tensor:
    """Reshape a tensor unless it has the shape already."""
    if tensor.shape.as_list() == list(shape):
        return tensor
    return tf.reshape(tensor, sizes(shape))


def transpose(tensor: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Transpose a tensor in as few dimensions as possible.

    Axes of size 1 and axes that stay together are merged: TensorFlow 2.4's layout pass moves
    four-dimensional transposes that it takes for a change of layout, sometimes to before their
    input exists ('does not dominate'). `prune.merge_input_transposes` undoes the merge where that
    cannot happen.
    """
    shape = tensor.shape.as_list()
    if shape.count(None) > 1:
        return tf.transpose(tensor, list(axes))
    result = [shape[axis] for axis in axes]
    runs: List[List[int]] = []
    for axis in axes:
        if shape[axis] == 1:
            continue
        if runs and _follows(shape, runs[-1][-1], axis):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) < 2 or runs == sorted(runs):
        return reshape_tensor(tensor, result)
    ordered = sorted(runs)
    merged = [_multiply([shape[axis] for axis in run]) for run in ordered]
    target = [ordered.index(run) for run in runs]
    return reshape_tensor(_emit_transpose(reshape_tensor(tensor, merged), target), result)


def _emit_transpose(tensor: tf.Tensor, axes: List[int]) -> tf.Tensor:
    """Transpose; beyond five axes, one axis at a time, as TensorFlow Lite 2.4 supports no more."""
    if len(axes) <= 5:
        return tf.transpose(tensor, axes)
    current = sorted(axes)
    shape = tensor.shape.as_list()
    for place, axis in enumerate(axes):
        where = current.index(axis)
        if where == place:
            continue
        parts = [current[:place], current[place:where], [axis], current[where + 1 :]]
        dims = [_multiply([shape[a] for a in part]) for part in parts]
        tensor = tf.transpose(tf.reshape(tensor, sizes(dims)), [0, 2, 1, 3])
        current = [*parts[0], axis, *parts[1], *parts[3]]
    return reshape_tensor(tensor, [shape[axis] for axis in axes])


def _follows(shape: Sequence[Optional[int]], first: int, second: int) -> bool:
    """Tell whether the second axis follows the first, with only axes of size 1 between."""
    return second > first and all(shape[axis] == 1 for axis in range(first + 1, second))


def _multiply(dims: Sequence[Optional[int]]) -> Optional[int]:
    return None if None in dims else int(np.prod(dims, dtype=np.int64))


def reshape(value: Value, shape: Sequence[Optional[int]]) -> Value:
    """Return ONNX's Reshape of a value, emitted once needed and in the cheapest order."""
    shape = tuple(shape)
    if value.const is not None:
        return Value.from_const(value.const.reshape(sizes(shape)))
    while value.origin is not None and value.is_pending:
        value = value.origin  # a reshape of a reshape
    if value.shape == shape:
        return value

    def build(wanted: Optional[Order]) -> Tuple[tf.Tensor, Order]:
        groups = _group_axes(value.shape, shape)
        if groups is None:
            return reshape_tensor(value.tensor(), shape), plain(len(shape))
        order = value.order
        found = _find_order_after(groups, order, value.shape)
        if found is None:
            # Axes to be merged lie apart: bring them together on the way to the wanted order.
            last = len(shape) >= 4 and order != plain(value.rank)
            goal = wanted or (channels_last(len(shape)) if last else plain(len(shape)))
            order = _find_order_before(groups, goal, value.shape, shape)
            found = _find_order_after(groups, order, value.shape) or []
        tensor = value.tensor(order)
        final = _insert_ones(found, shape, wanted, order != plain(value.rank))
        return reshape_tensor(tensor, [shape[axis] for axis in final]), final

    return Value(shape, value.dtype, build=build, origin=value)


Groups = List[Tuple[List[int], List[int]]]


def _group_axes(before: Shape, after: Shape) -> Optional[Groups]:
    """Return the smallest sets of neighbouring axes with equal products on both sides, or None."""
    left = [axis for axis, d in enumerate(before) if d != 1]
    right = [axis for axis, d in enumerate(after) if d != 1]
    groups: Groups = []
    while left or right:
        if not left or not right:
            return None
        ins, outs = [left.pop(0)], [right.pop(0)]
        a, b = before[ins[0]], after[outs[0]]
        while a != b:
            if a is None or b is None:
                return None
            if a < b and left:
                ins.append(left.pop(0))
                size = before[ins[-1]]
                a = None if size is None else a * size
            elif right:
                outs.append(right.pop(0))
                size = after[outs[-1]]
                b = None if size is None else b * size
            else:
                return None
        groups.append((ins, outs))
    return groups


def _find_order_after(groups: Groups, order: Order, shape: Shape) -> Optional[List[int]]:
    """Return the order, without axes of size 1, that a plain reshape gives; None if none works."""
    queue = [axis for axis in order if shape[axis] != 1]
    result: List[int] = []
    while queue:
        ins, outs = next(group for group in groups if queue[0] in group[0])
        if queue[: len(ins)] != ins:
            return None
        queue = queue[len(ins) :]
        result += outs
    return result


def _find_order_before(groups: Groups, goal: Order, before: Shape, after: Shape) -> Order:
    """Return the order from which a reshape comes closest to the wanted order."""
    position = {axis: i for i, axis in enumerate(goal)}
    ordered = sorted(groups, key=lambda group: position[group[1][0]])
    order = [axis for ins, _ in ordered for axis in ins]
    ones = [axis for axis, d in enumerate(before) if d == 1]
    return tuple(ones + order)


def _insert_ones(found: List[int], shape: Shape, wanted: Optional[Order], last: bool) -> Order:
    """Insert the axes of size 1 into an order so that it becomes a usual one, if possible."""
    usual = [channels_last(len(shape)), plain(len(shape))]
    candidates = ([wanted] if wanted else []) + (usual if last else usual[::-1])
    for order in candidates:
        if [axis for axis in order if shape[axis] != 1] == found:
            return order
    ones = [axis for axis, d in enumerate(shape) if d == 1]
    return tuple(ones + found)
