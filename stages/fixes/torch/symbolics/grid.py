"""grid_sample as gathers of corners and their weights."""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple

import torch
from torch.onnx import symbolic_helper as sym

from stages.fixes.torch.symbolics.core import constant, sizes_of


def grid_sampler(g: Any, x: Any, grid: Any, mode: Any, padding: Any, align: Any) -> Any:
    """Two-dimensional sampling; bilinear or nearest, zeros or border.

    The image lies as rows of channels, one a pixel, so that each corner is one gather.
    """
    shape, target = sizes_of(x), sizes_of(grid)
    kind = sym._maybe_get_const(mode, "i")
    border = sym._maybe_get_const(padding, "i")
    corners = bool(sym._maybe_get_const(align, "i"))
    if shape is None or target is None or len(shape) != 4 or kind > 1 or border > 1:
        return None
    n, c, h, w = shape
    _, rows, columns, _ = target
    image = g.op("Transpose", x, perm_i=[0, 2, 3, 1])
    image = g.op("Reshape", image, constant(g, [n * h * w, c], torch.int64))
    ix = _position(g, grid, 0, w, corners, bool(border), [n, rows, columns])
    iy = _position(g, grid, 1, h, corners, bool(border), [n, rows, columns])
    base = torch.arange(n, dtype=torch.float32).mul(h * w).view(n, 1, 1)
    offset = g.op("Constant", value_t=base)
    total = None
    if kind == 1:
        # Both round halves to even.
        choices = [((g.op("Round", iy), None), (g.op("Round", ix), None))]
    else:
        y0, x0 = g.op("Floor", iy), g.op("Floor", ix)
        fy, fx = g.op("Sub", iy, y0), g.op("Sub", ix, x0)
        one = constant(g, 1.0)
        ys = [(y0, g.op("Sub", one, fy)), (g.op("Add", y0, one), fy)]
        xs = [(x0, g.op("Sub", one, fx)), (g.op("Add", x0, one), fx)]
        choices = [(a, b) for a in ys for b in xs]
    for (row, row_weight), (column, column_weight) in choices:
        row, row_inside = _inside(g, row, h)
        column, column_inside = _inside(g, column, w)
        index = g.op("Add", g.op("Mul", row, constant(g, float(w))), column)
        if n > 1:
            index = g.op("Add", index, offset)
        index = g.op("Cast", index, to_i=7)
        index = g.op("Reshape", index, constant(g, [n * rows * columns], torch.int64))
        part = g.op("Gather", image, index, axis_i=0)
        factors = [f for f in (row_weight, column_weight) if f is not None]
        factors += [] if border else [row_inside, column_inside]
        if factors:
            weight = factors[0]
            for factor in factors[1:]:
                weight = g.op("Mul", weight, factor)
            weight = g.op("Reshape", weight, constant(g, [n * rows * columns, 1], torch.int64))
            part = g.op("Mul", part, weight)
        total = part if total is None else g.op("Add", total, part)
    total = g.op("Reshape", total, constant(g, [n, rows, columns, c], torch.int64))
    return g.op("Transpose", total, perm_i=[0, 3, 1, 2])


def _position(
    g: Any, grid: Any, channel: int, size: int, corners: bool, border: bool, shape: Any
) -> Any:
    """Where a coordinate of [-1, 1] lies among the pixels."""
    value = g.op(
        "Slice",
        grid,
        constant(g, [channel], torch.int64),
        constant(g, [channel + 1], torch.int64),
        constant(g, [3], torch.int64),
    )
    value = g.op("Reshape", value, constant(g, list(shape), torch.int64))
    scale = (size - 1) / 2 if corners else size / 2
    shift = (size - 1) / 2
    value = g.op("Add", g.op("Mul", value, constant(g, scale)), constant(g, shift))
    if border:
        value = _clipped(g, value, size)
    return value


def _clipped(g: Any, value: Any, size: int) -> Any:
    return g.op("Min", g.op("Max", value, constant(g, 0.0)), constant(g, float(size - 1)))


def _inside(g: Any, value: Any, size: int) -> Tuple[Any, Any]:
    """The whole number moved into the image, and 1 where it was inside, else 0."""
    moved = _clipped(g, value, size)
    distance = g.op("Abs", g.op("Sub", value, moved))
    one = constant(g, 1.0)
    return moved, g.op("Sub", one, g.op("Min", distance, one))


SYMBOLICS: Dict[str, Callable[..., Any]] = {"grid_sampler": grid_sampler}
