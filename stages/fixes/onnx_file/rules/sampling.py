"""GridSample and AffineGrid, as gathers of pixels and their weights."""

from __future__ import annotations

from typing import Callable, Dict, List, Tuple

import numpy as np

from stages.fixes.onnx_file.refusal import Refused
from stages.fixes.onnx_file.rules.rewriter import Rewriter

_INT32 = 6


def _grid_sample(r: Rewriter) -> None:
    """Emit GridSample of images; they lie as rows of channels, so that a corner is one Gather."""
    x, grid = r.input(0), r.input(1)
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(r.get("mode", ""), r.get("mode", ""))
    edge, corners = r.get("padding_mode", "zeros"), bool(r.get("align_corners", 0))
    shape, target = r.require_shape(x), r.require_shape(grid)
    if len(shape) != 4 or mode == "bicubic":
        raise Refused("it samples volumes, or bicubically.", "Sample images bilinearly.")
    n, c, h, w = shape
    _, rows, columns, _ = target
    pixels = r.add("Reshape", r.add("Transpose", x, perm=[0, 2, 3, 1]), [n * h * w, c])
    parts: List[Tuple[str, str]] = []
    xs = _list_taps(r, _find_position(r, grid, 0, w, corners, edge), mode)
    ys = _list_taps(r, _find_position(r, grid, 1, h, corners, edge), mode)
    # In integers, as float32 skips indices beyond 2 ** 24: int32, which TensorFlow Lite multiplies.
    base = (np.arange(n, dtype=np.int32) * (h * w)).reshape(n, 1, 1)
    width = np.array(w, np.int32)
    for row, row_weight in ys:
        row_index, row_inside = _move_inside(r, row, h)
        start = r.add("Add", r.add("Mul", r.add("Cast", row_index, to=_INT32), width), base)
        for column, column_weight in xs:
            column_index, column_inside = _move_inside(r, column, w)
            place = r.add("Add", start, r.add("Cast", column_index, to=_INT32))
            place = r.add("Reshape", place, [n * rows * columns])
            factors = [f for f in (row_weight, column_weight) if f]
            factors += [row_inside, column_inside] if edge == "zeros" else []
            weight = ""
            for factor in factors:
                weight = r.add("Mul", weight, factor) if weight else factor
            parts.append((r.add("Gather", pixels, place, axis=0), weight))
    total = ""
    for part, weight in parts:
        if weight:
            part = r.add("Mul", part, r.add("Reshape", weight, [n * rows * columns, 1]))
        total = r.add("Add", total, part) if total else part
    total = r.add("Reshape", total, [n, rows, columns, c])
    r.result("Transpose", total, perm=[0, 3, 1, 2])


def _find_position(
    r: Rewriter, grid: str, channel: int, size: int, corners: bool, edge: str
) -> str:
    """Return where a coordinate of [-1, 1] lies among the pixels, of shape (n, rows, columns)."""
    value = r.add("Squeeze", r.add("Slice", grid, [channel], [channel + 1], [3]), axes=[3])
    scale = (size - 1) / 2 if corners else size / 2
    value = r.add("Add", r.add("Mul", value, scale), (size - 1) / 2)
    if edge == "reflection":
        low, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
        if span == 0:
            return r.add("Mul", value, 0.0)
        # A triangle wave: the distance into a period of twice the span, folded at its middle.
        value = r.add("Abs", r.add("Sub", value, low))
        periods = r.add("Floor", r.add("Div", value, 2 * span))
        value = r.add("Sub", value, r.add("Mul", periods, 2 * span))
        value = r.add("Sub", span, r.add("Abs", r.add("Sub", value, span)))
        value = r.add("Add", value, low)
    if edge != "zeros":
        value = r.add("Clip", value, 0.0, float(size - 1))
    return value


def _list_taps(r: Rewriter, position: str, mode: str) -> List[Tuple[str, str]]:
    """Return the pixels that count along an axis, each with its weight."""
    if mode == "nearest":
        return [(r.add("Round", position), "")]
    first = r.add("Floor", position)
    share = r.add("Sub", position, first)
    return [(first, r.add("Sub", 1.0, share)), (r.add("Add", first, 1.0), share)]


def _move_inside(r: Rewriter, index: str, size: int) -> Tuple[str, str]:
    """Return the nearest index inside, and 1 where the index was inside, else 0."""
    inside = r.add("Clip", index, 0.0, float(size - 1))
    return inside, r.add("Cast", r.add("Equal", index, inside), to=1)


def _affine_grid(r: Rewriter) -> None:
    size = [int(d) for d in r.require_constant(1, "sizes").ravel()]
    if len(size) != 4:
        raise Refused("it makes a grid of a volume.", "Make grids of images.")
    n, _, h, w = size
    corners = bool(r.get("align_corners", 0))

    def line(count: int) -> np.ndarray:
        if corners:
            return np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
        return (np.arange(count) * 2 + 1) / count - 1

    rows, columns = np.meshgrid(line(h), line(w), indexing="ij")
    base = np.stack([columns, rows, np.ones((h, w))], -1).reshape(h * w, 3).astype(np.float32)
    theta = r.add("Transpose", r.input(0), perm=[0, 2, 1])
    r.result("Reshape", r.add("MatMul", base, theta), [n, h, w, 2])


RULES: Dict[str, Tuple[int, Callable[[Rewriter], None]]] = {
    "GridSample": (16, _grid_sample),
    "AffineGrid": (20, _affine_grid),
}
