"""Gemm, MatMul and Einsum: FULLY_CONNECTED with its bias where the weights are constant."""

from __future__ import annotations

import string
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
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
from stages.fixes.onnx_tf.handlers.elementwise import broadcast
from stages.fixes.onnx_tf.layout import Value, channels_last, plain, reshape


def fully_connected(x: tf.Tensor, weight: np.ndarray, bias: Optional[np.ndarray]) -> tf.Tensor:
    """Multiply the last axis by `weight` of shape (inputs, outputs), and add the bias."""
    shape = x.shape.as_list()
    flat = x if len(shape) == 2 else tf.reshape(x, [-1, shape[-1]])
    if bias is None and _adds_number(flat):
        bias = np.zeros(weight.shape[1], weight.dtype)
    y = tf.matmul(flat, tf.constant(np.ascontiguousarray(weight)))
    if bias is not None:
        y = tf.nn.bias_add(y, tf.constant(np.ascontiguousarray(bias)))
    if len(shape) == 2:
        return y
    return tf.reshape(y, [-1 if d is None else d for d in shape[:-1]] + [weight.shape[1]])


def _adds_number(x: tf.Tensor) -> bool:
    """Tell whether a tensor is a sum with a single number.

    TensorFlow 2.4's converter moves what is added before a product without a bias into its bias,
    and makes of a single number one that counts for one input only. A bias of zeros prevents it.
    """
    return x.op.type in ("Add", "AddV2", "Sub") and any(
        given.op.type == "Const" and given.shape.num_elements() == 1 for given in x.op.inputs
    )


@handles("matmul", "Gemm")
def gemm(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x = inputs[0]
    assert x is not None and inputs[1] is not None
    alpha, beta = np.float32(node.get("alpha", 1.0)), np.float32(node.get("beta", 1.0))
    bias = None
    if len(inputs) > 2 and inputs[2] is not None:
        bias = require_constant(inputs[2]) * beta
    if inputs[1].const is None or x.const is not None:
        return [_multiply_computed(emitter, node, x, inputs[1], alpha, bias)]
    weight = inputs[1].const.T if node.get("transB", 0) else inputs[1].const
    weight = weight * alpha
    rest = None
    columns = weight.shape[1]
    if bias is not None and bias.size != 1 and bias.shape not in ((columns,), (1, columns)):
        bias, rest = None, Value.from_const(bias)
    if bias is not None:
        bias = np.broadcast_to(bias.ravel(), (columns,))
    if node.get("transA", 0):
        tensor = x.permute((1, 0)).tensor()
    else:
        tensor, weight = _flatten_input(emitter, x, weight)
    product = emitter.wrap(fully_connected(tensor, weight, bias))
    return [product if rest is None else broadcast(emitter, tf.add, product, rest)]


def _multiply_computed(
    emitter: Emitter,
    node: Node,
    x: Value,
    other: Value,
    alpha: np.float32,
    bias: Optional[np.ndarray],
) -> Value:
    """Multiply by what is not constant."""
    first = x.permute((1, 0)) if node.get("transA", 0) else x
    second = other.permute((1, 0)) if node.get("transB", 0) else other
    product = _multiply_batched(emitter, first, second)
    if alpha != 1:
        product = broadcast(emitter, tf.multiply, product, Value.from_const(alpha))
    if bias is None:
        return product
    if bias.size == 1 and second.shape[1] is not None:
        bias = np.broadcast_to(bias.ravel(), (second.shape[1],))
    return broadcast(emitter, tf.add, product, Value.from_const(bias))


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
        # A vector is a row before a matrix, and a column behind one.
        require_static(a, b)
        shape = [*a.shape[:-1], *b.shape[:-2], *b.shape[-1:]] if a.rank == 1 else list(a.shape[:-1])
        shape = shape if b.rank > 1 else list(a.shape[:-1])
        first = reshape(a, (1, *a.shape)) if a.rank == 1 else a
        second = reshape(b, (*b.shape, 1)) if b.rank == 1 else b
        product = reshape(_multiply_batched(emitter, first, second), shape)
    else:
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


# A value and the letters of its axes.
Term = Tuple[Value, str]


@handles("matmul", "Einsum")
def einsum(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit any sum of products: operands are multiplied one after the other."""
    values = [value for value in inputs if value is not None]
    if any(not value.is_static for value in values):
        raise Decline
    letters, output = _parse(node.get("equation"), values)
    terms = [_take_diagonals(emitter, v, term) for v, term in zip(values, letters)]
    total = terms[0]
    for index, term in enumerate(terms[1:], start=1):
        needed = output + "".join(term for _, term in terms[index + 1 :])
        total = _multiply(emitter, total, term, needed)
    value, term = _sum_out(emitter, *total, output)
    return [value.permute([term.index(c) for c in output]) if term != output else value]


def _parse(equation: str, values: Sequence[Value]) -> Tuple[List[str], str]:
    """Return the letters of each operand and of the result; '...' becomes letters of its own."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    counts = [v.rank - len(t.replace("...", "")) for v, t in zip(values, terms) if "..." in t]
    most = max(counts, default=0)
    dots = free[:most]
    spelled = []
    for value, term in zip(values, terms):
        count = value.rank - len(term.replace("...", ""))
        spelled.append(term.replace("...", "".join(dots[most - count :]) if "..." in term else ""))
    if arrow:
        return spelled, right.replace("...", "".join(dots))
    given = "".join(terms).replace("...", "")
    once = sorted(c for c in set(given) if given.count(c) == 1)
    return spelled, "".join(dots) + "".join(once)


def _take_diagonals(emitter: Emitter, value: Value, term: str) -> Term:
    """Reduce a letter that occurs twice in one operand to one axis, its diagonal."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            rest = [i for i in range(len(term)) if i not in (first, second)]
            value = value.permute([*rest, first, second])
            size = int(value.shape[-1] or 0)
            shape = (*value.shape[:-2], size * size)
            flat = reshape(value, shape).tensor()
            picked = tf.strided_slice(
                flat,
                [0] * len(shape),
                [*[int(d or 0) for d in shape[:-1]], size * size],
                [*[1] * (len(shape) - 1), size + 1],
            )
            value = emitter.wrap(picked)
            term = "".join(term[i] for i in rest) + letter
    return value, term


def _sum_out(emitter: Emitter, value: Value, term: str, kept: str) -> Term:
    """Sum over the letters that are needed no more."""
    axes = [i for i, c in enumerate(term) if c not in kept]
    if axes:
        value = emitter.wrap(tf.reduce_sum(value.tensor(), axes))
    return value, "".join(c for c in term if c in kept)


def _multiply(emitter: Emitter, one: Term, other: Term, needed: str) -> Term:
    """Multiply two terms, and sum over the letters that they share and nothing needs."""
    a, first = _sum_out(emitter, *one, other[1] + needed)
    b, second = _sum_out(emitter, *other, first + needed)
    sizes: Dict[str, int] = {}
    for value, term in ((a, first), (b, second)):
        for letter, size in zip(term, value.shape):
            sizes[letter] = max(sizes.get(letter, 1), int(size or 0))
    inner = [c for c in first if c in second and c not in needed]
    result = list(dict.fromkeys(c for c in first + second if c not in inner))
    whole = all(
        size == sizes[c] for v, t in ((a, first), (b, second)) for c, size in zip(t, v.shape)
    )
    if not inner or not whole:
        # An axis of size 1 in one of them broadcasts, and so does one that it has not.
        axes = [*result, *inner]
        product = broadcast(
            emitter, tf.multiply, _arrange(a, first, axes), _arrange(b, second, axes)
        )
        return _sum_out(emitter, product, "".join(axes), "".join(result))
    batch = [c for c in first if c in second and c in needed]
    rows = [c for c in first if c not in second]
    columns = [c for c in second if c not in first]

    def count(group: Sequence[str]) -> int:
        return int(np.prod([sizes[c] for c in group], dtype=np.int64))

    left = reshape(
        a.permute([first.index(c) for c in [*batch, *rows, *inner]]),
        (count(batch), count(rows), count(inner)),
    )
    right = reshape(
        b.permute([second.index(c) for c in [*batch, *inner, *columns]]),
        (count(batch), count(inner), count(columns)),
    )
    product = emitter.wrap(tf.matmul(left.tensor(), right.tensor()))
    order = [*batch, *rows, *columns]
    return reshape(product, [sizes[c] for c in order]), "".join(order)


def _arrange(value: Value, term: str, axes: Sequence[str]) -> Value:
    """Return a value with these axes in their order, of size 1 where it has none."""
    present = [c for c in axes if c in term]
    turned = value.permute([term.index(c) for c in present])
    sizes = dict(zip(present, turned.shape))
    return reshape(turned, [sizes.get(c, 1) for c in axes])
