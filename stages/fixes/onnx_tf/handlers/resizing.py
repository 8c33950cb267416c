"""Resize and Upsample with static sizes: RESIZE_* where exact, weighted gathers elsewhere."""

from __future__ import annotations

import math
from typing import List, Optional, Tuple

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_constant
from stages.fixes.onnx_tf.handlers.convolution import get_channels_last
from stages.fixes.onnx_tf.layout import Value, reshape

# The weights and indices of source rows: arrays of shape (output, taps).
Taps = Tuple[np.ndarray, np.ndarray]


@handles("resize", "Resize", "Upsample")
def resize(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    if None in x.shape or x.rank not in (3, 4, 5):
        raise Decline
    shape = [int(d or 0) for d in x.shape]
    sizes, scales = _compute_target(node, inputs, shape)
    if sizes[:2] != shape[:2]:
        raise Decline
    mode = node.get("mode", "nearest")
    old_upsample = node.op_type == "Upsample" or emitter.opset < 11
    transform = (
        "asymmetric" if old_upsample else node.get("coordinate_transformation_mode", "half_pixel")
    )
    if transform == "tf_crop_and_resize":
        raise Decline
    rounding = "floor" if old_upsample else node.get("nearest_mode", "round_prefer_floor")
    if x.rank == 3:
        flat = reshape(x, (*x.shape[:2], 1, x.shape[2]))
        tensor = _resize2d(
            get_channels_last(flat),
            [1, sizes[2]],
            [1.0, scales[2]],
            mode,
            transform,
            rounding,
            node,
        )
        value = emitter.wrap_last(tensor)
        return [reshape(value, (*value.shape[:2], value.shape[3]))]
    tensor = get_channels_last(x)
    if x.rank == 4:
        tensor = _resize2d(tensor, sizes[2:], scales[2:], mode, transform, rounding, node)
        return [emitter.wrap_last(tensor)]
    # Resize the depth separately, as the height of a plane whose width holds the rest.
    n, d, h, w, c = tensor.shape.as_list()
    flat = tf.reshape(tensor, [n * d, h, w, c])
    flat = _resize2d(flat, sizes[3:], scales[3:], mode, transform, rounding, node)
    rows = tf.reshape(flat, [n, d, sizes[3] * sizes[4], c])
    same = [sizes[2], sizes[3] * sizes[4]]
    rows = _resize2d(rows, same, [scales[2], 1.0], mode, transform, rounding, node)
    return [emitter.wrap_last(tf.reshape(rows, [n, *sizes[2:], c]))]


def _compute_target(node: Node, inputs: Inputs, shape: List[int]) -> Tuple[List[int], List[float]]:
    """Return the output sizes and the scales of all axes."""
    if len(inputs) > 3 and inputs[3] is not None:
        sizes = [int(d) for d in require_constant(inputs[3])]
        return sizes, [out / d for out, d in zip(sizes, shape)]
    index = 2 if len(inputs) > 2 else 1
    given = inputs[index] if len(inputs) > index else None
    scales = node.get("scales") if given is None else require_constant(given).tolist()
    if not scales:
        raise Decline
    return [int(math.floor(d * s + 1e-6)) for d, s in zip(shape, scales)], [
        float(s) for s in scales
    ]


def _resize2d(
    x: tf.Tensor,
    sizes: List[int],
    scales: List[float],
    mode: str,
    transform: str,
    rounding: str,
    node: Node,
) -> tf.Tensor:
    before = x.shape.as_list()[1:3]
    if before == sizes:
        return x
    exact = all(abs(s * d - out) < 1e-3 for s, d, out in zip(scales, before, sizes))
    whole = all(out % d == 0 for out, d in zip(sizes, before))
    if mode == "nearest" and transform == "asymmetric" and rounding == "floor" and exact and whole:
        return tf.compat.v1.image.resize_nearest_neighbor(x, sizes)
    if mode == "linear" and exact and min(sizes) > 1:
        if transform == "align_corners":
            return tf.compat.v1.image.resize_bilinear(x, sizes, align_corners=True)
        if transform in ("half_pixel", "pytorch_half_pixel"):
            return tf.compat.v1.image.resize_bilinear(x, sizes, half_pixel_centers=True)
        if transform == "asymmetric":
            return tf.compat.v1.image.resize_bilinear(x, sizes)
    for axis in (1, 2):
        size, out, scale = before[axis - 1], sizes[axis - 1], scales[axis - 1]
        if size == out and scale == 1:
            continue
        x = _interpolate(x, axis, _compute_taps(size, out, scale, mode, transform, rounding, node))
    return x


def _compute_taps(
    size: int, out: int, scale: float, mode: str, transform: str, rounding: str, node: Node
) -> Taps:
    """Return which input rows make each output row, by ONNX's definition of Resize."""
    row = np.arange(out, dtype=np.float64)
    if transform == "asymmetric":
        source = row / scale
    elif transform == "align_corners":
        source = row * (size - 1) / (out - 1) if out > 1 else row * 0
    elif transform == "pytorch_half_pixel" and out <= 1:
        source = row * 0
    elif transform == "tf_half_pixel_for_nn":
        source = (row + 0.5) / scale
    else:
        source = (row + 0.5) / scale - 0.5
    if mode == "nearest":
        function = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_floor": lambda v: np.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        }[rounding]
        index = function(source)[:, None]
        weight = np.ones_like(index)
    elif mode == "linear":
        source = np.clip(source, 0, size - 1)
        first = np.floor(source)
        index = np.stack([first, first + 1], 1)
        weight = np.stack([1 - (source - first), source - first], 1)
    else:
        first = np.floor(source)
        index = first[:, None] + np.arange(-1, 3)
        weight = _evaluate_cubic(np.abs(source[:, None] - index), node.get("cubic_coeff_a", -0.75))
        if node.get("exclude_outside", 0):
            weight = np.where((index < 0) | (index >= size), 0, weight)
            weight /= weight.sum(1, keepdims=True)
    return weight.astype(np.float32), np.clip(index, 0, size - 1).astype(np.int32)


def _evaluate_cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Evaluate Keys' cubic convolution kernel."""
    d = distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _interpolate(x: tf.Tensor, axis: int, taps: Taps) -> tf.Tensor:
    """Return the weighted sum of gathered rows."""
    weights, indices = taps
    shape = [1, 1, 1, 1]
    shape[axis] = len(weights)
    total: Optional[tf.Tensor] = None
    for weight, index in zip(weights.T, indices.T):
        if not weight.any():
            continue
        part = tf.gather(x, tf.constant(index), axis=axis)
        if not (weight == 1).all():
            part = part * tf.constant(weight.reshape(shape))
        total = part if total is None else total + part
    assert total is not None
    return total
