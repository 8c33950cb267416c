"""The search for the first bad one: the ends, the halving, and those that tell nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.suite.bisection.search import Found, Verdict, search

WORDS: dict[str, Verdict] = {"g": "good", "b": "bad", "-": "skip"}


def find(states: str) -> tuple[Found, list[int]]:
    """Search a row of states; return what was found, and which were judged, in that order."""
    judged: list[int] = []

    def judge(place: int) -> Verdict:
        judged.append(place)
        return WORDS[states[place]]

    return search(len(states), judge), judged


@pytest.mark.parametrize(
    ("states", "good", "bad", "judged"),
    [
        ("gb", 0, 1, [0, 1]),
        ("gggbbbbb", 2, 3, [0, 7, 3, 1, 2]),
        # Both ends are good: nobody knows what is between, and nothing else is tried.
        ("gbbg", 3, None, [0, 3]),
        # Without a good one there is nothing to compare with.
        ("bbgg", None, 0, [0]),
        ("---", None, None, [0, 1, 2]),
        ("--g--", 2, None, [0, 1, 2, 4, 3]),
        # An end that tells nothing gives its place to its neighbour.
        ("-ggb-", 2, 3, [0, 1, 4, 3, 2]),
        # The first bad one is not known exactly where those before it tell nothing.
        ("g--b", 0, 3, [0, 3, 1, 2]),
        ("", None, None, []),
    ],
)
def test_search(states: str, good: int | None, bad: int | None, judged: list[int]) -> None:
    assert find(states) == (Found(good, bad), judged)


@given(st.integers(1, 60), st.integers(1, 60), st.sets(st.integers(0, 119)))
def test_what_turns_once_is_found(good: int, bad: int, skipped: set[int]) -> None:
    whole = "g" * good + "b" * bad
    states = "".join("-" if n in skipped else state for n, state in enumerate(whole))
    found, judged = find(states)
    assert len(judged) == len(set(judged))
    if "g" in states and "b" in states:
        assert found == Found(states.rindex("g"), states.index("b"))
        telling = [place for place in judged if states[place] != "-"]
        assert len(telling) <= 2 + math.ceil(math.log2(len(states)))
