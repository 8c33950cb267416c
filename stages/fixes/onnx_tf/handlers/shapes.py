"""Operators that move elements: reshapes, transposes, concatenation, slices, gathers, top-k."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np
import onnx
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import (
    Decline,
    Emitter,
    Inputs,
    Node,
    handles,
    require_constant,
    require_static,
)
from stages.fixes.onnx_tf.handlers.elementwise import apply_unary, broadcast
from stages.fixes.onnx_tf.layout import Order, Value, plain, reshape


@handles("layout", "Reshape")
def reshape_handler(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    wanted = require_constant(inputs[1]) if len(inputs) > 1 else np.array(node.get("shape"))
    shape = [x.shape[i] if d == 0 else int(d) for i, d in enumerate(wanted)]
    if -1 in shape:
        if None in shape or None in x.shape:
            raise Decline
        rest = int(np.prod([d for d in shape if d != -1]))
        shape[shape.index(-1)] = x.size // max(rest, 1)
    return [reshape(x, shape)]


@handles("layout", "Flatten")
def flatten(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    axis = node.get("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    if None in x.shape[1:]:
        raise Decline
    if axis == 1:
        tail = int(np.prod(x.shape[1:]))
        return [reshape(x, (x.shape[0], tail))]
    require_static(x)
    head = int(np.prod(x.shape[:axis], dtype=np.int64))
    return [reshape(x, (head, x.size // head))]


@handles("layout", "Squeeze", "Unsqueeze")
def squeeze(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    axes = node.get("axes")
    if node.op_type == "Squeeze":
        if axes is None:
            require_static(x)
            axes = [i for i, d in enumerate(x.shape) if d == 1]
        gone = {axis % x.rank for axis in axes}
        return [reshape(x, [d for i, d in enumerate(x.shape) if i not in gone])]
    rank = x.rank + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(x.shape)
    return [reshape(x, [1 if i in new else next(rest) for i in range(rank)])]


@handles("layout", "Transpose")
def transpose_handler(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    axes = node.get("perm") or list(range(x.rank))[::-1]
    if "layout" in emitter.fixes:
        return [x.permute(axes)]
    return [Value.from_tensor(tf.transpose(x.tensor(), axes))]


@handles("layout", "Concat")
def concat(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    values = [value for value in inputs if value is not None and 0 not in value.shape]
    if len(values) == 1:
        return [values[0]]
    axis = node.get("axis") % values[0].rank
    order = find_most_common_order(values)
    tensors = [value.tensor(order) for value in values]
    return [emitter.wrap(tf.concat(tensors, order.index(axis)), order)]


def find_most_common_order(values: Sequence[Value]) -> Order:
    weights: dict = {}
    for value in values:
        if value.const is None:
            weights[value.order] = weights.get(value.order, 0) + value.size
    return max(weights, key=lambda o: weights[o]) if weights else plain(values[0].rank)


@handles("layout", "Split")
def split(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    axis = node.get("axis", 0) % x.rank
    count = len(node.outputs)
    length = x.shape[axis]
    if length is None:
        raise Decline
    parts = node.get("split") or [length // count] * count
    order = x.order
    tensor = x.tensor(order)
    position = order.index(axis)
    if len(set(parts)) == 1:
        tensors = tf.split(tensor, len(parts), position)
    else:
        tensors = tf.split(tensor, parts, position)
    return [emitter.wrap(t, order) for t in tensors]


@handles("layout", "Expand")
def expand(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    require_static(x)
    target = [int(d) for d in require_constant(inputs[1])]
    rank = max(x.rank, len(target))
    target = [1] * (rank - len(target)) + target
    shape = (1,) * (rank - x.rank) + x.shape
    x = reshape(x, shape)
    return [tile_value(emitter, x, [d if shape[i] == 1 else 1 for i, d in enumerate(target)])]


@handles("selection", "Tile")
def tile(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    assert inputs[0] is not None
    return [tile_value(emitter, inputs[0], [int(n) for n in require_constant(inputs[1])])]


def tile_value(emitter: Emitter, x: Value, counts: Sequence[int]) -> Value:
    if all(count == 1 for count in counts):
        return x
    order = x.order
    return emitter.wrap(tf.tile(x.tensor(order), [counts[axis] for axis in order]), order)


@handles("selection", "Slice")
def slice_handler(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    if len(inputs) > 1:
        starts, ends = require_constant(inputs[1]).tolist(), require_constant(inputs[2]).tolist()
        axes = (
            require_constant(inputs[3]).tolist()
            if len(inputs) > 3 and inputs[3] is not None
            else None
        )
        steps = (
            require_constant(inputs[4]).tolist()
            if len(inputs) > 4 and inputs[4] is not None
            else None
        )
    else:
        starts, ends, axes, steps = node.get("starts"), node.get("ends"), node.get("axes"), None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index: List[slice] = [slice(None)] * x.rank
    for axis, start, end, step in zip(axes, starts, ends, steps):
        axis %= x.rank
        length = x.shape[axis]
        if length is None:
            raise Decline
        stop = None if step < 0 and end < -length else end
        index[axis] = slice(start, stop, step)
    return [slice_value(emitter, x, index)]


def slice_value(emitter: Emitter, x: Value, index: Sequence[slice]) -> Value:
    """Slice a value as NumPy does, with one slice per axis."""
    ranges = []
    for length, s in zip(x.shape, index):
        if s == slice(None):
            ranges.append((0, length, 1))
            continue
        assert length is not None
        ranges.append(s.indices(length))
    if all(r == (0, length, 1) for r, length in zip(ranges, x.shape)):
        return x
    order = x.order
    begin, end, step, end_mask = [], [], [], 0
    for position, axis in enumerate(order):
        first, last, stride = ranges[axis]
        begin.append(first)
        step.append(stride)
        if last is None or last < 0:
            end_mask |= 1 << position
        end.append(0 if last is None or last < 0 else last)
    tensor = tf.strided_slice(x.tensor(order), begin, end, step, end_mask=end_mask)
    return emitter.wrap(tensor, order)


@handles("selection", "Gather")
def gather(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit a gather of one index or of evenly spaced ones as a slice, others as GATHER."""
    x, indices = inputs
    assert x is not None and indices is not None
    axis = node.get("axis", 0) % x.rank
    length = x.shape[axis]
    if indices.const is not None and length is not None:
        array = indices.const % length
        flat = array.ravel()
        steps = np.diff(flat)
        shape = (*x.shape[:axis], *array.shape, *x.shape[axis + 1 :])
        if flat.size and (flat.size == 1 or ((steps == steps[0]).all() and steps[0] > 0)):
            index = [slice(None)] * x.rank
            step = int(steps[0]) if steps.size else 1
            index[axis] = slice(int(flat[0]), int(flat[-1]) + 1, step)
            return [reshape(slice_value(emitter, x, index), shape)]
        indices = Value.from_const(array.astype(np.int32))
    flat_order = x.order if indices.rank <= 1 else plain(x.rank)
    position = flat_order.index(axis)
    ids = indices.tensor()
    tensor = tf.gather(x.tensor(flat_order), ids, axis=position)
    if indices.rank == 0:
        rest = [a - (a > axis) for a in flat_order if a != axis]
        return [emitter.wrap(tensor, tuple(rest))]
    if indices.rank == 1:
        return [emitter.wrap(tensor, flat_order)]
    return [emitter.wrap(tensor)]


@handles("selection", "ArgMax", "ArgMin")
def arg_max(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    axis = node.get("axis", 0) % x.rank
    order = x.order
    function = tf.argmax if node.op_type == "ArgMax" else tf.argmin
    tensor, place = x.tensor(order), order.index(axis)
    last = bool(node.get("select_last_index", 0))
    if last:
        if x.shape[axis] is None:
            raise Decline
        tensor = tf.reverse(tensor, [place])
    tensor = function(tensor, axis=place, output_type=emitter.integer)
    if last:
        tensor = tf.constant(x.shape[axis] - 1, emitter.integer) - tensor
    rest = tuple(a - (a > axis) for a in order if a != axis)
    value = emitter.wrap(tensor, rest)
    if node.get("keepdims", 1):
        value = reshape(value, [1 if i == axis else d for i, d in enumerate(x.shape)])
    return [value]


@handles("selection", "TopK")
def top_k(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit TOPK_V2 on the last axis; the smallest are the largest of the negatives."""
    x = inputs[0]
    assert x is not None
    k = int(require_constant(inputs[1]).ravel()[0]) if len(inputs) > 1 else node.get("k")
    axis = node.get("axis", -1) % x.rank
    order = move_axis_last(x.order, axis)
    tensor = x.tensor(order)
    largest = node.get("largest", 1)
    values, indices = tf.nn.top_k(tensor if largest else -tensor, k)
    if not largest:
        values = -values
    return [emitter.wrap(values, order), emitter.wrap(tf.cast(indices, emitter.integer), order)]


def move_axis_last(order: Order, axis: int) -> Order:
    """Return the order with this axis moved to the end."""
    return (*(a for a in order if a != axis), axis)


@handles("selection", "OneHot")
def one_hot(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    indices, depth, values = inputs
    assert indices is not None
    size = int(require_constant(depth).ravel()[0])
    off, on = require_constant(values)
    axis = node.get("axis", -1) % (indices.rank + 1)
    index = tf.cast(indices.tensor(), tf.int32)
    if indices.const is None or (indices.const < 0).any():  # they count from the end
        index = tf.where(tf.less(index, 0), index + size, index)
    hot = tf.one_hot(index, size, on, off)
    order = (*(a for a in range(indices.rank + 1) if a != axis), axis)
    return [emitter.wrap(hot, order)]


@handles("selection", "ConstantOfShape")
def constant_of_shape(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    shape = [int(d) for d in require_constant(inputs[0])]
    value = (
        onnx.numpy_helper.to_array(node.get("value")) if node.get("value") else np.zeros(1, "f4")
    )
    return [Value.from_const(np.full(shape, value.ravel()[0], value.dtype))]


@handles("selection", "CumSum")
def cum_sum(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit a cumulative sum as a product with a triangle of ones."""
    x = inputs[0]
    assert x is not None
    axis = int(require_constant(inputs[1]).ravel()[0]) % x.rank
    length = x.shape[axis]
    if length is None or x.dtype not in (tf.float32, tf.int32, tf.int64):
        raise Decline
    kind = x.dtype.as_numpy_dtype
    triangle = np.triu(np.ones((length, length), kind), int(node.get("exclusive", 0)))
    if node.get("reverse", 0):
        triangle = triangle.T
    order = move_axis_last(x.order, axis)
    tensor = x.tensor(order)
    if x.dtype != tf.float32:  # TensorFlow Lite 2.4 has no matrix product of integers
        rows = tf.reshape(tensor, [-1, 1, length])
        flat = tf.reduce_sum(rows * tf.constant(np.ascontiguousarray(triangle.T)), -1)
        return [emitter.wrap(tf.reshape(flat, tensor.shape.as_list()), order)]
    flat = tf.matmul(tf.reshape(tensor, [-1, length]), tf.constant(triangle))
    return [emitter.wrap(tf.reshape(flat, tensor.shape.as_list()), order)]


@handles("selection", "GatherElements")
def gather_elements(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit GATHER on the flattened input, each index offset by where its row begins."""
    x, indices = inputs
    assert x is not None and indices is not None
    require_static(x, indices)
    axis = node.get("axis", 0) % x.rank
    grid = np.indices(indices.shape)
    strides = [int(np.prod(x.shape[i + 1 :], dtype=np.int64)) for i in range(x.rank)]
    offset = sum(grid[i] * strides[i] for i in range(x.rank) if i != axis)
    base = Value.from_const(np.asarray(offset, np.int32))
    if indices.const is not None:  # negative ones count from the end
        indices = Value.from_const(indices.const % x.shape[axis])
    ids = apply_unary(emitter, lambda t: tf.cast(t, tf.int32), indices)
    if strides[axis] != 1:
        ids = apply_unary(emitter, lambda t: t * strides[axis], ids)
    if np.any(offset):
        ids = broadcast(emitter, tf.add, ids, base)
    flat = tf.reshape(x.tensor(), [-1])
    if indices.rank > 4:
        # TensorFlow 2.4's converter moves what is computed of a reshape to before it, where more
        # than four axes do not broadcast: a row of elements has one.
        row = tf.gather(flat, tf.reshape(ids.tensor(), [-1]))
        return [reshape(emitter.wrap(row), indices.shape)]
    return [emitter.wrap(tf.gather(flat, ids.tensor()))]


@handles("selection", "GatherND")
def gather_nd(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit GatherND as GATHER of rows of the flattened input."""
    x, indices = inputs
    assert x is not None and indices is not None
    require_static(x, indices)
    lead = int(node.get("batch_dims", 0))
    depth = int(indices.shape[-1] or 0)
    sizes = [int(d or 0) for d in x.shape]
    rest = sizes[lead + depth :]
    strides = [int(np.prod(sizes[i + 1 : lead + depth])) for i in range(lead, lead + depth)]
    shape = [int(d or 0) for d in indices.shape[:-1]]
    rows = int(np.prod(sizes[lead : lead + depth]))
    batches = int(np.prod(sizes[:lead]))
    offset = np.repeat(np.arange(batches) * rows, int(np.prod(shape[lead:]))).reshape(shape)
    if indices.const is not None:  # negative ones count from the end
        places = (indices.const % np.array(sizes[lead : lead + depth])) @ np.array(strides)
        ids = tf.constant((places + offset).astype(np.int32))
    else:
        parts = tf.cast(indices.tensor(), tf.int32)
        bounds = tf.constant(np.array(sizes[lead : lead + depth], np.int32))
        parts = tf.where(tf.less(parts, 0), parts + bounds, parts)
        ids = tf.reduce_sum(parts * tf.constant(np.array(strides, np.int32)), -1)
        if offset.any():
            ids = ids + tf.constant(offset.astype(np.int32))
    table = tf.reshape(x.tensor(), [batches * rows, *rest])
    return [emitter.wrap(tf.gather(table, ids))]


@handles("selection", "EyeLike")
def eye_like(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    require_static(x)
    rows, columns = (int(d or 0) for d in x.shape)
    kind = onnx.mapping.TENSOR_TYPE_TO_NP_TYPE.get(node.get("dtype"), x.dtype.as_numpy_dtype)
    return [Value.from_const(np.eye(rows, columns, int(node.get("k", 0)), dtype=kind))]


@handles("selection", "Compress")
def compress(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit Compress by a constant condition as GATHER: else its output's size is open."""
    x, condition = inputs
    assert x is not None
    require_static(x)
    axis = node.get("axis")
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    axis %= x.rank
    flags = require_constant(condition).ravel()[: x.shape[axis]]
    ids = np.flatnonzero(flags).astype(np.int32)
    order = x.order
    picked = tf.gather(x.tensor(order), tf.constant(ids), axis=order.index(axis))
    return [emitter.wrap(picked, order)]


@handles("selection", "ReverseSequence")
def reverse_sequence(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x, lengths = inputs
    assert x is not None and lengths is not None
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)
    order = (batch, time, *(a for a in range(x.rank) if a not in (batch, time)))
    counts = tf.cast(lengths.tensor(), tf.int32)
    return [emitter.wrap(tf.reverse_sequence(x.tensor(order), counts, 1, 0), order)]
