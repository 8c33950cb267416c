"""Conv and ConvTranspose, channels-last, with the fewest operators."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_constant
from stages.fixes.onnx_tf.layout import Value, reshape

Pads = List[Tuple[int, int]]

# A grouped convolution with different strides becomes a dense one up to this many weights.


def resolve_pads(node: Node, spatial: Sequence[Optional[int]], kernel: Sequence[int]) -> Pads:
    """Return the padding at begin and end of each spatial axis, with `auto_pad` resolved."""
    count = len(kernel)
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = node.get("pads") or [0] * (2 * count)
        return [(pads[i], pads[i + count]) for i in range(count)]
    if auto == "VALID":
        return [(0, 0)] * count
    result = []
    strides = node.get("strides") or [1] * count
    dilations = node.get("dilations") or [1] * count
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations):
        if size is None:
            raise Decline
        begin, end = compute_same_pads(size, k, stride, dilation)
        result.append((begin, end) if auto == "SAME_UPPER" else (end, begin))
    return result


def compute_same_pads(size: int, kernel: int, stride: int, dilation: int) -> Tuple[int, int]:
    """Return what TensorFlow's SAME pads: as little as the output size ceil(size/stride) needs."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def is_same(
    spatial: Sequence[Optional[int]],
    pads: Pads,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> bool:
    """Tell whether SAME pads exactly these amounts."""
    for size, pad, k, stride, dilation in zip(spatial, pads, kernel, strides, dilations):
        if size is None:
            # With stride 1 the amounts do not depend on the size.
            if stride != 1 or pad != compute_same_pads(k * dilation, k, 1, dilation):
                return False
        elif pad != compute_same_pads(size, k, stride, dilation):
            return False
    return True


@handles("convolution", "Conv")
def conv(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit Conv1d and Conv2d, the former as a row of height 1."""
    x, weight = inputs[0], require_constant(inputs[1])
    assert x is not None
    bias = require_constant(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    count = weight.ndim - 2
    if count not in (1, 2):
        raise Decline
    strides = node.get("strides") or [1] * count
    dilations = node.get("dilations") or [1] * count
    pads = resolve_pads(node, x.shape[2:], weight.shape[2:])
    if count == 1:
        x = reshape(x, (*x.shape[:2], 1, x.shape[2]))
        weight, strides, dilations = weight[:, :, None], [1, *strides], [1, *dilations]
        pads = [(0, 0), *pads]
    tensor = get_channels_last(x)
    result = conv2d(tensor, weight, bias, strides, dilations, pads, node.get("group", 1))
    value = emitter.wrap_last(result)
    return [reshape(value, (*value.shape[:2], value.shape[3])) if count == 1 else value]


def get_channels_last(value: Value) -> tf.Tensor:
    """Return the channels-last tensor of a value of rank 3 or more."""
    return value.tensor((0, *range(2, value.rank), 1))


def conv2d(
    x: tf.Tensor,
    weight: np.ndarray,
    bias: Optional[np.ndarray],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    group: int,
) -> tf.Tensor:
    """Apply a convolution to an NHWC tensor; `weight` is ONNX's (out, in/group, height, width)."""
    kernel = weight.shape[2:]
    # A kernel of size 1 has no dilation.
    dilations = [1 if k == 1 else d for k, d in zip(kernel, dilations)]
    padding = "SAME"
    if not is_same(x.shape.as_list()[1:3], pads, kernel, strides, dilations):
        padding = "VALID"
        if any(begin or end for begin, end in pads):
            x = tf.pad(x, [(0, 0), *pads, (0, 0)])
    channels = x.shape.as_list()[3]
    if group == channels and group > 1:
        y = _emit_depthwise(x, weight, strides, dilations, padding)
    elif group == 1:
        y = _emit_dense(x, weight, strides, dilations, padding)
    else:
        parts = tf.split(x, group, axis=3)
        weights = np.split(weight, group)
        biases = [None] * group if bias is None else np.split(bias, group)
        # Each part's bias can be fused; one after the concatenation would be an operator.
        bias = None
        outputs = []
        for part, w, b in zip(parts, weights, biases):
            output = _emit_dense(part, w, strides, dilations, padding)
            outputs.append(output if b is None else tf.nn.bias_add(output, tf.constant(b)))
        y = tf.concat(outputs, axis=3)
    return y if bias is None else tf.nn.bias_add(y, tf.constant(bias))


def _emit_dense(
    x: tf.Tensor, weight: np.ndarray, strides: Sequence[int], dilations: Sequence[int], padding: str
) -> tf.Tensor:
    filters = tf.constant(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))
    return tf.nn.conv2d(x, filters, strides, padding, dilations=dilations)


def _emit_depthwise(
    x: tf.Tensor, weight: np.ndarray, strides: Sequence[int], dilations: Sequence[int], padding: str
) -> tf.Tensor:
    """Convolve each channel by itself, with any channel multiplier, in one operator."""
    channels = x.shape.as_list()[3]
    height, width = weight.shape[2:]
    if strides[0] != strides[1]:
        # TensorFlow's kernel wants equal strides: use stride 1, then drop what lies between.
        if padding == "SAME":
            sizes = x.shape.as_list()[1:3]
            pads = [
                compute_same_pads(*args) for args in zip(sizes, (height, width), strides, dilations)
            ]
            x = tf.pad(x, [(0, 0), *pads, (0, 0)])
        y = _emit_depthwise(x, weight, [1, 1], dilations, "VALID")
        return y[:, :: strides[0], :: strides[1]]
    if max(dilations) > 1:
        # TensorFlow 2.2 has no dilated CPU kernel: put zeros between the weights.
        weight = _dilate(weight, dilations)
        height, width = weight.shape[2:]
    filters = weight.reshape(channels, -1, height, width).transpose(2, 3, 0, 1)
    return tf.nn.depthwise_conv2d(
        x, tf.constant(np.ascontiguousarray(filters)), [1, *strides, 1], padding
    )


def _dilate(weight: np.ndarray, dilations: Sequence[int]) -> np.ndarray:
    height, width = ((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations))
    result = np.zeros((*weight.shape[:2], height, width), weight.dtype)
    result[:, :, :: dilations[0], :: dilations[1]] = weight
    return result


@handles("transposed-convolution", "ConvTranspose")
def conv_transpose(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit ConvTranspose1d to 3d: the whole result, then a crop by the padding."""
    x, weight = inputs[0], require_constant(inputs[1])
    assert x is not None
    bias = require_constant(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    count = weight.ndim - 2
    if count > 3 or None in x.shape or node.get("auto_pad", "NOTSET") != "NOTSET":
        raise Decline
    if "output_shape" in node.attrs:
        raise Decline
    strides = node.get("strides") or [1] * count
    dilations = node.get("dilations") or [1] * count
    flat = node.get("pads") or [0] * (2 * count)
    extra = node.get("output_padding") or [0] * count
    # output_padding reduces the padding at the end, below zero if need be.
    pads = [(flat[i], flat[i + count] - extra[i]) for i in range(count)]
    group = node.get("group", 1)
    if count == 3:
        tensor = _emit_conv3d_transpose(
            get_channels_last(x), weight, strides, dilations, pads, group
        )
        if bias is not None:
            tensor = tf.nn.bias_add(tensor, tf.constant(bias))
        return [emitter.wrap_last(tensor)]
    if count == 1:
        x = reshape(x, (*x.shape[:2], 1, x.shape[2]))
        weight, strides, dilations = weight[:, :, None], [1, *strides], [1, *dilations]
        pads = [(0, 0), *pads]
    tensor = conv2d_transpose(get_channels_last(x), weight, strides, dilations, pads, group)
    if bias is not None:
        tensor = tf.nn.bias_add(tensor, tf.constant(bias))
    value = emitter.wrap_last(tensor)
    return [reshape(value, (*value.shape[:2], value.shape[3])) if count == 1 else value]


def conv2d_transpose(
    x: tf.Tensor,
    weight: np.ndarray,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    group: int,
) -> tf.Tensor:
    """Apply a transposed convolution to NHWC; `weight` is (in, out/group, height, width)."""
    weight = _dilate(weight, dilations)
    batch, height, width, _ = x.shape.as_list()
    kernel = weight.shape[2:]
    inner = [height, width]
    full = [(n - 1) * s + k for n, s, k in zip(inner, strides, kernel)]
    wanted = [f - begin - end for f, (begin, end) in zip(full, pads)]
    same = [max(k - s, 0) for k, s in zip(kernel, strides)]
    exact = all(
        n * s == size and k >= s and begin == total // 2
        for n, s, k, size, (begin, _), total in zip(inner, strides, kernel, wanted, pads, same)
    )
    size, padding = (wanted, "SAME") if exact else (full, "VALID")
    parts = tf.split(x, group, axis=3) if group > 1 else [x]
    outputs = []
    for part, piece in zip(parts, np.split(weight, group)):
        filters = tf.constant(np.ascontiguousarray(piece.transpose(2, 3, 1, 0)))
        shape = [batch, *size, piece.shape[1]]
        outputs.append(tf.nn.conv2d_transpose(part, filters, shape, strides, padding))
    y = outputs[0] if group == 1 else tf.concat(outputs, axis=3)
    return y if exact else crop(y, pads)


def crop(x: tf.Tensor, pads: Pads) -> tf.Tensor:
    """Crop the spatial axes of a channels-last tensor; add zeros for negative amounts."""
    sizes = x.shape.as_list()[1:-1]
    if any(begin > 0 or end > 0 for begin, end in pads):
        begins = [0, *(max(begin, 0) for begin, _ in pads), 0]
        ends = [n - max(end, 0) for n, (_, end) in zip(sizes, pads)]
        lengths = [end - begin for begin, end in zip(begins[1:-1], ends)]
        x = tf.slice(x, begins, [-1, *lengths, -1])
    if any(begin < 0 or end < 0 for begin, end in pads):
        x = tf.pad(x, [(0, 0), *((max(-b, 0), max(-e, 0)) for b, e in pads), (0, 0)])
    return x


@handles("convolution-3d", "Conv")
def conv3d(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit Conv3d as the sum of 2-D convolutions, one for each slice of the kernel's depth."""
    x, weight = inputs[0], require_constant(inputs[1])
    assert x is not None
    if weight.ndim != 5 or None in x.shape:
        raise Decline
    bias = require_constant(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else None
    strides = node.get("strides") or [1, 1, 1]
    dilations = node.get("dilations") or [1, 1, 1]
    pads = resolve_pads(node, x.shape[2:], weight.shape[2:])
    tensor = get_channels_last(x)
    if any(pads[0]):
        tensor = _pad_depth(tensor, *pads[0])
    batch, depth, height, width, channels = tensor.shape.as_list()
    reach = (weight.shape[2] - 1) * dilations[0] + 1
    steps = (depth - reach) // strides[0] + 1
    total = None
    for k in range(weight.shape[2]):
        first = k * dilations[0]
        part = tensor[:, first : first + (steps - 1) * strides[0] + 1 : strides[0]]
        flat = tf.reshape(part, [batch * steps, height, width, channels])
        y = conv2d(
            flat,
            weight[:, :, k],
            bias if k == 0 else None,
            strides[1:],
            dilations[1:],
            pads[1:],
            node.get("group", 1),
        )
        total = y if total is None else total + y
    assert total is not None
    return [emitter.wrap_last(tf.reshape(total, [batch, steps, *total.shape.as_list()[1:]]))]


def _pad_depth(x: tf.Tensor, begin: int, end: int) -> tf.Tensor:
    """Pad the depth of an NDHWC tensor with zeros, as a pad of four dimensions."""
    batch, depth, height, width, channels = x.shape.as_list()
    flat = tf.reshape(x, [batch, depth, height * width, channels])
    padded = tf.pad(flat, [(0, 0), (begin, end), (0, 0), (0, 0)])
    return tf.reshape(padded, [batch, depth + begin + end, height, width, channels])


def _emit_conv3d_transpose(
    x: tf.Tensor,
    weight: np.ndarray,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    group: int,
) -> tf.Tensor:
    """Sum 2-D transposed convolutions, one for each kernel slice, each shifted in depth."""
    batch, depth, height, width, channels = x.shape.as_list()
    flat = tf.reshape(x, [batch * depth, height, width, channels])
    stride = strides[0]
    full = (depth - 1) * stride + (weight.shape[2] - 1) * dilations[0] + 1
    total = None
    for k in range(weight.shape[2]):
        y = conv2d_transpose(flat, weight[:, :, k], strides[1:], dilations[1:], pads[1:], group)
        rows, columns, out = y.shape.as_list()[1:]
        y = tf.reshape(y, [batch, depth, 1, rows * columns * out])
        y = tf.pad(y, [(0, 0), (0, 0), (0, stride - 1), (0, 0)])
        y = tf.reshape(y, [batch, depth * stride, rows * columns * out])
        y = y[:, : (depth - 1) * stride + 1]
        first = k * dilations[0]
        y = tf.pad(y, [(0, 0), (first, full - first - ((depth - 1) * stride + 1)), (0, 0)])
        total = y if total is None else total + y
    assert total is not None
    length = full - sum(pads[0])
    total = crop(tf.reshape(total, [batch, full, rows * columns * out]), [pads[0]])
    return tf.reshape(total, [batch, length, rows, columns, out])
