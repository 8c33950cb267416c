"""Matching the inputs and outputs of two models, by name or else by position and shape.

Frameworks lay images out differently, so two shapes also match if one is the other with its
channels moved, as long as the sizes leave no doubt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple, Union

Size = Union[int, str]
Axes = Tuple[int, ...]


@dataclass(frozen=True)
class End:
    """An input or output: its name, and its shape as far as it is known (None if it is not)."""

    name: str
    shape: Optional[Sequence[Size]]

    def __str__(self) -> str:
        return f"'{self.name}' ({format_shape(self.shape)})"


@dataclass(frozen=True)
class Pair:
    """A match of the second model's end `theirs` with the first model's end `ours`, by index.

    Transposing the first model's array by `axes` gives the second model's shape; None if no order
    of axes does.
    """

    ours: int
    theirs: int
    axes: Optional[Axes]
    by_name: bool

    @property
    def back(self) -> Optional[Axes]:
        """The order of axes that turns the second model's array into the first one's."""
        if self.axes is None:
            return None
        return tuple(self.axes.index(axis) for axis in range(len(self.axes)))

    @property
    def is_turned(self) -> bool:
        return self.axes is not None and self.axes != tuple(range(len(self.axes)))


def format_shape(shape: Optional[Sequence[Size]]) -> str:
    return "unknown shape" if shape is None else "x".join(map(str, shape)) or "scalar"


def strip_tensor_name(name: str) -> str:
    """Strip what converters add to a tensor's name: `serving_default_x:0` becomes `x`."""
    name = re.sub(r":\d+$", "", name)
    name = re.sub(r"^serving_default_", "", name)
    return re.sub(r"_(u?int8|int16)$", "", name)


def list_axis_orders(rank: int) -> List[Axes]:
    """Return the orders of axes to try: unchanged, channels moved last, channels moved first."""
    same = tuple(range(rank))
    if not 3 <= rank <= 5:
        return [same]
    to_last = (0, *range(2, rank), 1)
    to_first = (0, rank - 1, *range(1, rank - 1))
    return [same, to_last] if to_last == to_first else [same, to_last, to_first]


def find_fitting_order(ours: Sequence[int], theirs: Optional[Sequence[Size]]) -> Optional[Axes]:
    """Return the order of our axes that fits their shape, where a name is any size; else None."""
    if theirs is None:
        return tuple(range(len(ours)))
    for order in list_axis_orders(len(ours)):
        turned = [ours[axis] for axis in order]
        if len(turned) == len(theirs) and all(
            isinstance(size, str) or size == own for size, own in zip(theirs, turned)
        ):
            return order
    return None


def pair(ours: Sequence[End], theirs: Sequence[End]) -> List[Pair]:
    """Match two models' ends, and return the pairs in our order; our shapes are fixed.

    Equal names match first. The rest match by position if all of them fit, otherwise each with the
    only end of theirs that fits. If one end is left on each side, the two match whether or not they
    fit, so that the comparison reports the wrong shape.
    """
    pairs: List[Pair] = []
    for i, own in enumerate(ours):
        same = [
            j
            for j, end in enumerate(theirs)
            if strip_tensor_name(end.name) == strip_tensor_name(own.name)
        ]
        if len(same) == 1 and same[0] not in [p.theirs for p in pairs]:
            pairs.append(_make_pair(i, same[0], ours, theirs, True))
    left = [i for i in range(len(ours)) if i not in [p.ours for p in pairs]]
    right = [j for j in range(len(theirs)) if j not in [p.theirs for p in pairs]]
    in_place = [_make_pair(i, j, ours, theirs, False) for i, j in zip(left, right)]
    if len(left) == len(right) and (len(left) == 1 or all(p.axes is not None for p in in_place)):
        pairs += in_place
    else:
        for i in left:
            fits = [_make_pair(i, j, ours, theirs, False) for j in right]
            fits = [found for found in fits if found.axes is not None]
            rivals = [k for k in left if k != i and fits and _fits(ours[k], theirs[fits[0].theirs])]
            if len(fits) == 1 and not rivals:
                pairs.append(fits[0])
    return sorted(pairs, key=lambda found: found.ours)


def is_ambiguous(shape: Sequence[int]) -> bool:
    """Tell whether moving the channels leaves a shape unchanged, so that it hides the layout."""
    turned = [tuple(shape[axis] for axis in order) for order in list_axis_orders(len(shape))]
    return len(turned) > 1 and len(set(turned)) == 1 and shape[-1] > 1


def _make_pair(i: int, j: int, ours: Sequence[End], theirs: Sequence[End], by_name: bool) -> Pair:
    shape = [int(size) for size in ours[i].shape or ()]
    return Pair(i, j, find_fitting_order(shape, theirs[j].shape), by_name)


def _fits(own: End, end: End) -> bool:
    return find_fitting_order([int(size) for size in own.shape or ()], end.shape) is not None
