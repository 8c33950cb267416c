"""Gemm and MatMul: FULLY_CONNECTED with its bias where the weights are constant."""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_constant
from stages.fixes.onnx_tf.handlers.elementwise import broadcast
from stages.fixes.onnx_tf.layout import Value, channels_last, plain, reshape


def fully_connected(x: tf.Tensor, weight: np.ndarray, bias: Optional[np.ndarray]) -> tf.Tensor:
    """Multiply the last axis by `weight` of shape (inputs, outputs), and add the bias."""
    shape = x.shape.as_list()
    flat = x if len(shape) == 2 else tf.reshape(x, [-1, shape[-1]])
    y = tf.matmul(flat, tf.constant(np.ascontiguousarray(weight)))
    if bias is not None:
        y = tf.nn.bias_add(y, tf.constant(np.ascontiguousarray(bias)))
    if len(shape) == 2:
        return y
    return tf.reshape(y, [-1 if d is None else d for d in shape[:-1]] + [weight.shape[1]])


@handles("matmul", "Gemm")
def gemm(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None
    weight = require_constant(inputs[1])
    if node.get("transA", 0) or weight.ndim != 2 or x.const is not None:
        raise Decline
    weight = weight.T if node.get("transB", 0) else weight
    weight = weight * np.float32(node.get("alpha", 1.0))
    bias = None
    if len(inputs) > 2 and inputs[2] is not None:
        bias = require_constant(inputs[2]) * np.float32(node.get("beta", 1.0))
        if bias.size not in (1, weight.shape[1]):
            raise Decline
        bias = np.broadcast_to(bias.ravel(), (weight.shape[1],))
    tensor, weight = _flatten_input(emitter, x, weight)
    return [emitter.wrap(fully_connected(tensor, weight, bias))]


def _flatten_input(emitter: Emitter, x: Value, weight: np.ndarray) -> tuple:
    """Return a dense layer's input and weights.

    A flattened image stays channels-last; the weights are reordered instead.
    """
    source = x.origin
    tail_only = (
        source is not None and source.rank >= 3 and x.shape == (source.shape[0], weight.shape[0])
    )
    if tail_only and x.is_pending and source is not None and None not in source.shape[1:]:
        last = channels_last(source.rank)
        if source.order == last and "layout" in emitter.fixes:
            shape = [int(d or 0) for d in source.shape[1:]]
            cube = weight.reshape(*shape, -1)
            turned = np.moveaxis(cube, 0, -2).reshape(weight.shape)
            batch = -1 if x.shape[0] is None else x.shape[0]
            return tf.reshape(source.tensor(last), [batch, weight.shape[0]]), turned
    return x.tensor(), weight


@handles("matmul", "MatMul")
def matmul(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit MatMul; a third input, if there is one, is the bias that a rewrite found."""
    a, b = inputs[0], inputs[1]
    assert a is not None and b is not None
    bias = None if len(inputs) < 3 else require_constant(inputs[2])
    if b.const is not None and b.rank == 2 and a.const is None and a.rank >= 2:
        if a.rank == 2:
            tensor, weight = _flatten_input(emitter, a, b.const)
            return [emitter.wrap(fully_connected(tensor, weight, bias))]
        order = a.order
        if order[-1] != a.rank - 1:
            order = plain(a.rank)
        return [emitter.wrap(fully_connected(a.tensor(order), b.const, bias), order)]
    if min(a.rank, b.rank) < 2:
        raise Decline
    product = _multiply_batched(emitter, a, b)
    if bias is not None:
        product = broadcast(emitter, tf.add, product, Value.from_const(bias))
    return [product]


def _multiply_batched(emitter: Emitter, a: Value, b: Value) -> Value:
    """Multiply two computed tensors, with any transpose of the last two axes in the operator."""
    tensors, flags = [], []
    rank = max(a.rank, b.rank)
    result = [*(a if a.rank >= b.rank else b).shape[:-2], a.shape[-2], b.shape[-1]]
    if rank > 2 and a.rank == b.rank and None not in a.shape and a.shape[:-2] == b.shape[:-2]:
        # One batch axis is enough, and every kernel supports it.
        count = int(np.prod(a.shape[:-2], dtype=np.int64))
        a = reshape(a, (count, *a.shape[-2:])) if a.rank > 3 else a
        b = reshape(b, (count, *b.shape[-2:])) if b.rank > 3 else b
    for value in (a, b):
        order = plain(value.rank)
        swapped = (*order[:-2], order[-1], order[-2])
        flag = value.const is None and value.order == swapped
        tensors.append(value.tensor(swapped if flag else order))
        flags.append(flag)
    product = tf.matmul(*tensors, transpose_a=flags[0], transpose_b=flags[1])
    value = emitter.wrap(product)
    return reshape(value, result) if value.rank != rank else value
