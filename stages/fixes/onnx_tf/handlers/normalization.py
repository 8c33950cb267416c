"""BatchNormalization that could not be folded, InstanceNormalization, GroupNorm, LRN."""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_constant
from stages.fixes.onnx_tf.handlers.convolution import get_channels_last
from stages.fixes.onnx_tf.handlers.elementwise import broadcast
from stages.fixes.onnx_tf.layout import Value, reshape


@handles("batchnorm", "BatchNormalization")
def batch_norm(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit one multiplication and one addition, with constants computed in float64."""
    x = inputs[0]
    assert x is not None
    if len([name for name in node.outputs if name]) > 1:
        raise Decline
    scale, bias, mean, variance = (
        require_constant(value).astype(np.float64) for value in inputs[1:5]
    )
    factor = scale / np.sqrt(variance + node.get("epsilon", 1e-5))
    shape = (1, -1, *[1] * (x.rank - 2))
    multiplier = Value.from_const(factor.reshape(shape).astype(np.float32))
    shift = Value.from_const((bias - mean * factor).reshape(shape).astype(np.float32))
    return [broadcast(emitter, tf.add, broadcast(emitter, tf.multiply, x, multiplier), shift)]


@handles("normalization", "InstanceNormalization")
def instance_norm(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Normalize over space, or over groups of channels too where GroupNorm was exported."""
    x = inputs[0]
    assert x is not None
    scale, bias = require_constant(inputs[1]), require_constant(inputs[2])
    epsilon = node.get("epsilon", 1e-5)
    if None in x.shape:
        raise Decline
    source = x.origin
    trivial = (scale == 1).all() and (bias == 0).all()
    if source is not None and x.is_pending and trivial and _is_grouping(source, x):
        groups = int(x.shape[1] or 1)
        return [reshape(_normalize_groups(emitter, source, groups, epsilon), x.shape)]
    if x.rank == 3:
        return [_normalize_row(emitter, x, scale, bias, epsilon)]
    tensor = get_channels_last(x)
    shape = tensor.shape.as_list()
    if x.rank > 4:
        tensor = tf.reshape(tensor, [shape[0], -1, shape[-1]])
    axes = list(range(1, tensor.shape.rank - 1))
    result = _normalize(tensor, axes, epsilon)
    if not (scale == 1).all():
        result = result * tf.constant(scale)
    if bias.any():
        result = result + tf.constant(bias)
    return [emitter.wrap_last(result if x.rank <= 4 else tf.reshape(result, shape))]


def _normalize_row(
    emitter: Emitter, x: Value, scale: np.ndarray, bias: np.ndarray, epsilon: float
) -> Value:
    """Normalize one dimension of space in the order in which it lies.

    TensorFlow 2.4's converter moves a transpose of three axes to behind a mean with wrong shapes.
    """
    order = x.order
    result = _normalize(x.tensor(order), [order.index(2)], epsilon)
    shape = [-1 if axis == 1 else 1 for axis in order]
    if not (scale == 1).all():
        result = result * tf.constant(scale.reshape(shape))
    if bias.any():
        result = result + tf.constant(bias.reshape(shape))
    return emitter.wrap(result, order)


def _is_grouping(source: Value, x: Value) -> bool:
    """Tell whether a pending reshape only splits channels into groups and merges the rest."""
    if source.rank < 3 or x.rank < 3 or source.shape[0] != x.shape[0]:
        return False
    channels, groups = source.shape[1], x.shape[1]
    return bool(channels and groups and channels % groups == 0)


def _normalize_groups(emitter: Emitter, x: Value, groups: int, epsilon: float) -> Value:
    tensor = get_channels_last(x)
    shape = tensor.shape.as_list()
    split = tf.reshape(tensor, [shape[0], -1, groups, shape[-1] // groups])
    return emitter.wrap_last(tf.reshape(_normalize(split, [1, 3], epsilon), shape))


def _normalize(x: tf.Tensor, axes: List[int], epsilon: float) -> tf.Tensor:
    centred = x - tf.reduce_mean(x, axes, True)
    variance = tf.reduce_mean(tf.square(centred), axes, True)
    return centred * tf.math.rsqrt(variance + epsilon)


@handles("normalization", "LRN")
def lrn(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    size = node.get("size")
    if x.rank != 4 or size % 2 == 0:
        raise Decline
    alpha = node.get("alpha", 1e-4) / size
    result = tf.nn.local_response_normalization(
        get_channels_last(x), size // 2, node.get("bias", 1.0), alpha, node.get("beta", 0.75)
    )
    return [emitter.wrap_last(result)]


@handles("normalization", "LpNormalization")
def lp_norm(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x: Optional[Value] = inputs[0]
    assert x is not None
    order = x.order
    position = order.index(node.get("axis", -1) % x.rank)
    tensor = x.tensor(order)
    if node.get("p", 2) == 1:
        norm = tf.reduce_sum(tf.abs(tensor), position, True)
    else:
        norm = tf.sqrt(tf.reduce_sum(tf.square(tensor), position, True))
    return [emitter.wrap(tensor / norm, order)]


@handles("normalization", "MeanVarianceNormalization")
def mean_variance(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    order = x.order
    positions = [order.index(axis % x.rank) for axis in node.get("axes", [0, 2, 3])]
    return [emitter.wrap(_normalize(x.tensor(order), positions, 1e-9), order)]
