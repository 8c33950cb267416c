"""Which input or output of one model is which of another: by name, else by position and shape.

Frameworks lay images out differently, so a shape may be the other's with the channels moved. It is
taken for that only where the sizes leave no doubt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple, Union

Size = Union[int, str]
Axes = Tuple[int, ...]


@dataclass(frozen=True)
class End:
    """An input or output: its name, and its shape as far as it is known (None: not at all)."""

    name: str
    shape: Optional[Sequence[Size]]

    def __str__(self) -> str:
        return f"'{self.name}' ({shown(self.shape)})"


@dataclass(frozen=True)
class Pair:
    """End `theirs` of the second model is end `ours` of the first one.

    The first model's array, transposed by `axes`, has the second model's shape; None where no order
    of the axes gives that.
    """

    ours: int
    theirs: int
    axes: Optional[Axes]
    by_name: bool

    @property
    def back(self) -> Optional[Axes]:
        """The order of axes that makes the first model's array of the second one's."""
        if self.axes is None:
            return None
        return tuple(self.axes.index(axis) for axis in range(len(self.axes)))

    @property
    def is_turned(self) -> bool:
        return self.axes is not None and self.axes != tuple(range(len(self.axes)))


def shown(shape: Optional[Sequence[Size]]) -> str:
    return "unknown shape" if shape is None else "x".join(map(str, shape)) or "scalar"


def plain_name(name: str) -> str:
    """A tensor's name without what converters put around it: `serving_default_x:0` is `x`."""
    name = re.sub(r":\d+$", "", name)
    name = re.sub(r"^serving_default_", "", name)
    return re.sub(r"_(u?int8|int16)$", "", name)


def orders(rank: int) -> List[Axes]:
    """The orders of axes that are tried: as it is, channels to the end, channels to the front."""
    same = tuple(range(rank))
    if not 3 <= rank <= 5:
        return [same]
    to_last = (0, *range(2, rank), 1)
    to_first = (0, rank - 1, *range(1, rank - 1))
    return [same, to_last] if to_last == to_first else [same, to_last, to_first]


def fitting_order(ours: Sequence[int], theirs: Optional[Sequence[Size]]) -> Optional[Axes]:
    """How our axes have to be ordered to fit their shape, in which a name is any size."""
    if theirs is None:
        return tuple(range(len(ours)))
    for order in orders(len(ours)):
        turned = [ours[axis] for axis in order]
        if len(turned) == len(theirs) and all(
            isinstance(size, str) or size == own for size, own in zip(theirs, turned)
        ):
            return order
    return None


def pair(ours: Sequence[End], theirs: Sequence[End]) -> List[Pair]:
    """Pairs of ends, in our order; our shapes are fixed.

    Equal names first. Of the rest, those in the same place if all of them fit, or the one end of
    theirs that alone fits. One end that is left on each side is the other's, fitting or not: the
    error of the shape is then the comparison's to report.
    """
    pairs: List[Pair] = []
    for i, own in enumerate(ours):
        same = [j for j, end in enumerate(theirs) if plain_name(end.name) == plain_name(own.name)]
        if len(same) == 1 and same[0] not in [p.theirs for p in pairs]:
            pairs.append(_made(i, same[0], ours, theirs, True))
    left = [i for i in range(len(ours)) if i not in [p.ours for p in pairs]]
    right = [j for j in range(len(theirs)) if j not in [p.theirs for p in pairs]]
    in_place = [_made(i, j, ours, theirs, False) for i, j in zip(left, right)]
    if len(left) == len(right) and (len(left) == 1 or all(p.axes is not None for p in in_place)):
        pairs += in_place
    else:
        for i in left:
            fits = [_made(i, j, ours, theirs, False) for j in right]
            fits = [found for found in fits if found.axes is not None]
            rivals = [k for k in left if k != i and fits and _fits(ours[k], theirs[fits[0].theirs])]
            if len(fits) == 1 and not rivals:
                pairs.append(fits[0])
    return sorted(pairs, key=lambda found: found.ours)


def is_ambiguous(shape: Sequence[int]) -> bool:
    """Whether a shape is the same with its channels moved, so that it does not tell the layout."""
    turned = [tuple(shape[axis] for axis in order) for order in orders(len(shape))]
    return len(turned) > 1 and len(set(turned)) == 1 and shape[-1] > 1


def _made(i: int, j: int, ours: Sequence[End], theirs: Sequence[End], by_name: bool) -> Pair:
    shape = [int(size) for size in ours[i].shape or ()]
    return Pair(i, j, fitting_order(shape, theirs[j].shape), by_name)


def _fits(own: End, end: End) -> bool:
    return fitting_order([int(size) for size in own.shape or ()], end.shape) is not None
