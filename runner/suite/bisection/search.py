"""The search for the first of several in order that is bad, when trying one takes long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "bad", "skip"]


@dataclass(frozen=True)
class Found:
    """The places of the last good one and of the first bad one, None where there is none.

    Where there are both, all between them were tried, and told nothing.
    """

    good: int | None
    bad: int | None


def search(count: int, judge: Callable[[int], Verdict]) -> Found:
    """Find where good turns to bad among `count` in order, halving the interval each time.

    The ends are judged first: without a good first and a bad last there is nothing to search for.
    One that is skipped tells nothing, and the next to it is taken in its place.
    """
    waiting = list(range(count))
    good = _take_end(waiting, 0, judge)
    if good is None:
        return Found(None, None)
    place, verdict = good
    if verdict == "bad":
        return Found(None, place)
    low = place
    last = _take_end(waiting, -1, judge)
    if last is None or last[1] == "good":
        return Found(last[0] if last else low, None)
    high = last[0]
    while waiting:
        middle = waiting.pop((len(waiting) - 1) // 2)
        verdict = judge(middle)
        if verdict == "good":
            low = middle
        elif verdict == "bad":
            high = middle
        waiting = [place for place in waiting if low < place < high]
    return Found(low, high)


def _take_end(
    waiting: list[int], end: int, judge: Callable[[int], Verdict]
) -> tuple[int, Verdict] | None:
    """Take places from one end until one tells something; None if none does."""
    while waiting:
        place = waiting.pop(end)
        verdict = judge(place)
        if verdict != "skip":
            return place, verdict
    return None
