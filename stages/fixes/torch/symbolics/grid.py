"""grid_sample as gathers of corners and their weights."""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple

import torch
from torch.onnx import symbolic_helper as sym

from stages.fixes.torch.symbolics.core import get_sizes, make_constant


def grid_sampler(g: Any, x: Any, grid: Any, mode: Any, padding: Any, align: Any) -> Any:
    """Export two-dimensional sampling, bilinear or nearest, with any padding.

    The image is laid out as rows of channels, one per pixel, so that each corner is one gather.
    """
    shape, target = get_sizes(x), get_sizes(grid)
    kind = sym._maybe_get_const(mode, "i")
    edge = sym._maybe_get_const(padding, "i")  # 0 zeros, 1 border, 2 reflection
    border = edge > 0
    corners = bool(sym._maybe_get_const(align, "i"))
    if shape is None or target is None or len(shape) != 4 or kind > 1:
        return None
    n, c, h, w = shape
    _, rows, columns, _ = target
    image = g.op("Transpose", x, perm_i=[0, 2, 3, 1])
    image = g.op("Reshape", image, make_constant(g, [n * h * w, c], torch.int64))
    ix = _compute_position(g, grid, 0, w, corners, edge, [n, rows, columns])
    iy = _compute_position(g, grid, 1, h, corners, edge, [n, rows, columns])
    base = torch.arange(n, dtype=torch.float32).mul(h * w).view(n, 1, 1)
    offset = g.op("Constant", value_t=base)
    total = None
    if kind == 1:
        # PyTorch and ONNX both round halves to even.
        choices = [((g.op("Round", iy), None), (g.op("Round", ix), None))]
    else:
        y0, x0 = g.op("Floor", iy), g.op("Floor", ix)
        fy, fx = g.op("Sub", iy, y0), g.op("Sub", ix, x0)
        one = make_constant(g, 1.0)
        ys = [(y0, g.op("Sub", one, fy)), (g.op("Add", y0, one), fy)]
        xs = [(x0, g.op("Sub", one, fx)), (g.op("Add", x0, one), fx)]
        choices = [(a, b) for a in ys for b in xs]
    for (row, row_weight), (column, column_weight) in choices:
        row, row_inside = _move_inside(g, row, h)
        column, column_inside = _move_inside(g, column, w)
        index = g.op("Add", g.op("Mul", row, make_constant(g, float(w))), column)
        if n > 1:
            index = g.op("Add", index, offset)
        index = g.op("Cast", index, to_i=7)
        index = g.op("Reshape", index, make_constant(g, [n * rows * columns], torch.int64))
        part = g.op("Gather", image, index, axis_i=0)
        factors = [f for f in (row_weight, column_weight) if f is not None]
        factors += [] if border else [row_inside, column_inside]
        if factors:
            weight = factors[0]
            for factor in factors[1:]:
                weight = g.op("Mul", weight, factor)
            weight = g.op("Reshape", weight, make_constant(g, [n * rows * columns, 1], torch.int64))
            part = g.op("Mul", part, weight)
        total = part if total is None else g.op("Add", total, part)
    total = g.op("Reshape", total, make_constant(g, [n, rows, columns, c], torch.int64))
    return g.op("Transpose", total, perm_i=[0, 3, 1, 2])


def _compute_position(
    g: Any, grid: Any, channel: int, size: int, corners: bool, edge: int, shape: Any
) -> Any:
    """Return where a coordinate of [-1, 1] lies among the pixels."""
    value = g.op(
        "Slice",
        grid,
        make_constant(g, [channel], torch.int64),
        make_constant(g, [channel + 1], torch.int64),
        make_constant(g, [3], torch.int64),
    )
    value = g.op("Reshape", value, make_constant(g, list(shape), torch.int64))
    scale = (size - 1) / 2 if corners else size / 2
    shift = (size - 1) / 2
    value = g.op("Add", g.op("Mul", value, make_constant(g, scale)), make_constant(g, shift))
    if edge == 2:
        value = _reflect(g, value, size, corners)
    return _clip(g, value, size) if edge else value


def _reflect(g: Any, value: Any, size: int, corners: bool) -> Any:
    """Fold positions back at the borders, which lie on pixels or around them: a triangle wave."""
    low, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
    if span == 0:
        return g.op("Mul", value, make_constant(g, 0.0))
    moved = g.op("Sub", value, make_constant(g, low))
    turns = g.op("Floor", g.op("Mul", moved, make_constant(g, 0.5 / span)))
    moved = g.op("Sub", moved, g.op("Mul", turns, make_constant(g, 2 * span)))
    moved = g.op("Min", moved, g.op("Sub", make_constant(g, 2 * span), moved))
    return g.op("Add", moved, make_constant(g, low))


def _clip(g: Any, value: Any, size: int) -> Any:
    return g.op("Min", g.op("Max", value, make_constant(g, 0.0)), make_constant(g, float(size - 1)))


def _move_inside(g: Any, value: Any, size: int) -> Tuple[Any, Any]:
    """Move whole numbers into the image; return them, and 1 for those that were inside, else 0."""
    moved = _clip(g, value, size)
    distance = g.op("Abs", g.op("Sub", value, moved))
    one = make_constant(g, 1.0)
    return moved, g.op("Sub", one, g.op("Min", distance, one))


SYMBOLICS: Dict[str, Callable[..., Any]] = {"grid_sampler": grid_sampler}
