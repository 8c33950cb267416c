"""QuantizeLinear and DequantizeLinear with one scale: a pair as fake quantisation.

TensorFlow's converter knows fake quantisation, and takes its range for that of an int8 model. One
of the two alone is arithmetic, and what is quantized then stays in 32 bits: TensorFlow Lite 2.4 has
few kernels of 8-bit numbers without a scale of their own.
"""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles
from stages.fixes.onnx_tf.handlers.elementwise import apply_unary, broadcast, clip_tensor
from stages.fixes.onnx_tf.layout import Value, reshape


def _get_single(value: Value) -> Value:
    """Return a scale or zero point of one element as a scalar."""
    if not value.is_static or value.size != 1:
        raise Decline
    return reshape(value, ())


@handles("activations", "QuantizeLinear")
def quantize(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit the quotient rounded, shifted and clipped to what the type holds."""
    x, scale, zero = [*inputs, None][:3]
    assert x is not None and scale is not None
    signed = zero is not None and zero.dtype != tf.uint8
    low, high = (-128.0, 127.0) if signed else (0.0, 255.0)
    value = broadcast(emitter, tf.divide, x, _get_single(scale))
    value = apply_unary(emitter, tf.round, value)
    if zero is not None:
        shift = apply_unary(emitter, lambda t: tf.cast(t, tf.float32), _get_single(zero))
        value = broadcast(emitter, tf.add, value, shift)
    result = apply_unary(emitter, lambda t: tf.cast(clip_tensor(t, low, high), tf.int32), value)
    if scale.const is not None and (zero is None or zero.const is not None):
        point = np.zeros((), np.uint8) if zero is None or zero.const is None else zero.const
        result.quantized = (x, scale.const, point)
    return [result]


@handles("activations", "DequantizeLinear")
def dequantize(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x, scale, zero = [*inputs, None][:3]
    assert x is not None and scale is not None
    faked = _fake_quantize(emitter, x, scale, zero)
    if faked is not None:
        return [faked]
    value = apply_unary(emitter, lambda t: tf.cast(t, tf.float32), x)
    if zero is not None:
        shift = apply_unary(emitter, lambda t: tf.cast(t, tf.float32), _get_single(zero))
        value = broadcast(emitter, tf.subtract, value, shift)
    return [broadcast(emitter, tf.multiply, value, _get_single(scale))]


def _fake_quantize(
    emitter: Emitter, x: Value, scale: Value, zero: Optional[Value]
) -> Optional[Value]:
    """Emit a pair of both operators with one scale as fake quantisation; None if it is no pair."""
    if x.quantized is None or scale.const is None or (zero is not None and zero.const is None):
        return None
    given, step, point = x.quantized
    shift = np.zeros((), np.uint8) if zero is None or zero.const is None else zero.const
    if step.ravel()[0] != scale.const.ravel()[0] or point.ravel()[0] != shift.ravel()[0]:
        return None
    limits = np.iinfo(point.dtype)
    size, middle = float(step.ravel()[0]), float(point.ravel()[0])
    low, high = (limits.min - middle) * size, (limits.max - middle) * size
    if not low <= 0 <= high or low == high:
        return None
    return apply_unary(
        emitter, lambda t: tf.quantization.fake_quant_with_min_max_args(t, low, high, 8), given
    )
