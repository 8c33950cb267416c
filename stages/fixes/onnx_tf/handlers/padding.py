"""Pad with static amounts: constant, reflect, edge, and negative amounts."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_constant
from stages.fixes.onnx_tf.handlers.shapes import slice_value
from stages.fixes.onnx_tf.layout import Value


@handles("padding", "Pad")
def pad(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    amounts = require_constant(inputs[1]) if len(inputs) > 1 else np.array(node.get("pads"))
    value = node.get("value", 0.0)
    if len(inputs) > 2 and inputs[2] is not None:
        value = require_constant(inputs[2]).ravel()[0]
    pairs = [(int(b), int(e)) for b, e in zip(amounts[: x.rank], amounts[x.rank :])]
    if any(b < 0 or e < 0 for b, e in pairs):
        index = [slice(None)] * x.rank
        for axis, (begin, end) in enumerate(pairs):
            length = x.shape[axis]
            if begin >= 0 and end >= 0:
                continue
            if length is None:
                raise Decline
            index[axis] = slice(max(-begin, 0), length - max(-end, 0))
        x = slice_value(emitter, x, index)
        pairs = [(max(b, 0), max(e, 0)) for b, e in pairs]
    if not any(b or e for b, e in pairs):
        return [x]
    order = x.order
    tensor = x.tensor(order)
    mode = node.get("mode", "constant")
    if mode == "edge":
        for position, axis in enumerate(order):
            tensor = _pad_edge(tensor, position, *pairs[axis])
    else:
        paddings = [pairs[axis] for axis in order]
        shape = [
            d if d is None else d + b + e for d, (b, e) in zip(tensor.shape.as_list(), paddings)
        ]
        if tensor.shape.rank > 4 and None not in shape:
            tensor, paddings = _merge_axes(tensor, paddings)
        if tensor.shape.rank > 4 and None not in shape:
            # Five axes are left: the last ones are padded first, as rows of their own.
            sizes = tensor.shape.as_list()
            rows = tf.reshape(tensor, [int(np.prod(sizes[:-3])), *sizes[-3:]])
            rows = _pad_all(rows, [(0, 0), *paddings[-3:]], mode, value)
            inner = rows.shape.as_list()[1:]
            tensor = tf.reshape(rows, [*sizes[:-3], int(np.prod(inner))])
            paddings = [*paddings[:-3], (0, 0)]
        tensor = _pad_all(tensor, paddings, mode, value)
        if tensor.shape.rank != len(shape):
            tensor = tf.reshape(tensor, shape)
    return [emitter.wrap(tensor, order)]


def _pad_all(
    tensor: tf.Tensor, paddings: List[Tuple[int, int]], mode: str, value: float
) -> tf.Tensor:
    if mode == "reflect":
        return tf.pad(tensor, paddings, "REFLECT")
    if value == 0:
        return tf.pad(tensor, paddings)
    return tf.pad(tensor, paddings, constant_values=tf.constant(value, tensor.dtype))


def _pad_edge(tensor: tf.Tensor, axis: int, begin: int, end: int) -> tf.Tensor:
    """Pad an axis by repeating its first and last elements."""
    if not begin and not end:
        return tensor
    shape = tensor.shape.as_list()
    parts = []
    for count, start in ((begin, 0), (end, (shape[axis] or 0) - 1)):
        index = [slice(None)] * len(shape)
        index[axis] = slice(start, start + 1)
        parts.append([tensor[tuple(index)]] * count)
    return tf.concat([*parts[0], tensor, *parts[1]], axis)


def _merge_axes(tensor: tf.Tensor, paddings: List[Tuple[int, int]]) -> tuple:
    """Merge neighbouring axes without padding: TensorFlow Lite 2.4 pads at most four axes."""
    shape: List[int] = []
    merged: List[Tuple[int, int]] = []
    for size, pair in zip(tensor.shape.as_list(), paddings):
        if merged and merged[-1] == (0, 0) and pair == (0, 0):
            shape[-1] *= size
        else:
            shape.append(size)
            merged.append(pair)
    return tf.reshape(tensor, shape), merged
