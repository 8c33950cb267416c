"""Symbolic functions that move elements, which torch 1.5.1 lacks or gets wrong."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import torch
from torch.onnx import symbolic_helper as sym

from stages.fixes.torch.symbolics.core import Symbolic, get_sizes, make_constant, read_number
from stages.fixes.torch.symbolics.math import read_integers

_END = 2**31 - 1


def _make_indices(g: Any, values: Sequence[int]) -> Any:
    return make_constant(g, list(values), torch.int64)


def _slice(g: Any, x: Any, axis: int, start: int, end: int) -> Any:
    return g.op("Slice", x, *(_make_indices(g, [value]) for value in (start, end, axis)))


def _flatten(g: Any, x: Any) -> Any:
    return g.op("Reshape", x, _make_indices(g, [-1]))


def roll(g: Any, x: Any, shifts: Any, dims: Any) -> Any:
    """Export a roll axis by axis (last elements first); without axes, of the flattened tensor."""
    sizes = get_sizes(x)
    if sizes is None:
        return None
    axes, amounts = read_integers(dims), read_integers(shifts)
    if not axes:
        count = 1
        for size in sizes:
            count *= size
        rolled = _roll_axis(g, _flatten(g, x), 0, amounts[0] % count)
        return g.op("Reshape", rolled, _make_indices(g, sizes))
    for axis, amount in zip(axes, amounts):
        x = _roll_axis(g, x, axis % len(sizes), amount % sizes[axis])
    return x


def _roll_axis(g: Any, x: Any, axis: int, amount: int) -> Any:
    if amount == 0:
        return x
    parts = (_slice(g, x, axis, -amount, _END), _slice(g, x, axis, 0, -amount))
    return g.op("Concat", *parts, axis_i=axis)


def _make_triangle(lower: bool) -> Symbolic:
    """Return a symbolic function of `tril` or `triu` that zeroes the rest, even infinities."""

    def symbolic(g: Any, x: Any, diagonal: Any) -> Any:
        sizes = get_sizes(x)
        if sizes is None or x.type().scalarType() != "Float":
            return None
        ones = torch.ones(sizes[-2], sizes[-1])
        kept = (torch.tril if lower else torch.triu)(ones, read_integers(diagonal)[0]) > 0
        return g.op("Where", g.op("Constant", value_t=kept), x, make_constant(g, 0.0))

    return symbolic


def diagonal(g: Any, x: Any, offset: Any, first: Any, second: Any) -> Any:
    """Export a gather from the two axes merged into one, which is last in the result."""
    sizes = get_sizes(x)
    if sizes is None:
        return None
    one, two = (read_integers(axis)[0] % len(sizes) for axis in (first, second))
    rest = [axis for axis in range(len(sizes)) if axis not in (one, two)]
    grid = torch.arange(sizes[one] * sizes[two]).reshape(sizes[one], sizes[two])
    flat = g.op("Transpose", x, perm_i=[*rest, one, two])
    flat = g.op("Reshape", flat, _make_indices(g, [*(sizes[axis] for axis in rest), grid.numel()]))
    places = torch.diagonal(grid, read_integers(offset)[0]).tolist()
    return g.op("Gather", flat, _make_indices(g, places), axis_i=len(rest))


def trace(g: Any, x: Any) -> Any:
    sizes = get_sizes(x)
    if sizes is None:
        return None
    steps = range(0, min(sizes) * (sizes[1] + 1), sizes[1] + 1)
    found = g.op("Gather", _flatten(g, x), _make_indices(g, steps), axis_i=0)
    return g.op("ReduceSum", found, axes_i=[0], keepdims_i=0)


def repeat_interleave(g: Any, x: Any, repeats: Any, dim: Any = None) -> Any:
    """Export each element repeated in a row, by counts that must be constant."""
    sizes, count = get_sizes(x), sym._maybe_get_const(repeats, "t")
    if sizes is None or isinstance(count, torch._C.Value):
        return None
    counts = torch.as_tensor(count, dtype=torch.int64)
    if sym._is_none(dim):
        x, sizes, axis = _flatten(g, x), [int(torch.tensor(sizes).prod())], 0
    else:
        axis = read_integers(dim)[0] % len(sizes)
    places = torch.arange(sizes[axis]).repeat_interleave(counts.expand(sizes[axis]))
    return g.op("Gather", x, _make_indices(g, places.tolist()), axis_i=axis)


def scatter(g: Any, x: Any, dim: Any, index: Any, source: Any) -> Any:
    """Export scatter of a number, which the exporter leaves a double without a shape."""
    if sym._is_value(source) and sym._maybe_get_scalar(source) is source:
        return None
    value = g.op("Expand", make_constant(g, read_number(source)), g.op("Shape", index))
    return g.op("ScatterElements", x, index, value, axis_i=read_integers(dim)[0])


def scatter_add(g: Any, x: Any, dim: Any, index: Any, source: Any) -> Any:
    """Export a product with ones where an element goes; ScatterElements keeps one per place."""
    sizes, shape = get_sizes(x), get_sizes(index)
    if sizes is None or shape is None:
        return None
    axis = read_integers(dim)[0] % len(sizes)
    if [n for i, n in enumerate(shape) if i != axis] != [
        n for i, n in enumerate(sizes) if i != axis
    ]:
        return None
    order = _move_axis_last(axis, len(sizes))
    places = _encode_one_hot(g, g.op("Transpose", index, perm_i=order), sizes[axis])
    values = g.op("Unsqueeze", g.op("Transpose", source, perm_i=order), axes_i=[len(sizes)])
    total = g.op("Mul", places, values)
    total = g.op("ReduceSum", total, axes_i=[len(sizes) - 1], keepdims_i=0)
    return g.op("Add", x, g.op("Transpose", total, perm_i=_invert(order)))


def index_add(g: Any, x: Any, dim: Any, index: Any, source: Any) -> Any:
    """Export a product with a matrix that has a one where a slice goes."""
    sizes = get_sizes(x)
    if sizes is None:
        return None
    axis = read_integers(dim)[0] % len(sizes)
    order = _move_axis_last(axis, len(sizes))
    moved = g.op("Transpose", source, perm_i=order)
    total = g.op("MatMul", moved, _encode_one_hot(g, index, sizes[axis]))
    return g.op("Add", x, g.op("Transpose", total, perm_i=_invert(order)))


def _encode_one_hot(g: Any, index: Any, size: int) -> Any:
    return g.op("OneHot", index, _make_indices(g, [size]), make_constant(g, [0.0, 1.0]), axis_i=-1)


def _move_axis_last(axis: int, rank: int) -> List[int]:
    return [*(other for other in range(rank) if other != axis), axis]


def _invert(order: Sequence[int]) -> List[int]:
    return [list(order).index(axis) for axis in range(len(order))]


def col2im(g: Any, x: Any, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """Export fold as a transposed convolution that adds each element of a column at its place."""
    sizes = get_sizes(x)
    if sizes is None or len(sizes) != 3:
        return None
    output, window, gaps, pads, steps = (
        read_integers(value) for value in (size, kernel, dilation, padding, stride)
    )
    area = window[0] * window[1]
    rows = [
        (output[i] + 2 * pads[i] - gaps[i] * (window[i] - 1) - 1) // steps[i] + 1 for i in (0, 1)
    ]
    channels = sizes[1] // area
    image = g.op("Reshape", x, _make_indices(g, [sizes[0], sizes[1], *rows]))
    weight = torch.eye(area).reshape(area, 1, *window).repeat(channels, 1, 1, 1)
    # Pad what the last window does not reach, so that the result has the requested size.
    extra = [
        output[i] + 2 * pads[i] - (rows[i] - 1) * steps[i] - gaps[i] * (window[i] - 1) - 1
        for i in (0, 1)
    ]
    return g.op(
        "ConvTranspose",
        image,
        g.op("Constant", value_t=weight),
        kernel_shape_i=window,
        strides_i=steps,
        dilations_i=gaps,
        pads_i=[*pads, *pads],
        output_padding_i=extra,
        group_i=channels,
    )


def masked_scatter(g: Any, x: Any, mask: Any, source: Any) -> Any:
    """Export masked_scatter: each element that the mask chooses takes the source's next one."""
    sizes, flags = get_sizes(x), get_sizes(mask)
    if sizes is None or flags is None or get_sizes(source) is None:
        return None
    chosen = g.op("Cast", mask, to_i=sym.cast_pytorch_to_onnx["Long"])
    if flags != sizes:
        chosen = g.op("Expand", chosen, _make_indices(g, sizes))
    chosen = _flatten(g, chosen)
    count = g.op("CumSum", chosen, make_constant(g, 0, torch.int64))
    # Where nothing is chosen, the first element, which is not used.
    order = g.op("Mul", g.op("Sub", count, make_constant(g, 1, torch.int64)), chosen)
    values = g.op("Gather", _flatten(g, source), order, axis_i=0)
    return g.op("Where", mask, g.op("Reshape", values, _make_indices(g, sizes)), x)


SYMBOLICS: Dict[str, Symbolic] = {
    "masked_scatter": masked_scatter,
    "col2im": col2im,
    "diagonal": diagonal,
    "index_add": index_add,
    "repeat_interleave": repeat_interleave,
    "roll": roll,
    "scatter": scatter,
    "scatter_add": scatter_add,
    "trace": trace,
    "tril": _make_triangle(lower=True),
    "triu": _make_triangle(lower=False),
}
