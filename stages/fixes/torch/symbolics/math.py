"""Symbolic functions of arithmetic, statistics and linear algebra that torch 1.5.1 lacks."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch.onnx import symbolic_helper as sym

from stages.fixes.torch.symbolics.core import Symbolic, constant, number, sizes_of

_INTEGERS = {"Byte": torch.uint8, "Int": torch.int32, "Long": torch.int64}


def scalar_like(g: Any, x: Any, value: Any) -> Any:
    """An operand of x's type: the exporter makes a double of a Python number."""
    if not _is_scalar(value):
        return value
    return constant(g, number(value), _INTEGERS.get(x.type().scalarType(), torch.float32))


def _is_scalar(value: Any) -> bool:
    return not sym._is_value(value) or sym._maybe_get_scalar(value) is not value


def integers(value: Any) -> List[int]:
    """A list of integers, or one integer, as Python has it; [] for None."""
    if value is None or (sym._is_value(value) and sym._is_none(value)):
        return []
    if not sym._is_value(value):
        return [int(item) for item in value] if isinstance(value, (list, tuple)) else [int(value)]
    if value.node().kind() == "prim::ListConstruct":
        return [number for item in sym._unpack_list(value) for number in integers(item)]
    found = torch.as_tensor(value.node()["value"])
    return [int(item) for item in found.reshape(-1)]


def true(value: Any) -> bool:
    return value is not None and bool(sym._maybe_get_const(value, "i"))


def _scaled(g: Any, x: Any, factor: Any) -> Any:
    """x times a factor; x itself if that is one, or left out."""
    if factor is None or (_is_scalar(factor) and number(factor, 1.0) == 1):
        return x
    return g.op("Mul", x, scalar_like(g, x, factor))


def _sum(kind: str) -> Symbolic:
    """`add` and `sub` with a factor, which the exporter refuses; None where there is none."""

    def symbolic(g: Any, x: Any, other: Any, alpha: Any = None) -> Any:
        if alpha is None or number(alpha, 1.0) == 1:
            return None
        return g.op(kind, x, _scaled(g, scalar_like(g, x, other), alpha))

    return symbolic


def rsub(g: Any, x: Any, other: Any, alpha: Any = None) -> Any:
    return g.op("Sub", scalar_like(g, x, other), _scaled(g, x, alpha))


def addcmul(g: Any, x: Any, first: Any, second: Any, value: Any = None) -> Any:
    return g.op("Add", x, _scaled(g, g.op("Mul", first, second), value))


def addcdiv(g: Any, x: Any, first: Any, second: Any, value: Any = None) -> Any:
    return g.op("Add", x, _scaled(g, g.op("Div", first, second), value))


def addbmm(g: Any, x: Any, first: Any, second: Any, beta: Any = None, alpha: Any = None) -> Any:
    product = g.op("ReduceSum", g.op("MatMul", first, second), axes_i=[0], keepdims_i=0)
    return g.op("Add", _scaled(g, x, beta), _scaled(g, product, alpha))


def lerp(g: Any, start: Any, end: Any, weight: Any) -> Any:
    return g.op("Add", start, _scaled(g, g.op("Sub", end, start), weight))


def square(g: Any, x: Any) -> Any:
    return g.op("Mul", x, x)


def expm1(g: Any, x: Any) -> Any:
    return g.op("Sub", g.op("Exp", x), constant(g, 1.0))


def log10(g: Any, x: Any) -> Any:
    return g.op("Mul", g.op("Log", x), constant(g, 1 / math.log(10)))


def erfc(g: Any, x: Any) -> Any:
    return g.op("Sub", constant(g, 1.0), g.op("Erf", x))


def trunc(g: Any, x: Any) -> Any:
    return g.op("Mul", g.op("Sign", x), g.op("Floor", g.op("Abs", x)))


def frac(g: Any, x: Any) -> Any:
    return g.op("Sub", x, trunc(g, x))


def remainder(g: Any, x: Any, other: Any) -> Any:
    other = scalar_like(g, x, other)
    return g.op("Sub", x, g.op("Mul", other, g.op("Floor", g.op("Div", x, other))))


def atan2(g: Any, y: Any, x: Any) -> Any:
    """atan(y / x), moved by pi to the side of y where x is negative."""
    zero, pi = constant(g, 0.0), constant(g, math.pi)
    below = g.op("Where", g.op("Less", y, zero), g.op("Neg", pi), pi)
    shift = g.op("Where", g.op("Less", x, zero), below, zero)
    return g.op("Add", g.op("Atan", g.op("Div", y, x)), shift)


def _moments(g: Any, x: Any, args: Sequence[Any]) -> Any:
    """Mean and variance; `args` are (unbiased) or (dimensions, unbiased, keepdim)."""
    sizes = sizes_of(x)
    if sizes is None:
        return None
    dims = integers(args[0]) if len(args) > 1 else []
    axes = sorted(axis % len(sizes) for axis in dims) or list(range(len(sizes)))
    unbiased = true(args[1] if len(args) > 1 else args[0])
    keep = int(len(args) > 2 and true(args[2]))
    count = math.prod(sizes[axis] for axis in axes)
    mean = g.op("ReduceMean", x, axes_i=axes, keepdims_i=1)
    centred = g.op("Sub", x, mean)
    variance = g.op("ReduceMean", g.op("Mul", centred, centred), axes_i=axes, keepdims_i=keep)
    if unbiased:
        variance = g.op("Mul", variance, constant(g, count / max(count - 1, 1)))
    return variance, mean if keep else g.op("Squeeze", mean, axes_i=axes)


def var(g: Any, x: Any, *args: Any) -> Any:
    found = _moments(g, x, args)
    return None if found is None else found[0]


def var_mean(g: Any, x: Any, *args: Any) -> Any:
    return _moments(g, x, args)


def std_mean(g: Any, x: Any, *args: Any) -> Any:
    found = _moments(g, x, args)
    return None if found is None else (g.op("Sqrt", found[0]), found[1])


def norm(g: Any, x: Any, p: Any = None, dim: Any = None, keepdim: Any = None, *_: Any) -> Any:
    """Of any order; the exporter knows 1 and 2, and no norm over everything."""
    order, sizes = number(p, 2.0) if p is not None else 2.0, sizes_of(x)
    axes = integers(dim)
    if not axes:
        if sizes is None:
            return None
        axes = list(range(len(sizes)))
    given = {"axes_i": axes, "keepdims_i": int(true(keepdim))}
    if order in (1, 2):
        return g.op(f"ReduceL{int(order)}", x, **given)
    size = g.op("Abs", x)
    if order == math.inf:
        return g.op("ReduceMax", size, **given)
    if order <= 0 or math.isinf(order):
        return None
    total = g.op("ReduceSum", g.op("Pow", size, constant(g, order)), **given)
    return g.op("Pow", total, constant(g, 1 / order))


def pairwise_distance(g: Any, a: Any, b: Any, p: Any, eps: Any, keepdim: Any) -> Any:
    difference = g.op("Add", g.op("Sub", a, b), constant(g, number(eps, 1e-6)))
    sizes = sizes_of(a)
    return None if sizes is None else _norm_of_last(g, difference, p, len(sizes), true(keepdim))


def cdist(g: Any, a: Any, b: Any, p: Any, mode: Any = None) -> Any:
    """Every row of a against every row of b, by their differences."""
    sizes = sizes_of(a)
    if sizes is None or sizes_of(b) is None:
        return None
    rank = len(sizes)
    rows = g.op("Unsqueeze", a, axes_i=[rank - 1])
    columns = g.op("Unsqueeze", b, axes_i=[rank - 2])
    return _norm_of_last(g, g.op("Sub", rows, columns), p, rank + 1, False)


def _norm_of_last(g: Any, x: Any, p: Any, rank: int, keep: bool) -> Any:
    order = number(p, 2.0)
    given = {"axes_i": [rank - 1], "keepdims_i": int(keep)}
    if order in (1, 2):
        return g.op(f"ReduceL{int(order)}", x, **given)
    total = g.op("ReduceSum", g.op("Pow", g.op("Abs", x), constant(g, order)), **given)
    return g.op("Pow", total, constant(g, 1 / order))


def ger(g: Any, a: Any, b: Any) -> Any:
    return g.op("Mul", g.op("Unsqueeze", a, axes_i=[1]), g.op("Unsqueeze", b, axes_i=[0]))


def chain_matmul(g: Any, matrices: Any) -> Any:
    first, *rest = sym._unpack_list(matrices)
    for matrix in rest:
        first = g.op("MatMul", first, matrix)
    return first


def tensordot(g: Any, a: Any, b: Any, first: Any, second: Any) -> Any:
    """The summed axes last in a, first in b; then one product of matrices."""
    sizes_a, sizes_b = sizes_of(a), sizes_of(b)
    if sizes_a is None or sizes_b is None:
        return None
    summed_a = [axis % len(sizes_a) for axis in integers(first)]
    summed_b = [axis % len(sizes_b) for axis in integers(second)]
    kept_a = [axis for axis in range(len(sizes_a)) if axis not in summed_a]
    kept_b = [axis for axis in range(len(sizes_b)) if axis not in summed_b]
    inner = math.prod(sizes_a[axis] for axis in summed_a)
    a = _reshaped(g, g.op("Transpose", a, perm_i=kept_a + summed_a), [-1, inner])
    b = _reshaped(g, g.op("Transpose", b, perm_i=summed_b + kept_b), [inner, -1])
    result = [sizes_a[axis] for axis in kept_a] + [sizes_b[axis] for axis in kept_b]
    return _reshaped(g, g.op("MatMul", a, b), result)


def _reshaped(g: Any, x: Any, shape: Sequence[int]) -> Any:
    return g.op("Reshape", x, constant(g, list(shape), torch.int64))


def cross(g: Any, a: Any, b: Any, dim: Any = None) -> Any:
    sizes = sizes_of(a)
    if sizes is None:
        return None
    axis = integers(dim)[0] if integers(dim) else sizes.index(3)

    def turned(x: Any, by: List[int]) -> Any:
        return g.op("Gather", x, constant(g, by, torch.int64), axis_i=axis % len(sizes))

    once, twice = [1, 2, 0], [2, 0, 1]
    left = g.op("Mul", turned(a, once), turned(b, twice))
    return g.op("Sub", left, g.op("Mul", turned(a, twice), turned(b, once)))


def _logical(kind: str) -> Symbolic:
    """Of operands of any type, as truth values."""

    def symbolic(g: Any, x: Any, *others: Any) -> Any:
        operands = [_as_bool(g, value) for value in (x, *others)]
        return g.op(kind, *operands)

    return symbolic


def _as_bool(g: Any, value: Any) -> Any:
    return value if value.type().scalarType() == "Bool" else g.op("Cast", value, to_i=9)


def _of_all(kind: str) -> Symbolic:
    """`all` and `any`, of everything or along one axis: the least or greatest of 0 and 1."""

    def symbolic(g: Any, x: Any, dim: Any = None, keepdim: Any = None) -> Any:
        sizes = sizes_of(x)
        if sizes is None:
            return None
        axes = integers(dim) or list(range(len(sizes)))
        numbers = g.op("Cast", _as_bool(g, x), to_i=1)
        found = g.op(kind, numbers, axes_i=axes, keepdims_i=int(true(keepdim)))
        return g.op("Cast", found, to_i=9)

    return symbolic


def _unary(kind: str) -> Callable[[Any, Any], Any]:
    return lambda g, x: g.op(kind, x)


def kthvalue(g: Any, x: Any, k: Any, dim: Any, keepdim: Any = None) -> Any:
    return _kth(g, x, integers(k)[0], dim, keepdim)


def median(g: Any, x: Any, dim: Any = None, keepdim: Any = None) -> Any:
    """The lower of two middle values, as PyTorch has it."""
    sizes = sizes_of(x)
    if sizes is None or dim is None:
        return None
    return _kth(g, x, (sizes[integers(dim)[0]] - 1) // 2 + 1, dim, keepdim)


def _kth(g: Any, x: Any, k: int, dim: Any, keepdim: Any) -> Optional[Sequence[Any]]:
    axis = integers(dim)[0]
    count = constant(g, [k], torch.int64)
    smallest = g.op("TopK", x, count, axis_i=axis, largest_i=0, sorted_i=1, outputs=2)
    last = constant(g, [k - 1] if true(keepdim) else k - 1, torch.int64)
    return [g.op("Gather", value, last, axis_i=axis) for value in smallest]


def argsort(g: Any, x: Any, dim: Any, descending: Any) -> Any:
    sizes = sizes_of(x)
    if sizes is None:
        return None
    axis = integers(dim)[0]
    count = constant(g, [sizes[axis]], torch.int64)
    largest = int(true(descending))
    return g.op("TopK", x, count, axis_i=axis, largest_i=largest, sorted_i=1, outputs=2)[1]


SYMBOLICS: Dict[str, Symbolic] = {
    "__xor_": _logical("Xor"),
    "add": _sum("Add"),
    "addbmm": addbmm,
    "addcdiv": addcdiv,
    "addcmul": addcmul,
    "all": _of_all("ReduceMin"),
    "any": _of_all("ReduceMax"),
    "argsort": argsort,
    "atan2": atan2,
    "cdist": cdist,
    "chain_matmul": chain_matmul,
    "cosh": _unary("Cosh"),
    "cross": cross,
    "erfc": erfc,
    "expm1": expm1,
    "frac": frac,
    "ger": ger,
    "kthvalue": kthvalue,
    "lerp": lerp,
    "log10": log10,
    "logical_and": _logical("And"),
    "logical_not": _logical("Not"),
    "logical_or": _logical("Or"),
    "logical_xor": _logical("Xor"),
    "median": median,
    "norm": norm,
    "pairwise_distance": pairwise_distance,
    "remainder": remainder,
    "rsub": rsub,
    "sinh": _unary("Sinh"),
    "square": square,
    "std_mean": std_mean,
    "sub": _sum("Sub"),
    "tensordot": tensordot,
    "trunc": trunc,
    "var": var,
    "var_mean": var_mean,
}
