"""MaxPool and AveragePool of any padding, rounding, dilation and rank."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles
from stages.fixes.onnx_tf.handlers.convolution import Pads, get_channels_last, is_same, resolve_pads
from stages.fixes.onnx_tf.handlers.reductions import raise_to_power, take_root
from stages.fixes.onnx_tf.layout import Value, reshape

_LOWEST = float(np.finfo(np.float32).min)


@handles("pooling", "MaxPool", "AveragePool")
def pool(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit one builtin pool; three dimensions as two pools, one dimension as a row."""
    x = inputs[0]
    assert x is not None
    if None in x.shape[1:] or x.dtype != tf.float32:
        raise Decline
    if any(name in emitter.consumed for name in node.outputs[1:]):
        raise Decline  # the indices of the maxima are read
    kernel = node.get("kernel_shape")
    count = len(kernel)
    if count > 3:
        raise Decline
    strides = node.get("strides") or [1] * count
    dilations = node.get("dilations") or [1] * count
    spatial = [int(d or 0) for d in x.shape[2:]]
    pads = resolve_pads(node, spatial, kernel)
    given = [tuple(p) for p in pads]
    if node.get("ceil_mode", 0):
        pads = _compute_ceil_pads(spatial, kernel, strides, dilations, pads)
    average = node.op_type == "AveragePool"
    include = bool(node.get("count_include_pad", 0))
    tensor = get_channels_last(x)
    if count == 1:
        flat = get_channels_last(reshape(x, (*x.shape[:2], 1, x.shape[2])))
        result = _pool2d(
            flat,
            [1, *kernel],
            [1, *strides],
            [1, *dilations],
            [(0, 0), *pads],
            [(0, 0), *given],
            average,
            include,
        )
        value = emitter.wrap_last(result)
        return [reshape(value, (*value.shape[:2], value.shape[3]))]
    if count == 2:
        result = _pool2d(tensor, kernel, strides, dilations, pads, given, average, include)
        return [emitter.wrap_last(result)]
    # Pool each plane, then over depth: for maximum and mean that equals pooling the box.
    batch, depth, height, width, channels = tensor.shape.as_list()
    flat = tf.reshape(tensor, [-1, height, width, channels])
    if kernel[1:] != [1, 1] or strides[1:] != [1, 1]:
        flat = _pool2d(
            flat, kernel[1:], strides[1:], dilations[1:], pads[1:], given[1:], average, include
        )
    height, width = flat.shape.as_list()[1:3]
    rows = tf.reshape(flat, [-1, depth, height * width, channels])
    rows = _pool2d(
        rows,
        [kernel[0], 1],
        [strides[0], 1],
        [dilations[0], 1],
        [pads[0], (0, 0)],
        [given[0], (0, 0)],
        average,
        include,
    )
    shape = [-1 if batch is None else batch, rows.shape.as_list()[1], height, width, channels]
    return [emitter.wrap_last(tf.reshape(rows, shape))]


@handles("pooling", "LpPool")
def lp_pool(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit the p-norm of each window as a root of a mean of powers."""
    x = inputs[0]
    assert x is not None
    kernel = node.get("kernel_shape")
    if None in x.shape[1:] or x.rank != 4 or len(kernel) != 2:
        raise Decline
    p = int(node.get("p", 2))
    strides = node.get("strides") or [1, 1]
    pads = resolve_pads(node, [int(d or 0) for d in x.shape[2:]], kernel)
    tensor = raise_to_power(get_channels_last(x), p)
    if any(begin or end for begin, end in pads):
        tensor = tf.pad(tensor, [(0, 0), *pads, (0, 0)])
    mean = tf.nn.avg_pool2d(tensor, kernel, strides, "VALID")
    return [emitter.wrap_last(take_root(mean * float(np.prod(kernel)), p))]


def _compute_ceil_pads(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
) -> Pads:
    """Return the padding with which rounding down gives the output size of rounding up."""
    result = []
    for size, k, stride, dilation, (begin, end) in zip(spatial, kernel, strides, dilations, pads):
        reach = (k - 1) * dilation + 1
        steps = -(-(size + begin + end - reach) // stride)
        if steps * stride >= size + begin:
            steps -= 1  # PyTorch: the last window must start inside the input or its left padding
        result.append((begin, max(steps * stride + reach - size - begin, end)))
    return result


def _pool2d(
    x: tf.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    given: Sequence[Tuple[int, int]],
    average: bool,
    include: bool,
) -> tf.Tensor:
    spatial = x.shape.as_list()[1:3]
    if max(dilations) > 1:
        if average:
            raise Decline
        return _pool_dilated_max(x, kernel, strides, dilations, pads)
    function = tf.nn.avg_pool2d if average else tf.nn.max_pool2d
    padded = any(begin or end for begin, end in pads)
    if is_same(spatial, pads, kernel, strides, [1, 1]) and not (average and include and padded):
        return function(x, kernel, strides, "SAME")
    if padded:
        paddings = [(0, 0), *pads, (0, 0)]
        x = tf.pad(x, paddings) if average else tf.pad(x, paddings, constant_values=_LOWEST)
    y = function(x, kernel, strides, "VALID")
    if average and padded:
        factor = _compute_correction(spatial, kernel, strides, pads, given, include)
        if not (factor == 1).all():
            y = y * tf.constant(factor)
    return y


def _compute_correction(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    given: Sequence[Tuple[int, int]],
    include: bool,
) -> np.ndarray:
    """Return what corrects means over the whole kernel: factors of shape (1, height, width, 1)."""
    factors = []
    for size, k, stride, (begin, end), own in zip(spatial, kernel, strides, pads, given):
        counted = np.zeros(begin + size + end, np.float64)
        first, last = (0, begin + size + own[1]) if include else (begin, begin + size)
        counted[first:last] = 1
        steps = (len(counted) - k) // stride + 1
        factors.append(
            np.array([k / counted[i * stride : i * stride + k].sum() for i in range(steps)])
        )
    return np.outer(*factors)[None, :, :, None].astype(np.float32)


def _pool_dilated_max(
    x: tf.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
) -> tf.Tensor:
    """Take the maximum of one slice per kernel element, one axis after the other."""
    if any(begin or end for begin, end in pads):
        x = tf.pad(x, [(0, 0), *pads, (0, 0)], constant_values=_LOWEST)
    for axis, (k, stride, dilation) in enumerate(zip(kernel, strides, dilations), start=1):
        steps = (x.shape.as_list()[axis] - (k - 1) * dilation - 1) // stride + 1
        slices = []
        for i in range(k):
            index = [slice(None)] * 4
            index[axis] = slice(i * dilation, i * dilation + (steps - 1) * stride + 1, stride)
            slices.append(x[tuple(index)])
        x = slices[0]
        for part in slices[1:]:
            x = tf.maximum(x, part)
    return x
