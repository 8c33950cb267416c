"""Symbolic functions of arithmetic, statistics and linear algebra that torch 1.5.1 lacks."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch.onnx import symbolic_helper as sym

from stages.fixes.torch.symbolics.core import (
    Symbolic,
    get_sizes,
    make_constant,
    read_number,
    reshape,
)

_INTEGERS = {"Byte": torch.uint8, "Int": torch.int32, "Long": torch.int64}


def match_scalar_type(g: Any, x: Any, value: Any) -> Any:
    """Return an operand of x's type: the exporter would make a Python number a double."""
    if not _is_scalar(value):
        return value
    return make_constant(g, read_number(value), _INTEGERS.get(x.type().scalarType(), torch.float32))


def _is_scalar(value: Any) -> bool:
    return not sym._is_value(value) or sym._maybe_get_scalar(value) is not value


def read_integers(value: Any) -> List[int]:
    """Return a list of integers, or one integer, as a Python list; [] for None."""
    if value is None or (sym._is_value(value) and sym._is_none(value)):
        return []
    if not sym._is_value(value):
        return [int(item) for item in value] if isinstance(value, (list, tuple)) else [int(value)]
    if value.node().kind() == "prim::ListConstruct":
        return [number for item in sym._unpack_list(value) for number in read_integers(item)]
    found = torch.as_tensor(value.node()["value"])
    return [int(item) for item in found.reshape(-1)]


def read_bool(value: Any) -> bool:
    return value is not None and bool(sym._maybe_get_const(value, "i"))


def _scale(g: Any, x: Any, factor: Any) -> Any:
    """Multiply x by a factor; return x itself if the factor is one or left out."""
    if factor is None or (_is_scalar(factor) and read_number(factor, 1.0) == 1):
        return x
    return g.op("Mul", x, match_scalar_type(g, x, factor))


def _make_sum(kind: str) -> Symbolic:
    """Return a symbolic function of `add` or `sub` with a factor, which the exporter refuses.

    Without a factor, the function returns None.
    """

    def symbolic(g: Any, x: Any, other: Any, alpha: Any = None) -> Any:
        if alpha is None or read_number(alpha, 1.0) == 1:
            return None
        return g.op(kind, x, _scale(g, match_scalar_type(g, x, other), alpha))

    return symbolic


def rsub(g: Any, x: Any, other: Any, alpha: Any = None) -> Any:
    return g.op("Sub", match_scalar_type(g, x, other), _scale(g, x, alpha))


def addcmul(g: Any, x: Any, first: Any, second: Any, value: Any = None) -> Any:
    return g.op("Add", x, _scale(g, g.op("Mul", first, second), value))


def addcdiv(g: Any, x: Any, first: Any, second: Any, value: Any = None) -> Any:
    return g.op("Add", x, _scale(g, g.op("Div", first, second), value))


def addbmm(g: Any, x: Any, first: Any, second: Any, beta: Any = None, alpha: Any = None) -> Any:
    product = g.op("ReduceSum", g.op("MatMul", first, second), axes_i=[0], keepdims_i=0)
    return g.op("Add", _scale(g, x, beta), _scale(g, product, alpha))


def lerp(g: Any, start: Any, end: Any, weight: Any) -> Any:
    return g.op("Add", start, _scale(g, g.op("Sub", end, start), weight))


def square(g: Any, x: Any) -> Any:
    return g.op("Mul", x, x)


def log10(g: Any, x: Any) -> Any:
    return g.op("Mul", g.op("Log", x), make_constant(g, 1 / math.log(10)))


def erfc(g: Any, x: Any) -> Any:
    return g.op("Sub", make_constant(g, 1.0), g.op("Erf", x))


def trunc(g: Any, x: Any) -> Any:
    return g.op("Mul", g.op("Sign", x), g.op("Floor", g.op("Abs", x)))


def frac(g: Any, x: Any) -> Any:
    return g.op("Sub", x, trunc(g, x))


def remainder(g: Any, x: Any, other: Any) -> Any:
    other = match_scalar_type(g, x, other)
    if x.type().scalarType() in _INTEGERS:
        return g.op("Mod", x, other)
    return g.op("Sub", x, g.op("Mul", other, g.op("Floor", g.op("Div", x, other))))


def _compute_moments(g: Any, x: Any, args: Sequence[Any]) -> Any:
    """Return variance and mean; `args` are (unbiased) or (dimensions, unbiased, keepdim)."""
    sizes = get_sizes(x)
    if sizes is None:
        return None
    dims = read_integers(args[0]) if len(args) > 1 else []
    axes = sorted(axis % len(sizes) for axis in dims) or list(range(len(sizes)))
    unbiased = read_bool(args[1] if len(args) > 1 else args[0])
    keep = int(len(args) > 2 and read_bool(args[2]))
    count = math.prod(sizes[axis] for axis in axes)
    mean = g.op("ReduceMean", x, axes_i=axes, keepdims_i=1)
    centred = g.op("Sub", x, mean)
    variance = g.op("ReduceMean", g.op("Mul", centred, centred), axes_i=axes, keepdims_i=keep)
    if unbiased:
        variance = g.op("Mul", variance, make_constant(g, count / max(count - 1, 1)))
    return variance, mean if keep else g.op("Squeeze", mean, axes_i=axes)


def var(g: Any, x: Any, *args: Any) -> Any:
    found = _compute_moments(g, x, args)
    return None if found is None else found[0]


def var_mean(g: Any, x: Any, *args: Any) -> Any:
    return _compute_moments(g, x, args)


def std_mean(g: Any, x: Any, *args: Any) -> Any:
    found = _compute_moments(g, x, args)
    return None if found is None else (g.op("Sqrt", found[0]), found[1])


def norm(g: Any, x: Any, p: Any = None, dim: Any = None, keepdim: Any = None, *_: Any) -> Any:
    """Export a norm of any order; the exporter knows 1 and 2, and no norm over everything."""
    sizes, axes = get_sizes(x), read_integers(dim)
    if not axes:
        if sizes is None:
            return None
        axes = list(range(len(sizes)))
    return _reduce_norm(g, x, p, axes, read_bool(keepdim))


def pairwise_distance(g: Any, a: Any, b: Any, p: Any, eps: Any, keepdim: Any) -> Any:
    difference = g.op("Add", g.op("Sub", a, b), make_constant(g, read_number(eps, 1e-6)))
    sizes = get_sizes(a)
    return (
        None
        if sizes is None
        else _reduce_norm(g, difference, p, [len(sizes) - 1], read_bool(keepdim))
    )


def cdist(g: Any, a: Any, b: Any, p: Any, mode: Any = None) -> Any:
    """Export the distances of every row of a to every row of b, by their differences."""
    sizes = get_sizes(a)
    if sizes is None or get_sizes(b) is None:
        return None
    rank = len(sizes)
    rows = g.op("Unsqueeze", a, axes_i=[rank - 1])
    columns = g.op("Unsqueeze", b, axes_i=[rank - 2])
    return _reduce_norm(g, g.op("Sub", rows, columns), p, [rank], False)


def _reduce_norm(g: Any, x: Any, p: Any, axes: Sequence[int], keep: bool) -> Any:
    """Export the norm of order p over axes; return None for orders that ONNX cannot express."""
    order = 2.0 if p is None else read_number(p, 2.0)
    given = {"axes_i": list(axes), "keepdims_i": int(keep)}
    if order in (1, 2):
        return g.op(f"ReduceL{int(order)}", x, **given)
    size = g.op("Abs", x)
    if order == math.inf:
        return g.op("ReduceMax", size, **given)
    if order == -math.inf:
        return g.op("ReduceMin", size, **given)
    if order == 0:
        return g.op("ReduceSum", g.op("Sign", size), **given)
    total = g.op("ReduceSum", g.op("Pow", size, make_constant(g, order)), **given)
    return g.op("Pow", total, make_constant(g, 1 / order))


def ger(g: Any, a: Any, b: Any) -> Any:
    return g.op("Mul", g.op("Unsqueeze", a, axes_i=[1]), g.op("Unsqueeze", b, axes_i=[0]))


def chain_matmul(g: Any, matrices: Any) -> Any:
    first, *rest = sym._unpack_list(matrices)
    for matrix in rest:
        first = g.op("MatMul", first, matrix)
    return first


def tensordot(g: Any, a: Any, b: Any, first: Any, second: Any) -> Any:
    """Export one matrix product, with the summed axes last in a and first in b."""
    sizes_a, sizes_b = get_sizes(a), get_sizes(b)
    if sizes_a is None or sizes_b is None:
        return None
    summed_a = [axis % len(sizes_a) for axis in read_integers(first)]
    summed_b = [axis % len(sizes_b) for axis in read_integers(second)]
    kept_a = [axis for axis in range(len(sizes_a)) if axis not in summed_a]
    kept_b = [axis for axis in range(len(sizes_b)) if axis not in summed_b]
    inner = math.prod(sizes_a[axis] for axis in summed_a)
    a = reshape(g, g.op("Transpose", a, perm_i=kept_a + summed_a), [-1, inner])
    b = reshape(g, g.op("Transpose", b, perm_i=summed_b + kept_b), [inner, -1])
    result = [sizes_a[axis] for axis in kept_a] + [sizes_b[axis] for axis in kept_b]
    return reshape(g, g.op("MatMul", a, b), result)


def cross(g: Any, a: Any, b: Any, dim: Any = None) -> Any:
    sizes = get_sizes(a)
    if sizes is None:
        return None
    axis = read_integers(dim)[0] if read_integers(dim) else sizes.index(3)

    def rotate(x: Any, by: List[int]) -> Any:
        return g.op("Gather", x, make_constant(g, by, torch.int64), axis_i=axis % len(sizes))

    once, twice = [1, 2, 0], [2, 0, 1]
    left = g.op("Mul", rotate(a, once), rotate(b, twice))
    return g.op("Sub", left, g.op("Mul", rotate(a, twice), rotate(b, once)))


def _make_logical(kind: str) -> Symbolic:
    """Return a symbolic function that takes operands of any type as truth values."""

    def symbolic(g: Any, x: Any, *others: Any) -> Any:
        operands = [_cast_to_bool(g, value) for value in (x, *others)]
        return g.op(kind, *operands)

    return symbolic


def _cast_to_bool(g: Any, value: Any) -> Any:
    return value if value.type().scalarType() == "Bool" else g.op("Cast", value, to_i=9)


def _make_reduction(kind: str) -> Symbolic:
    """Return a symbolic function of `all` or `any`, over everything or one axis.

    It takes the least or greatest of 0 and 1.
    """

    def symbolic(g: Any, x: Any, dim: Any = None, keepdim: Any = None) -> Any:
        sizes = get_sizes(x)
        if sizes is None:
            return None
        axes = read_integers(dim) or list(range(len(sizes)))
        numbers = g.op("Cast", _cast_to_bool(g, x), to_i=1)
        found = g.op(kind, numbers, axes_i=axes, keepdims_i=int(read_bool(keepdim)))
        return g.op("Cast", found, to_i=9)

    return symbolic


def _make_unary(kind: str) -> Callable[[Any, Any], Any]:
    return lambda g, x: g.op(kind, x)


def kthvalue(g: Any, x: Any, k: Any, dim: Any, keepdim: Any = None) -> Any:
    return _select_kth(g, x, read_integers(k)[0], dim, keepdim)


def median(g: Any, x: Any, dim: Any = None, keepdim: Any = None) -> Any:
    """Export the lower of two middle values, as PyTorch defines it."""
    sizes = get_sizes(x)
    if sizes is None or dim is None:
        return None
    return _select_kth(g, x, (sizes[read_integers(dim)[0]] - 1) // 2 + 1, dim, keepdim)


def _select_kth(g: Any, x: Any, k: int, dim: Any, keepdim: Any) -> Optional[Sequence[Any]]:
    axis = read_integers(dim)[0]
    count = make_constant(g, [k], torch.int64)
    smallest = g.op("TopK", x, count, axis_i=axis, largest_i=0, sorted_i=1, outputs=2)
    last = make_constant(g, [k - 1] if read_bool(keepdim) else k - 1, torch.int64)
    return [g.op("Gather", value, last, axis_i=axis) for value in smallest]


def argsort(g: Any, x: Any, dim: Any, descending: Any) -> Any:
    sizes = get_sizes(x)
    if sizes is None:
        return None
    axis = read_integers(dim)[0]
    count = make_constant(g, [sizes[axis]], torch.int64)
    largest = int(read_bool(descending))
    return g.op("TopK", x, count, axis_i=axis, largest_i=largest, sorted_i=1, outputs=2)[1]


SYMBOLICS: Dict[str, Symbolic] = {
    "__xor_": _make_logical("Xor"),
    "add": _make_sum("Add"),
    "addbmm": addbmm,
    "addcdiv": addcdiv,
    "addcmul": addcmul,
    "all": _make_reduction("ReduceMin"),
    "any": _make_reduction("ReduceMax"),
    "argsort": argsort,
    "cdist": cdist,
    "chain_matmul": chain_matmul,
    "cosh": _make_unary("Cosh"),
    "cross": cross,
    "erfc": erfc,
    "frac": frac,
    "ger": ger,
    "kthvalue": kthvalue,
    "lerp": lerp,
    "log10": log10,
    "logical_and": _make_logical("And"),
    "logical_not": _make_logical("Not"),
    "logical_or": _make_logical("Or"),
    "logical_xor": _make_logical("Xor"),
    "median": median,
    "norm": norm,
    "pairwise_distance": pairwise_distance,
    "remainder": remainder,
    "rsub": rsub,
    "sinh": _make_unary("Sinh"),
    "square": square,
    "std_mean": std_mean,
    "sub": _make_sum("Sub"),
    "tensordot": tensordot,
    "trunc": trunc,
    "var": var,
    "var_mean": var_mean,
}
