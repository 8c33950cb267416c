"""Adaptive pooling of any output size: a pool where windows are alike, slices elsewhere."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from torch.onnx import symbolic_helper as sym

from stages.fixes.torch.symbolics.core import get_sizes, make_constant

Windows = List[Tuple[int, int]]


def compute_windows(size: int, out: int) -> Windows:
    """Return begin and end of the input that each output pools, by PyTorch's definition."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def _pool_windows(g: Any, x: Any, axis: int, windows: Windows, reduction: str) -> Any:
    """Pool one axis, window by window."""
    parts = []
    for begin, end in windows:
        part = g.op(
            "Slice",
            x,
            make_constant(g, [begin], torch.int64),
            make_constant(g, [end], torch.int64),
            make_constant(g, [axis], torch.int64),
        )
        if end - begin > 1:
            part = g.op(reduction, part, axes_i=[axis], keepdims_i=1)
        parts.append(part)
    return parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis_i=axis)


def _make_adaptive(rank: int, average: bool) -> Callable[..., Any]:
    def symbolic(g: Any, x: Any, output_size: Any) -> Any:
        shape = get_sizes(x)
        target = _read_target(output_size, rank)
        if shape is None or target is None:
            return None
        spatial = shape[-rank:]
        wanted = [n if out in (None, -1) else out for n, out in zip(spatial, target)]
        if all(n % out == 0 for n, out in zip(spatial, wanted)):
            return None  # the exporter can do it
        reduction = "ReduceMean" if average else "ReduceMax"
        y = x
        for i, (n, out) in enumerate(zip(spatial, wanted)):
            if n == out:
                continue
            axis = len(shape) - rank + i
            if n == 1:
                repeats = [out if a == axis else 1 for a in range(len(shape))]
                y = g.op("Tile", y, make_constant(g, repeats, torch.int64))
            else:
                y = _pool_windows(g, y, axis, compute_windows(n, out), reduction)
        # No indices: the exporter refuses a model that uses them.
        return y if average else (y, None)

    return symbolic


def _read_target(output_size: Any, rank: int) -> Any:
    found = sym._maybe_get_const(output_size, "is")
    if isinstance(found, torch._C.Value):
        try:
            found = [int(sym._maybe_get_const(v, "t")) for v in sym._unpack_list(output_size)]
        except (RuntimeError, TypeError, ValueError):
            return None
    sizes: Sequence[int] = found
    return list(sizes) * rank if len(sizes) == 1 else list(sizes)


SYMBOLICS: Dict[str, Callable[..., Any]] = {
    "adaptive_avg_pool1d": _make_adaptive(1, True),
    "adaptive_avg_pool2d": _make_adaptive(2, True),
    "adaptive_avg_pool3d": _make_adaptive(3, True),
    "adaptive_max_pool1d": _make_adaptive(1, False),
    "adaptive_max_pool2d": _make_adaptive(2, False),
    "adaptive_max_pool3d": _make_adaptive(3, False),
}
