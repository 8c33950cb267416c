"""Which input or output of one model is which of another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.kit.matching import End, find_fitting_order, is_ambiguous, pair, strip_tensor_name

SIZES = st.lists(st.integers(1, 5), min_size=0, max_size=5)


@pytest.mark.parametrize(
    ("ours", "theirs", "order"),
    [
        ((1, 3, 32, 32), (1, 3, 32, 32), (0, 1, 2, 3)),
        ((1, 3, 32, 32), (1, 32, 32, 3), (0, 2, 3, 1)),
        ((1, 32, 32, 3), (1, 3, 32, 32), (0, 3, 1, 2)),
        ((1, 3, 32, 32), ("n", "?", "?", 3), (0, 2, 3, 1)),
        ((1, 8, 20), (1, 20, 8), (0, 2, 1)),
        ((1, 3, 4, 5, 6), (1, 4, 5, 6, 3), (0, 2, 3, 4, 1)),
        # Rows and columns are never exchanged, nor the batch moved.
        ((1, 3, 32, 16), (1, 3, 16, 32), None),
        ((2, 3, 8, 8), (8, 8, 3, 2), None),
        ((1, 10), (10, 1), None),
        ((1, 10), (1, 10, 1), None),
        ((1, 10), None, (0, 1)),
        ((), (), ()),
    ],
)
def test_orders(ours: tuple[int, ...], theirs: object, order: object) -> None:
    assert find_fitting_order(ours, theirs) == order  # type: ignore[arg-type]


@given(SIZES, st.randoms())
def test_the_order_gives_the_shape_and_its_inverse_undoes_it(
    sizes: list[int], random: object
) -> None:
    array = np.zeros(sizes)
    for shape in ([*sizes[:1], *sizes[2:], *sizes[1:2]], sizes):
        order = find_fitting_order(sizes, shape)
        if order is None:
            assert len(sizes) < 3 and sizes != shape
            continue
        assert array.transpose(order).shape == tuple(shape)
        (made,) = pair([End("x", sizes)], [End("x", shape)])
        assert made.back is not None
        assert array.transpose(order).transpose(made.back).shape == tuple(sizes)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), SIZES), max_size=4, unique_by=lambda e: e[0]),
    st.lists(st.tuples(st.sampled_from("bcde"), SIZES), max_size=4, unique_by=lambda e: e[0]),
)
def test_no_end_is_in_two_pairs_and_names_come_first(
    ours: list[tuple[str, list[int]]], theirs: list[tuple[str, list[int]]]
) -> None:
    pairs = pair([End(*end) for end in ours], [End(*end) for end in theirs])
    assert len({p.ours for p in pairs}) == len({p.theirs for p in pairs}) == len(pairs)
    common = {name for name, _ in ours} & {name for name, _ in theirs}
    assert common == {ours[p.ours][0] for p in pairs if p.by_name}
    for made in pairs:
        assert made.by_name == (ours[made.ours][0] == theirs[made.theirs][0])


def test_names_without_what_converters_add() -> None:
    for name in ("x", "x:0", "serving_default_x:0", "x_int8"):
        assert strip_tensor_name(name) == "x"


def test_places_and_lone_fits() -> None:
    """Names that differ: by place if all fit, else the one that fits alone."""
    a, b = End("a", (1, 4)), End("b", (1, 5))
    c, d = End("c", (1, 5)), End("d", (1, 4))
    assert [(p.ours, p.theirs) for p in pair([a, b], [d, c])] == [(0, 0), (1, 1)]
    assert [(p.ours, p.theirs) for p in pair([a, b], [c, d])] == [(0, 1), (1, 0)]
    # Three of theirs, of which two would do for ours: no guess.
    assert pair([a], [d, End("e", (1, 4)), c]) == []
    # The last ones left on each side belong together, whatever their shapes.
    (only,) = pair([a], [c])
    assert only.axes is None


def test_what_does_not_tell_its_layout() -> None:
    assert is_ambiguous((1, 3, 3, 3))
    assert not is_ambiguous((1, 3, 4, 4))
    assert not is_ambiguous((1, 1, 1, 1))
    assert not is_ambiguous((3, 3))
