"""Symbolic functions that torch 1.5.1 lacks at opset 11, or gets wrong."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch.onnx import symbolic_helper as sym

Symbolic = Callable[..., Any]


def make_constant(g: Any, value: Any, dtype: Any = torch.float32) -> Any:
    return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))


def get_sizes(value: Any) -> Optional[List[int]]:
    """Return the static sizes of a traced value, or None."""
    kind = value.type()
    if kind.kind() != "TensorType" or kind.sizes() is None:
        return None
    return [int(size) for size in kind.sizes()]


def read_number(value: Any, default: float = 0.0) -> float:
    """Return a scalar argument as a Python number."""
    found = sym._maybe_get_const(value, "f")
    if isinstance(found, torch._C.Value):
        found = sym._maybe_get_const(value, "t")
    return default if found is None else float(found)


def hardsigmoid(g: Any, x: Any) -> Any:
    return g.op("HardSigmoid", x, alpha_f=1 / 6, beta_f=0.5)


def celu(g: Any, x: Any, alpha: Any) -> Any:
    """Export alpha * elu(x / alpha), since ONNX's own Celu came only with opset 12."""
    scale = read_number(alpha, 1.0)
    inner = g.op("Elu", g.op("Div", x, make_constant(g, scale)), alpha_f=1.0)
    return g.op("Mul", inner, make_constant(g, scale))


def hardshrink(g: Any, x: Any, bound: Any) -> Any:
    return g.op("Shrink", x, lambd_f=read_number(bound, 0.5), bias_f=0.0)


def softshrink(g: Any, x: Any, bound: Any) -> Any:
    value = read_number(bound, 0.5)
    return g.op("Shrink", x, lambd_f=value, bias_f=value)


def threshold(g: Any, x: Any, bound: Any, value: Any) -> Any:
    above = g.op("Greater", x, make_constant(g, read_number(bound)))
    return g.op("Where", above, x, make_constant(g, read_number(value)))


def rrelu(g: Any, x: Any, low: Any, high: Any, training: Any, generator: Any) -> Any:
    """Export eval mode, whose slope is the mean of its bounds; the exporter draws a random one."""
    if sym._maybe_get_const(training, "i"):
        return None
    return g.op("LeakyRelu", x, alpha_f=(read_number(low) + read_number(high)) / 2)


def view_as(g: Any, x: Any, other: Any) -> Any:
    return g.op("Reshape", x, g.op("Shape", other))


def clamp_min(g: Any, x: Any, bound: Any) -> Any:
    """Export Max: at opset 11 Clip's bounds are inputs; the exporter writes them as attributes."""
    return g.op("Max", x, _convert_bound(g, bound))


def clamp_max(g: Any, x: Any, bound: Any) -> Any:
    return g.op("Min", x, _convert_bound(g, bound))


def clamp(g: Any, x: Any, low: Any, high: Any) -> Any:
    """Export clamp of integers, which ONNX's Clip takes only from opset 12 on."""
    if x.type().scalarType() not in ("Long", "Int"):
        return None
    value = g.op("Cast", x, to_i=1)
    if not sym._is_none(low):
        value = g.op("Max", value, make_constant(g, read_number(low)))
    if not sym._is_none(high):
        value = g.op("Min", value, make_constant(g, read_number(high)))
    return g.op("Cast", value, to_i=7 if x.type().scalarType() == "Long" else 6)


def hardtanh(g: Any, x: Any, low: Any, high: Any) -> Any:
    """Export hardtanh of scripted values, as float: the exporter asks for a type that they lack."""
    if x.type().scalarType() is not None:
        return None
    return g.op("Clip", x, make_constant(g, read_number(low)), make_constant(g, read_number(high)))


def _convert_bound(g: Any, bound: Any) -> Any:
    return make_constant(g, read_number(bound)) if sym._is_value(bound) else bound


def einsum(g: Any, equation: Any, tensors: Any) -> Any:
    """Export einsum of one or two operands as Transpose, ReduceSum, Reshape and MatMul."""
    text = sym._maybe_get_const(equation, "s").replace(" ", "")
    operands = sym._unpack_list(tensors)
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if "." in text or len(terms) != len(operands) or len(terms) > 2:
        return None
    if not arrow:
        letters = sorted(set(left) - {","})
        output = "".join(c for c in letters if left.count(c) == 1)
    if any(len(set(term)) != len(term) for term in terms):
        return None
    shapes = [get_sizes(operand) for operand in operands]
    if any(shape is None for shape in shapes):
        return None
    size = {c: n for term, shape in zip(terms, shapes) for c, n in zip(term, shape or ())}
    if len(terms) == 1:
        value, term = _sum_out(g, operands[0], terms[0], output)
        return _arrange(g, value, term, output)
    a, first = _sum_out(g, operands[0], terms[0], terms[1] + output)
    b, second = _sum_out(g, operands[1], terms[1], terms[0] + output)
    batch = [c for c in first if c in second and c in output]
    inner = [c for c in first if c in second and c not in output]
    rows = [c for c in first if c not in second]
    columns = [c for c in second if c not in first]

    def multiply_sizes(letters: Sequence[str]) -> int:
        result = 1
        for c in letters:
            result *= size[c]
        return result

    a = _arrange(g, a, first, "".join(batch + rows + inner))
    b = _arrange(g, b, second, "".join(batch + inner + columns))
    lead = [multiply_sizes(batch)] if batch else []
    a = reshape(g, a, [*lead, multiply_sizes(rows), multiply_sizes(inner)])
    b = reshape(g, b, [*lead, multiply_sizes(inner), multiply_sizes(columns)])
    y = g.op("MatMul", a, b)
    y = reshape(g, y, [size[c] for c in batch + rows + columns])
    return _arrange(g, y, "".join(batch + rows + columns), output)


def _sum_out(g: Any, value: Any, term: str, kept: str) -> Any:
    """Sum over the letters that occur nowhere else; return the value and its letters."""
    axes = [i for i, c in enumerate(term) if c not in kept]
    if axes:
        value = g.op("ReduceSum", value, axes_i=axes, keepdims_i=0)
    return value, "".join(c for c in term if c in kept)


def _arrange(g: Any, value: Any, before: str, after: str) -> Any:
    if before == after:
        return value
    return g.op("Transpose", value, perm_i=[before.index(c) for c in after])


def reshape(g: Any, value: Any, shape: Sequence[int]) -> Any:
    return g.op("Reshape", value, make_constant(g, list(shape), torch.int64))


def _make_upsample_linear(rank: int) -> Symbolic:
    """Return a symbolic function of linear 1d or 3d resizing, by resizes of planes.

    ONNX Runtime 1.4 supports only these.
    """

    def symbolic(g: Any, x: Any, output_size: Any, align_corners: Any, *scales: Any) -> Any:
        shape = get_sizes(x)
        corners = sym._maybe_get_const(align_corners, "i")
        if shape is None:
            return None
        found = sym._maybe_get_const(output_size, "is")
        if isinstance(found, torch._C.Value):
            parts = [
                g.op("Cast", reshape(g, part, [1]), to_i=7)
                for part in sym._unpack_list(output_size)
            ]
        else:
            parts = [make_constant(g, [size], torch.int64) for size in found]

        def join(known: Sequence[int], *more: Any) -> Any:
            return g.op("Concat", make_constant(g, list(known), torch.int64), *more, axis_i=0)

        mode = "align_corners" if corners else "pytorch_half_pixel"
        n, c = shape[:2]
        if rank == 1:
            y = reshape(g, x, [n, c, 1, shape[2]])
            y = _resize(g, y, join([n, c, 1], parts[0]), mode)
            return g.op("Reshape", y, join([n, c], parts[0]))
        d, h, w = shape[2:]
        plane = g.op("Mul", parts[1], parts[2])
        y = reshape(g, x, [n, c * d, h, w])
        y = _resize(g, y, join([n, c * d], parts[1], parts[2]), mode)
        y = g.op("Reshape", y, join([n, c, d], plane))
        y = _resize(g, y, join([n, c], parts[0], plane), mode)
        return g.op("Reshape", y, join([n, c], *parts))

    return symbolic


def _resize(g: Any, x: Any, sizes: Any, mode: str) -> Any:
    empty = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
    return g.op(
        "Resize",
        x,
        empty,
        empty,
        sizes,
        coordinate_transformation_mode_s=mode,
        cubic_coeff_a_f=-0.75,
        mode_s="linear",
        nearest_mode_s="floor",
    )


def bilinear(g: Any, a: Any, b: Any, weight: Any, bias: Any) -> Any:
    """Export the sum over i and j of a_i weight_oij b_j, for every o."""
    shape = get_sizes(weight)
    first = get_sizes(a)
    if shape is None or first is None or len(first) != 2:
        return None
    o, i, j = shape
    matrix = reshape(g, g.op("Transpose", weight, perm_i=[1, 0, 2]), [i, o * j])
    product = reshape(g, g.op("MatMul", a, matrix), [first[0], o, j])
    scaled = g.op("Mul", product, g.op("Unsqueeze", b, axes_i=[1]))
    y = g.op("ReduceSum", scaled, axes_i=[2], keepdims_i=0)
    return y if sym._is_none(bias) else g.op("Add", y, bias)


def cosine_similarity(g: Any, a: Any, b: Any, dim: Any, eps: Any) -> Any:
    axis = sym._maybe_get_const(dim, "i")

    def dot(x: Any, y: Any) -> Any:
        return g.op("ReduceSum", g.op("Mul", x, y), axes_i=[axis], keepdims_i=0)

    lengths = g.op(
        "Max", g.op("Mul", dot(a, a), dot(b, b)), make_constant(g, read_number(eps) ** 2)
    )
    return g.op("Div", dot(a, b), g.op("Sqrt", lengths))


def mv(g: Any, matrix: Any, vector: Any) -> Any:
    return g.op("MatMul", matrix, vector)


def affine_grid_generator(g: Any, theta: Any, size: Any, align: Any) -> Any:
    """Export the grid of pixels, each with a 1, times the transposed matrices."""
    sizes = sym._maybe_get_const(size, "is")
    if isinstance(sizes, torch._C.Value) or len(sizes) != 4:
        return None
    n, _, h, w = sizes
    corners = bool(sym._maybe_get_const(align, "i"))

    def make_line(count: int) -> torch.Tensor:
        if corners:
            return torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)
        return (torch.arange(count, dtype=torch.float32) * 2 + 1) / count - 1

    base = torch.ones(h, w, 3)
    base[:, :, 0] = make_line(w)
    base[:, :, 1] = make_line(h)[:, None]
    grid = g.op("Constant", value_t=base.view(1, h * w, 3).repeat(n, 1, 1))
    product = g.op("MatMul", grid, g.op("Transpose", theta, perm_i=[0, 2, 1]))
    return reshape(g, product, [n, h, w, 2])


SYMBOLICS: Dict[str, Symbolic] = {
    "affine_grid_generator": affine_grid_generator,
    "bilinear": bilinear,
    "cosine_similarity": cosine_similarity,
    "dot": mv,
    "mv": mv,
    "celu": celu,
    "clamp": clamp,
    "clamp_max": clamp_max,
    "clamp_min": clamp_min,
    "einsum": einsum,
    "hardshrink": hardshrink,
    "hardsigmoid": hardsigmoid,
    "hardtanh": hardtanh,
    "rrelu": rrelu,
    "softshrink": softshrink,
    "threshold": threshold,
    "upsample_linear1d": _make_upsample_linear(1),
    "upsample_trilinear3d": _make_upsample_linear(3),
    "view_as": view_as,
}
