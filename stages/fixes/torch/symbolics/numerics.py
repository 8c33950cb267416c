"""Symbolic functions that keep their digits, and do not overflow, for inputs of any size.

torch 1.5.1 exports some functions by formulas that hold only near 1.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List

import torch
from torch.onnx import symbolic_helper as sym

from stages.fixes.torch.symbolics.core import Symbolic, get_sizes, make_constant, read_number
from stages.fixes.torch.symbolics.math import read_integers, var

# Below these magnitudes a series or an identity is more exact than the plain formula.
_SMALL_LOG1P = 0.4
_SMALL_EXPM1 = 0.5
# From here on float32 cannot tell log(1 + exp(x)) from x.
_FLOAT32_SOFTPLUS = 16.0


def softmax(g: Any, x: Any, dim: Any, dtype: Any = None) -> Any:
    """Export softmax over an inner axis by ONNX's own, over the last one.

    The exporter writes exp(x) / sum(exp(x)), which overflows from 88 on.
    """
    sizes = get_sizes(x)
    if sizes is None:
        return None
    axis, last = read_integers(dim)[0] % max(len(sizes), 1), len(sizes) - 1
    if axis == last or last < 1:
        return None
    order = list(range(len(sizes)))
    order[axis], order[last] = last, axis
    y = g.op("Softmax", g.op("Transpose", x, perm_i=order), axis_i=last)
    y = g.op("Transpose", y, perm_i=order)
    if dtype is not None and not sym._is_none(dtype):
        y = g.op("Cast", y, to_i=sym.scalar_type_to_onnx[read_integers(dtype)[0]])
    return y


def std(g: Any, x: Any, *args: Any) -> Any:
    """Export the root of the mean squared distance from the mean.

    The exporter subtracts the squared mean from the mean square, which cancels.
    """
    found = var(g, x, *args)
    return None if found is None else g.op("Sqrt", found)


def log1p(g: Any, x: Any) -> Any:
    """Export log(1 + x); near zero as 2 atanh(x / (2 + x)), by its series."""
    return _choose_small(g, x, _SMALL_LOG1P, _compute_log1p_series, _compute_log1p)


def _compute_log1p(g: Any, x: Any) -> Any:
    return g.op("Log", g.op("Add", x, make_constant(g, 1.0)))


def _compute_log1p_series(g: Any, x: Any) -> Any:
    ratio = g.op("Div", x, g.op("Add", x, make_constant(g, 2.0)))
    square = g.op("Mul", ratio, ratio)
    total = make_constant(g, 1 / 11)
    for divisor in (9, 7, 5, 3, 1):
        total = g.op("Add", g.op("Mul", square, total), make_constant(g, 1 / divisor))
    return g.op("Mul", g.op("Mul", ratio, total), make_constant(g, 2.0))


def expm1(g: Any, x: Any) -> Any:
    """Export exp(x) - 1; near zero as 2 t / (1 - t) with t = tanh(x / 2)."""
    return _choose_small(g, x, _SMALL_EXPM1, _compute_expm1_by_tanh, _compute_expm1)


def _compute_expm1(g: Any, x: Any) -> Any:
    return g.op("Sub", g.op("Exp", x), make_constant(g, 1.0))


def _compute_expm1_by_tanh(g: Any, x: Any) -> Any:
    half = g.op("Tanh", g.op("Mul", x, make_constant(g, 0.5)))
    twice = g.op("Mul", half, make_constant(g, 2.0))
    return g.op("Div", twice, g.op("Sub", make_constant(g, 1.0), half))


def _choose_small(
    g: Any,
    x: Any,
    bound: float,
    small: Callable[[Any, Any], Any],
    other: Callable[[Any, Any], Any],
) -> Any:
    """Export `small` of x where x is within a bound, and `other` elsewhere."""
    inside = g.op("Less", g.op("Abs", x), make_constant(g, bound))
    return g.op("Where", inside, small(g, x), other(g, x))


def log_sigmoid(g: Any, x: Any) -> Any:
    """Export -softplus(-x); the exporter takes the logarithm of what becomes 0."""
    return g.op("Neg", g.op("Softplus", g.op("Neg", x)))


def softplus(g: Any, x: Any, beta: Any, threshold: Any) -> Any:
    """Export softplus of any beta and threshold; from the threshold on it is x."""
    factor, bound = read_number(beta, 1.0), read_number(threshold, 20.0)
    if factor == 1 and bound >= _FLOAT32_SOFTPLUS:
        return None
    scaled = x if factor == 1 else g.op("Mul", x, make_constant(g, factor))
    y = g.op("Softplus", scaled)
    if factor != 1:
        y = g.op("Div", y, make_constant(g, factor))
    if bound >= _FLOAT32_SOFTPLUS:
        return y
    return g.op("Where", g.op("Greater", scaled, make_constant(g, bound)), x, y)


def atan2(g: Any, y: Any, x: Any) -> Any:
    """Export the angle of (x, y) by the quotient of the lesser and the greater size."""
    zero, one = make_constant(g, 0.0), make_constant(g, 1.0)
    width, height = g.op("Abs", x), g.op("Abs", y)
    greater, lesser = g.op("Max", width, height), g.op("Min", width, height)
    divisor = g.op("Where", g.op("Greater", greater, zero), greater, one)
    angle = g.op("Atan", g.op("Div", lesser, divisor))
    steep = g.op("Sub", make_constant(g, math.pi / 2), angle)
    angle = g.op("Where", g.op("Greater", height, width), steep, angle)
    back = g.op("Sub", make_constant(g, math.pi), angle)
    angle = g.op("Where", g.op("Less", x, zero), back, angle)
    return g.op("Where", g.op("Less", y, zero), g.op("Neg", angle), angle)


def cumprod(g: Any, x: Any, dim: Any, dtype: Any = None) -> Any:
    """Export the products one by one: ONNX knows running sums only."""
    sizes = get_sizes(x)
    if sizes is None or not sizes:
        return None
    axis = read_integers(dim)[0] % len(sizes)
    if sizes[axis] > 64:
        return None
    parts: List[Any] = []
    for place in range(sizes[axis]):
        bounds = (make_constant(g, [n], torch.int64) for n in (place, place + 1, axis))
        part = g.op("Slice", x, *bounds)
        parts.append(part if not parts else g.op("Mul", parts[-1], part))
    return g.op("Concat", *parts, axis_i=axis)


def squeeze(g: Any, x: Any, dim: Any = None) -> Any:
    """Export nothing for an axis that is longer than 1, which PyTorch leaves as it is."""
    sizes, axes = get_sizes(x), read_integers(dim)
    if sizes is None or not axes or not sizes:
        return None
    axis = axes[0] % len(sizes)
    return g.op("Identity", x) if sizes[axis] != 1 else g.op("Squeeze", x, axes_i=[axis])


SYMBOLICS: Dict[str, Symbolic] = {
    "atan2": atan2,
    "cumprod": cumprod,
    "expm1": expm1,
    "log1p": log1p,
    "log_sigmoid": log_sigmoid,
    "softmax": softmax,
    "softplus": softplus,
    "squeeze": squeeze,
    "std": std,
}
