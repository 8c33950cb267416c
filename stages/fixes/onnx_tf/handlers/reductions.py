"""Reductions and softmax, along axes in the order in which they lie."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles
from stages.fixes.onnx_tf.handlers.shapes import move_axis_last
from stages.fixes.onnx_tf.layout import Value, reshape


def _reduce_log_sum_exp(x: tf.Tensor, axis: Any, keepdims: bool) -> tf.Tensor:
    high = tf.reduce_max(x, axis, True)
    total = tf.math.log(tf.reduce_sum(tf.exp(x - high), axis, True)) + high
    return total if keepdims else tf.squeeze(total, axis)


_REDUCE: Dict[str, Callable[..., tf.Tensor]] = {
    "ReduceL1": lambda x, a, k: tf.reduce_sum(tf.abs(x), a, k),
    "ReduceL2": lambda x, a, k: tf.sqrt(tf.reduce_sum(tf.square(x), a, k)),
    "ReduceLogSum": lambda x, a, k: tf.math.log(tf.reduce_sum(x, a, k)),
    "ReduceLogSumExp": _reduce_log_sum_exp,
    "ReduceMax": tf.reduce_max,
    "ReduceMean": tf.reduce_mean,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceSum": tf.reduce_sum,
    "ReduceSumSquare": lambda x, a, k: tf.reduce_sum(tf.square(x), a, k),
}


@handles("layout", *_REDUCE)
def reduce(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    axes = sorted({axis % x.rank for axis in node.get("axes") or range(x.rank)})
    order = x.order
    positions = sorted(order.index(axis) for axis in axes)
    keep = bool(node.get("keepdims", 1))
    function = _REDUCE[node.op_type]
    tensor = x.tensor(order)
    if all(x.shape[axis] == 1 for axis in axes) and node.op_type in ("ReduceMean", "ReduceSum"):
        shape = [1 if i in axes else d for i, d in enumerate(x.shape)]
        kept = reshape(x, shape)
        return [kept if keep else reshape(x, [d for i, d in enumerate(x.shape) if i not in axes])]
    if keep:
        return [emitter.wrap(function(tensor, positions, True), order)]
    rest = [axis for axis in order if axis not in axes]
    ranks = {axis: i for i, axis in enumerate(sorted(rest))}
    return [emitter.wrap(function(tensor, positions, False), tuple(ranks[a] for a in rest))]


@handles("pooling", "GlobalAveragePool", "GlobalMaxPool")
def global_pool(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    order = x.order
    positions = [i for i, axis in enumerate(order) if axis >= 2]
    function = tf.reduce_mean if node.op_type == "GlobalAveragePool" else tf.reduce_max
    readers = emitter.readers.get(node.outputs[0], set())
    flattened = bool(readers) and readers <= {"Flatten", "Reshape", "Squeeze"}
    if flattened and order.index(0) < order.index(1):
        # Straight to (batch, channels) where no reader wants the axes of size 1. Otherwise they
        # stay: TensorFlow Lite 2.4 has a fast kernel for a MEAN that keeps them.
        flat = emitter.wrap(function(x.tensor(order), positions, False), (0, 1))
        return [reshape(flat, (*x.shape[:2], *[1] * (x.rank - 2)))]
    return [emitter.wrap(function(x.tensor(order), positions, True), order)]


@handles("pooling", "GlobalLpPool")
def global_lp_pool(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit the p-norm over space."""
    x = inputs[0]
    assert x is not None
    order, p = x.order, int(node.get("p", 2))
    positions = [i for i, axis in enumerate(order) if axis >= 2]
    tensor = raise_to_power(x.tensor(order), p)
    return [emitter.wrap(take_root(tf.reduce_sum(tensor, positions, True), p), order)]


def raise_to_power(x: tf.Tensor, p: int) -> tf.Tensor:
    """Compute the absolute value to the power of p."""
    if p == 1:
        return tf.abs(x)
    return tf.square(x) if p == 2 else tf.pow(tf.abs(x), float(p))


def take_root(x: tf.Tensor, p: int) -> tf.Tensor:
    if p == 1:
        return x
    return tf.sqrt(x) if p == 2 else tf.pow(x, 1.0 / p)


@handles("layout", "Softmax", "LogSoftmax")
def softmax(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit softmax; before opset 13, the axes from `axis` on count as one."""
    x = inputs[0]
    assert x is not None
    axis = node.get("axis", 1) % x.rank
    function = tf.nn.softmax if node.op_type == "Softmax" else tf.nn.log_softmax
    if all(d == 1 for d in x.shape[axis + 1 :]) and 2 <= x.rank <= 4:
        order = move_axis_last(x.order, axis)
        return [emitter.wrap(function(x.tensor(order)), order)]
    if None in x.shape:
        raise Decline
    head = 1
    for d in x.shape[:axis]:
        head *= d or 1
    flat = reshape(x, (head, x.size // head))
    return [reshape(emitter.wrap(function(flat.tensor())), x.shape)]


@handles("activations", "Hardmax")
def hardmax(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    if None in x.shape:
        raise Decline
    size = 1  # the axes from `axis` on count as one
    for d in x.shape[node.get("axis", 1) % x.rank :]:
        size *= int(d or 0)
    flat = reshape(x, (x.size // size, size))
    return [reshape(emitter.wrap(tf.one_hot(tf.argmax(flat.tensor(), -1), size)), x.shape)]
