"""An open batch: which axes of a model's ends are open, and its inputs at other sizes.

A conversion is made at fixed sizes, twice, at two sizes that nothing else is likely to have. What
differs between the two follows the batch, and is written as a formula of it; see `stages.fixes`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from stages.kit.contract import InputError, Tensor

# The sizes at which a model is converted, to see what follows the batch.
TRIALS = (5, 7)
# The sizes at which a model is checked, besides that of its shapes, which is 1.
CHECKED = (2, 7)
# How many samples of another size are checked at most.
_MOST = 32


class OpenAxis(NamedTuple):
    """The first open axis of a model's inputs: of which input, which axis, and its name."""

    input: int
    axis: int
    name: str


def find_open_axis(tensors: Sequence[Tensor]) -> Optional[OpenAxis]:
    """Return the first open axis of these tensors; None if every axis is fixed."""
    for number, tensor in enumerate(tensors):
        for axis, name in enumerate(tensor.dims):
            if name:
                return OpenAxis(number, axis, name)
    return None


def resize(tensor: Tensor, size: int) -> Tensor:
    """Return a tensor with this size of its open axes, which stay named."""
    if not tensor.dims:
        return tensor
    return replace(tensor, shape=tuple(size if n else d for n, d in zip(tensor.dims, tensor.shape)))


def join(tensor: Tensor, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Join samples of an input, each of the size 1, along its open axis; a fixed one is the first.

    Raises `InputError` if more than one axis is open.
    """
    axes = [axis for axis, name in enumerate(tensor.dims) if name]
    if not axes:
        return np.asarray(arrays[0])
    if len(axes) > 1:
        raise InputError(
            f"The input '{tensor.name}' has several open axes; only the batch can be open.",
            "Give every other size.",
        )
    return np.concatenate(arrays, axis=axes[0])


def count_samples(count: int, size: int) -> int:
    """Return how many samples of another size are made of `count` samples of the size 1."""
    return max(2, min(_MOST, count // size))


def pick_rows(sample: int, size: int, count: int) -> List[int]:
    """Return the numbers of those of the `count` samples that a sample of this size is made of."""
    return [(sample * size + place) % count for place in range(size)]


def name_open_axes(
    tensors: Sequence[Tensor], shapes: Sequence[Sequence[Sequence[int]]], name: str
) -> Tuple[Tensor, ...]:
    """Return outputs with their open axes named: those whose size differs between two runs.

    `shapes` are the outputs' shapes in each run. Raises `InputError` if a rank differs.
    """
    named = []
    for number, tensor in enumerate(tensors):
        first, second = (tuple(run[number]) for run in shapes)
        if not len(first) == len(second) == len(tensor.shape):
            raise InputError(
                f"The rank of the output '{tensor.name}' depends on the batch size: "
                f"{tensor.shape} at 1, {first} at {TRIALS[0]}, {second} at {TRIALS[1]}.",
                "Let forward() return outputs of one rank, without squeeze() over all axes.",
            )
        dims = tuple("" if a == b else name for a, b in zip(first, second))
        named.append(replace(tensor, dims=dims if any(dims) else ()))
    return tuple(named)


class Line(NamedTuple):
    """Integers that follow the size N: `slope` * N + `start`, element by element."""

    slope: np.ndarray
    start: np.ndarray


def fit_line(first: np.ndarray, second: np.ndarray) -> Optional[Line]:
    """Return the line through integers at the trial sizes; None if there is none."""
    if first.shape != second.shape or first.dtype.kind not in "iu":
        return None
    rise = second.astype(np.int64) - first.astype(np.int64)
    slope = rise // (TRIALS[1] - TRIALS[0])
    if (slope * (TRIALS[1] - TRIALS[0]) != rise).any():
        return None
    start = first.astype(np.int64) - slope * TRIALS[0]
    # No size is below 0 at 1: that is no line, but a square or the like.
    return None if (slope + start < 0)[slope != 0].any() else Line(slope, start)


class Stack(NamedTuple):
    """A row that is repeated `times` * N along an axis."""

    row: np.ndarray
    axis: int
    times: int


def fit_stack(first: np.ndarray, second: np.ndarray) -> Optional[Stack]:
    """Return the row of which both arrays are made along one axis; None if there is none."""
    if first.ndim != second.ndim or first.dtype != second.dtype:
        return None
    axes = [i for i, (a, b) in enumerate(zip(first.shape, second.shape)) if a != b]
    if len(axes) != 1:
        return None
    axis = axes[0]
    times, rest = divmod(first.shape[axis], TRIALS[0])
    if rest or second.shape[axis] != times * TRIALS[1] or not times:
        return None
    row = np.take(first, [0], axis=axis)
    if not (np.array_equal(first, np.broadcast_to(row, first.shape))):
        return None
    return Stack(row, axis, times) if (second == row).all() else None


class Formula(NamedTuple):
    """What takes the place of a constant: a line or a stack. `reshape` is one for a Reshape alone:

    the shape with -1 for the only size that follows the batch.
    """

    line: Optional[Line]
    stack: Optional[Stack]
    reshape: Optional[np.ndarray]


def fit(first: np.ndarray, second: np.ndarray) -> Optional[Formula]:
    """Return what a constant is for any size, from its values at the two trial sizes; else None."""
    line = fit_line(first, second)
    if line is not None:
        follows = np.flatnonzero(line.slope)
        target = None
        if first.ndim == 1 and len(follows) == 1 and (first > 0).all():
            target = first.copy()
            target[follows[0]] = -1
        return Formula(line, None, target)
    stack = fit_stack(first, second)
    return None if stack is None else Formula(None, stack, None)


REMEDY = (
    "Let forward() take the batch size from its input where it is used (x.view(x.size(0), -1), "
    "x.flatten(1), x.new_zeros(x.size(0), ...)), without int(), len() or arithmetic on it; or give "
    "a number as the batch size."
)


def describe_place(what: str, layer: str, why: str) -> str:
    """Word the refusal of a layer that fixes the batch size."""
    where = f"The layer '{layer}' ({what})" if layer else f"The operator {what}"
    return f"{where} does not follow an open batch size: {why}."


def as_numbers(value: Any) -> str:
    """Format a few of an array's values for a message."""
    flat = np.asarray(value).reshape(-1)
    shown = ", ".join(map(str, flat[:6].tolist()))
    return f"[{shown}{', ...' if flat.size > 6 else ''}]"
