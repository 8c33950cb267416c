"""QuantizeLinear and DequantizeLinear with one scale, as arithmetic.

What is quantized stays in 32 bits between them: TensorFlow Lite 2.4 has few kernels of 8-bit
numbers without a scale of their own.
"""

from __future__ import annotations

from typing import List

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
    return [apply_unary(emitter, lambda t: tf.cast(clip_tensor(t, low, high), tf.int32), value)]


@handles("activations", "DequantizeLinear")
def dequantize(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x, scale, zero = [*inputs, None][:3]
    assert x is not None and scale is not None
    value = apply_unary(emitter, lambda t: tf.cast(t, tf.float32), x)
    if zero is not None:
        shift = apply_unary(emitter, lambda t: tf.cast(t, tf.float32), _get_single(zero))
        value = broadcast(emitter, tf.subtract, value, shift)
    return [broadcast(emitter, tf.multiply, value, _get_single(scale))]
