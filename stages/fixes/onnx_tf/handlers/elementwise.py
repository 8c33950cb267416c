"""Elementwise operators, in whatever order of axes their inputs lie."""

from __future__ import annotations

import math
from typing import Any, Callable, List, Optional, Sequence

import numpy as np
import onnx
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_constant
from stages.fixes.onnx_tf.layout import Order, Value, plain, reshape, reshape_tensor, sizes

Function = Callable[..., tf.Tensor]


def apply_unary(emitter: Emitter, function: Function, x: Value) -> Value:
    """Apply a function of one tensor, before a pending reshape so that it can be fused."""
    if x.is_pending and x.origin is not None:
        return reshape(apply_unary(emitter, function, x.origin), x.shape)
    order = x.order
    tensor = x.tensor(order)
    if x.rank > 4 and x.is_static and function not in _SINGLE:
        # TensorFlow Lite 2.4 broadcasts the constants in it over at most four axes.
        flat = function(tf.reshape(tensor, [-1]))
        return emitter.wrap(tf.reshape(flat, tensor.shape.as_list()), order)
    return emitter.wrap(function(tensor), order)


def broadcast(emitter: Emitter, function: Function, *values: Value) -> Value:
    """Apply a function of several tensors that broadcast."""
    rank = max(value.rank for value in values)
    order = _choose_order([v for v in values if v.const is None and v.rank == rank], rank)
    tensors = [_align(value, rank, order) for value in values]
    if rank > 4:
        return emitter.wrap(_apply_merged(function, tensors), order)
    result = function(*tensors)
    if result.shape.rank is not None and result.shape.rank < rank:  # leading axes of constants
        lead = [1] * (rank - result.shape.rank)
        result = tf.reshape(result, lead + sizes(result.shape.as_list()))
    return emitter.wrap(result, order)


def _choose_order(values: Sequence[Value], rank: int) -> Order:
    """Return the order in which most elements lie already."""
    weights: dict = {}
    for value in values:
        if not value.is_pending or value.origin is None:
            weights[value.order] = weights.get(value.order, 0) + value.size
    if not weights:
        return values[0].order if values else plain(rank)
    return max(weights, key=lambda order: weights[order])


def _align(value: Value, rank: int, order: Order) -> tf.Tensor:
    """Return a tensor that broadcasts with others of this rank in this order."""
    if value.const is not None:
        array = value.const
        if array.size and (array == array.ravel()[0]).all() and array.size > 0:
            full = array.ndim == rank and array.size > 1
            if not full:
                return tf.constant(array.ravel()[0])
        padded = array.reshape((1,) * (rank - array.ndim) + array.shape).transpose(order)
        # Without its leading axes of size 1 a vector can be fused as a bias.
        while padded.ndim > 1 and padded.shape[0] == 1:
            padded = padded[0]
        return tf.constant(np.asarray(padded, order="C"))
    if value.rank == rank:
        return value.tensor(order)
    if value.rank == 0:
        return value.tensor()
    return reshape(value, (1,) * (rank - value.rank) + value.shape).tensor(order)


def _apply_merged(function: Function, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Apply a function to tensors of more than four axes, merging axes that broadcast alike.

    TensorFlow Lite 2.4 broadcasts at most four axes.
    """
    rank = max(t.shape.rank for t in tensors)
    shapes = [[1] * (rank - t.shape.rank) + t.shape.as_list() for t in tensors]
    if any(d is None for shape in shapes for d in shape):
        return function(*tensors)
    result = [max(dims) for dims in zip(*shapes)]
    merged: List[List[int]] = [[] for _ in tensors]
    previous: Optional[List[bool]] = None
    for axis in range(rank):
        pattern = [shape[axis] == result[axis] for shape in shapes]
        if previous is not None and (pattern == previous or result[axis] == 1):
            for sizes, shape in zip(merged, shapes):
                sizes[-1] *= shape[axis]
        else:
            for sizes, shape in zip(merged, shapes):
                sizes.append(shape[axis])
            previous = pattern
    flat = [
        tensor if tensor.shape.rank == 0 else reshape_tensor(tensor, sizes)
        for tensor, sizes in zip(tensors, merged)
    ]
    return reshape_tensor(function(*flat), result)


_UNARY: dict = {
    "Abs": lambda x: tf.abs(x) if x.dtype.is_floating else tf.maximum(x, -x),
    "Ceil": tf.math.ceil,
    "Cos": tf.cos,
    "Exp": tf.exp,
    "Floor": tf.math.floor,
    "Log": tf.math.log,
    "Neg": tf.negative,
    "Not": tf.logical_not,
    "Reciprocal": lambda x: 1.0 / x,
    "Relu": tf.nn.relu,
    "Round": tf.round,
    "Sigmoid": tf.sigmoid,
    "Sin": tf.sin,
    "Sqrt": tf.sqrt,
    "Tanh": tf.tanh,
}

# Functions that are one operator each, without a constant beside the tensor.
_SINGLE = {function for name, function in _UNARY.items() if name != "Reciprocal"}
_SINGLE |= {tf.identity, tf.nn.elu, tf.nn.relu6, tf.square}

_BINARY: dict = {
    "Add": tf.add,
    "And": tf.logical_and,
    "Div": tf.divide,
    "Equal": tf.equal,
    "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal,
    "Less": tf.less,
    "LessOrEqual": tf.less_equal,
    "Max": tf.maximum,
    "Mean": None,
    "Min": tf.minimum,
    "Mul": tf.multiply,
    "Or": tf.logical_or,
    "Sub": tf.subtract,
    "Sum": tf.add,
    "Where": tf.where,
    "Xor": tf.not_equal,
}


@handles("layout", *_UNARY)
def unary_handler(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    assert inputs[0] is not None
    return [apply_unary(emitter, _UNARY[node.op_type], inputs[0])]


@handles("layout", *_BINARY)
def binary_handler(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    values = [value for value in inputs if value is not None]
    op_type = node.op_type
    if op_type == "Div" and not values[0].dtype.is_floating:
        return [broadcast(emitter, _divide_integers, *values)]
    if op_type == "Where":
        return [broadcast(emitter, tf.where, *values)]
    result = values[0]
    for value in values[1:]:
        result = broadcast(emitter, _BINARY[op_type] or tf.add, result, value)
    if op_type == "Mean" and len(values) > 1:
        result = apply_unary(emitter, lambda t: t * (1.0 / len(values)), result)
    return [result]


def _divide_integers(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Divide and round towards zero, as ONNX does; FLOOR_DIV rounds down."""
    quotient = tf.math.floordiv(tf.maximum(a, -a), tf.maximum(b, -b))
    opposed = tf.not_equal(tf.less(a, 0), tf.less(b, 0))
    return tf.where(opposed, -quotient, quotient)


@handles("activations", "Mod")
def mod(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit the remainder with the dividend's sign: FLOOR_MOD of absolute values, which is exact.

    Of integers, it has the divisor's sign unless `fmod` is set.
    """
    x, y = inputs
    assert x is not None and y is not None
    if not node.get("fmod", 0) and x.dtype.is_integer:
        return [broadcast(emitter, tf.math.floormod, x, y)]
    if x.dtype.is_integer:
        return [broadcast(emitter, lambda a, b: a - b * _divide_integers(a, b), x, y)]
    if not node.get("fmod", 0) or x.dtype != tf.float32:
        raise Decline
    return [
        broadcast(
            emitter,
            lambda a, b: _sign(a) * tf.math.floormod(tf.abs(a), tf.abs(b)),
            x,
            y,
        )
    ]


@handles("layout", "Pow")
def power(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    x, exponent = inputs
    assert x is not None and exponent is not None
    if exponent.const is not None and exponent.const.size == 1:
        special = {
            2.0: tf.square,
            0.5: tf.sqrt,
            1.0: tf.identity,
            -0.5: tf.math.rsqrt,
            3.0: lambda t: t * tf.square(t),
            -1.0: lambda t: 1.0 / t,
        }
        function = special.get(float(exponent.const.ravel()[0]))
        if function is not None and x.dtype == tf.float32:
            return [apply_unary(emitter, function, x)]
    if exponent.dtype != x.dtype:
        exponent = apply_unary(emitter, lambda t: tf.cast(t, x.dtype), exponent)
    return [broadcast(emitter, tf.pow, x, exponent)]


@handles("layout", "Cast")
def cast(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    assert inputs[0] is not None
    target = tf.as_dtype(onnx.mapping.TENSOR_TYPE_TO_NP_TYPE[node.get("to")])
    target = emitter.integer if target == tf.int64 else target
    if target == inputs[0].dtype:
        return [inputs[0]]
    return [apply_unary(emitter, lambda t: tf.cast(t, target), inputs[0])]


@handles("layout", "Identity", "Dropout")
def identity(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    assert inputs[0] is not None
    return [inputs[0]]


@handles("layout", "LeakyRelu")
def leaky_relu(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    assert inputs[0] is not None
    alpha = node.get("alpha", 0.01)
    return [apply_unary(emitter, lambda t: tf.nn.leaky_relu(t, alpha), inputs[0])]


@handles("layout", "PRelu")
def prelu(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit max(x, 0) + slope * min(x, 0) in the form that the converter recognises as PRELU."""
    x, slope = inputs
    assert x is not None and slope is not None
    if slope.const is not None and slope.const.size == 1:
        alpha = float(slope.const.ravel()[0])
        if 0 <= alpha <= 1:
            return [apply_unary(emitter, lambda t: tf.nn.leaky_relu(t, alpha), x)]
    return [broadcast(emitter, lambda t, s: tf.nn.relu(t) + s * tf.nn.relu(-t), x, _negate(slope))]


def _negate(value: Value) -> Value:
    if value.const is None:
        raise Decline
    return Value.from_const(-value.const)


@handles("clip", "Clip")
def clip(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit Clip, as a fused activation of TensorFlow Lite where one has these bounds."""
    x = inputs[0]
    assert x is not None
    low, high = node.get("min"), node.get("max")
    if len(inputs) > 1 and inputs[1] is not None:
        low = require_constant(inputs[1]).ravel()[0]
    if len(inputs) > 2 and inputs[2] is not None:
        high = require_constant(inputs[2]).ravel()[0]
    lowest = -math.inf if low is None else float(low)
    highest = math.inf if high is None else float(high)
    if x.dtype == tf.float32:
        limit = float(np.finfo(np.float32).max)
        lowest = -math.inf if lowest <= -limit else lowest
        highest = math.inf if highest >= limit else highest
    return [apply_unary(emitter, lambda t: clip_tensor(t, lowest, highest), x)]


def clip_tensor(tensor: tf.Tensor, low: float, high: float) -> tf.Tensor:
    if low == 0 and high == 6:
        return tf.nn.relu6(tensor)
    if low == 0:
        tensor = tf.nn.relu(tensor)
    elif low != -math.inf:
        tensor = tf.maximum(tensor, tf.constant(low, tensor.dtype))
    if high != math.inf:
        tensor = tf.minimum(tensor, tf.constant(high, tensor.dtype))
    return tensor


def make_elu(alpha: float) -> Function:
    if alpha == 1:
        return tf.nn.elu
    return lambda x: tf.nn.relu(x) + alpha * tf.nn.elu(tf.minimum(x, 0.0))


def _make_selu(alpha: float, gamma: float) -> Function:
    return lambda x: gamma * tf.nn.relu(x) + (gamma * alpha) * tf.nn.elu(tf.minimum(x, 0.0))


def softplus(x: tf.Tensor) -> tf.Tensor:
    """Compute log(1 + exp(x)) without overflow."""
    return tf.nn.relu(x) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))


def softsign(x: tf.Tensor) -> tf.Tensor:
    return x / (1.0 + tf.abs(x))


def _sign(x: tf.Tensor) -> tf.Tensor:
    """Compute the sign of x, as TensorFlow Lite 2.4 has no SIGN."""
    if not x.dtype.is_floating:
        return tf.minimum(tf.maximum(x, -1), 1)
    positive = tf.cast(tf.greater(x, 0.0), tf.float32)
    return positive - tf.cast(tf.less(x, 0.0), tf.float32)


def _tan(x: tf.Tensor) -> tf.Tensor:
    return tf.sin(x) / tf.cos(x)


def make_hard_sigmoid(alpha: float, beta: float) -> Function:
    if abs(alpha - 1 / 6) < 1e-6 and abs(beta - 0.5) < 1e-6:
        return lambda x: tf.nn.relu6(x + 3.0) * (1 / 6)
    return lambda x: tf.minimum(tf.nn.relu(alpha * x + beta), 1.0)


def _make_activation(node: Node) -> Function:
    def read_number(name: str, default: float) -> float:
        return float(node.get(name, default))

    table: Any = {
        "Elu": lambda: make_elu(read_number("alpha", 1.0)),
        "Selu": lambda: _make_selu(
            read_number("alpha", 1.67326319217681884765625),
            read_number("gamma", 1.05070102214813232421875),
        ),
        "Softplus": lambda: softplus,
        "Softsign": lambda: softsign,
        "Erf": lambda: _erf,
        "Sign": lambda: _sign,
        "IsNaN": lambda: lambda x: tf.not_equal(x, x),
        "Atan": lambda: _atan,
        "Asin": lambda: _asin,
        "Acos": lambda: lambda x: math.pi / 2 - _asin(x),
        "Tan": lambda: _tan,
        "HardSigmoid": lambda: make_hard_sigmoid(
            read_number("alpha", 0.2), read_number("beta", 0.5)
        ),
        "ThresholdedRelu": lambda: make_thresholded_relu(read_number("alpha", 1.0)),
        "Shrink": lambda: _make_shrink(read_number("lambd", 0.5), read_number("bias", 0.0)),
        "Celu": lambda: _make_celu(read_number("alpha", 1.0)),
        "Sinh": lambda: _sinh,
        "Cosh": lambda: _cosh,
        "Acosh": lambda: _acosh,
        "Asinh": lambda: _asinh,
        "Atanh": lambda: _atanh,
        "IsInf": lambda: _make_is_infinite(
            bool(node.get("detect_positive", 1)), bool(node.get("detect_negative", 1))
        ),
    }
    function: Function = table[node.op_type]()
    return function


def _erf(x: tf.Tensor) -> tf.Tensor:
    """Compute erf as x times a quotient of polynomials of x squared, with an error below 4e-7.

    Relative to erf, that is; near zero too. The coefficients are a minimax fit on [-4, 4], from
    where on erf is 1 in float32.
    """
    x = tf.minimum(tf.maximum(x, -4.0), 4.0)
    z = tf.square(x)
    above = _evaluate(_ERF_ABOVE, z)
    return x * (above / _evaluate(_ERF_BELOW, z))


def _evaluate(coefficients: Sequence[float], z: tf.Tensor) -> tf.Tensor:
    """Evaluate a polynomial by Horner's rule; the coefficients begin with the constant one."""
    total = z * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        total = (total + coefficient) * z
    return total + coefficients[0]


_ERF_ABOVE = (
    *(1.128379139300821, 0.19354581492000258, 0.05310185091197707),
    *(0.0038833786129027236, 0.0002845670879955238, 1.986781488988897e-06),
)
_ERF_BELOW = (
    *(1.0, 0.5048580678250943, 0.11535031654519011),
    *(0.015207318981926085, 0.0011855803645791161, 3.742022900577875e-05),
)


def _sinh(x: tf.Tensor) -> tf.Tensor:
    """Compute sinh; near zero by tanh(x / 2), else by exponentials."""
    half = tf.tanh(x * 0.5)
    near = 2.0 * half / (1.0 - tf.square(half))
    far = _sign(x) * (_halve_exponential(tf.abs(x)) - 0.5 * tf.exp(-tf.abs(x)))
    return tf.where(tf.less(tf.abs(x), 1.0), near, far)


def _cosh(x: tf.Tensor) -> tf.Tensor:
    return _halve_exponential(tf.abs(x)) + 0.5 * tf.exp(-tf.abs(x))


def _halve_exponential(x: tf.Tensor) -> tf.Tensor:
    """Compute exp(x) / 2, which fits where exp(x) no longer does; nothing is rounded before exp."""
    return 0.5 * tf.exp(tf.minimum(x, 80.0)) * tf.exp(tf.maximum(x - 80.0, 0.0))


def _log1p(x: tf.Tensor) -> tf.Tensor:
    """Compute log(1 + x) for x >= 0; where 1 + x rounds, the quotient makes up for it."""
    above = 1.0 + x
    lost = tf.equal(above, 1.0)
    ratio = x / tf.where(lost, tf.ones_like(x), above - 1.0)
    return tf.where(lost, x, tf.math.log(above) * ratio)


def _asinh(x: tf.Tensor) -> tf.Tensor:
    """Compute asinh; beyond 1e4 as log(2 x), before x squared is too large."""
    size = tf.abs(x)
    small = tf.minimum(size, 1e4)
    square = tf.square(small)
    near = _log1p(small + square / (1.0 + tf.sqrt(square + 1.0)))
    far = tf.math.log(tf.maximum(size, 1e4)) + math.log(2.0)
    return _sign(x) * tf.where(tf.greater(size, 1e4), far, near)


def _acosh(x: tf.Tensor) -> tf.Tensor:
    """Compute acosh from how far x is above 1; not a number below."""
    above = tf.minimum(x, 1e4) - 1.0
    near = _log1p(above + tf.sqrt(above * (above + 2.0)))
    far = tf.math.log(tf.maximum(x, 1e4)) + math.log(2.0)
    return tf.where(tf.greater(x, 1e4), far, near)


def _atanh(x: tf.Tensor) -> tf.Tensor:
    size = tf.abs(x)
    small = tf.minimum(size, 0.5)
    near = _log1p(2.0 * small / (1.0 - small))
    far = tf.math.log((1.0 + size) / (1.0 - size))  # infinite at 1, and no number beyond
    return _sign(x) * 0.5 * tf.where(tf.greater(size, 0.5), far, near)


def _make_is_infinite(positive: bool, negative: bool) -> Function:
    largest = float(np.finfo(np.float32).max)

    def function(x: tf.Tensor) -> tf.Tensor:
        above, below = tf.greater(x, largest), tf.less(x, -largest)
        if positive and negative:
            return tf.logical_or(above, below)
        return above if positive else below if negative else tf.not_equal(x, x) & tf.equal(x, x)

    return function


def _atan(x: tf.Tensor) -> tf.Tensor:
    """Compute atan as Cephes does, with an error below 2e-7.

    Two reductions lead to [0, tan(pi/8)], where an odd polynomial approximates it.
    """
    size = tf.abs(x)
    large, middle = tf.greater(size, 2.414213562373095), tf.greater(size, 0.4142135623730950)
    start = tf.where(middle, tf.ones_like(size) * (math.pi / 4), tf.zeros_like(size))
    reduced = tf.where(middle, (size - 1.0) / (size + 1.0), size)
    start = tf.where(large, tf.ones_like(size) * (math.pi / 2), start)
    reduced = tf.where(large, -1.0 / tf.maximum(size, 1.0), reduced)
    z = tf.square(reduced)
    total = 8.05374449538e-2 * z
    for coefficient in (-1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1):
        total = (total + coefficient) * z
    return _sign(x) * (start + (total * reduced + reduced))


def _asin(x: tf.Tensor) -> tf.Tensor:
    return 2.0 * _atan(x / (1.0 + tf.sqrt(1.0 - tf.square(x))))


def _make_celu(alpha: float) -> Function:
    return lambda x: tf.nn.relu(x) + alpha * tf.nn.elu(tf.minimum(x, 0.0) * (1 / alpha))


def make_thresholded_relu(alpha: float) -> Function:
    return lambda x: x * tf.cast(tf.greater(x, alpha), tf.float32)


def _make_shrink(bound: float, bias: float) -> Function:
    def function(x: tf.Tensor) -> tf.Tensor:
        above = tf.cast(tf.greater(x, bound), tf.float32) * (x - bias)
        return above + tf.cast(tf.less(x, -bound), tf.float32) * (x + bias)

    return function


@handles(
    "activations",
    "Elu",
    "Selu",
    "Softplus",
    "Softsign",
    "Erf",
    "Sign",
    "IsNaN",
    "Acos",
    "Asin",
    "Atan",
    "Tan",
    "HardSigmoid",
    "ThresholdedRelu",
    "Shrink",
    "Celu",
    "Sinh",
    "Cosh",
    "Acosh",
    "Asinh",
    "Atanh",
    "IsInf",
)
def activation(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    """Emit an activation that has no builtin of its own from other builtins."""
    x = inputs[0]
    assert x is not None
    if x.dtype != tf.float32 and not (node.op_type == "Sign" and x.dtype.is_integer):
        raise Decline
    return [apply_unary(emitter, _make_activation(node), x)]
