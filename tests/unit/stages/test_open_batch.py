"""What follows an open batch: formulas from values at two sizes, and samples that are joined."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kit import open_batch
from stages.kit.contract import InputError, Tensor

A, B = open_batch.TRIALS


def test_a_shape_with_one_size_that_follows() -> None:
    formula = open_batch.fit(np.array([A, 144]), np.array([B, 144]))
    assert formula is not None and formula.reshape is not None
    assert formula.reshape.tolist() == [-1, 144]


def test_a_shape_with_two_sizes_that_follow_is_a_line() -> None:
    formula = open_batch.fit(np.array([A, 3 * A + 1, 4]), np.array([B, 3 * B + 1, 4]))
    assert formula is not None and formula.reshape is None and formula.line is not None
    slope, start = formula.line
    assert (slope * 11 + start).tolist() == [11, 34, 4]


def test_a_shape_that_has_an_inferred_size_already_is_a_line() -> None:
    formula = open_batch.fit(np.array([A, -1]), np.array([B, -1]))
    assert formula is not None and formula.reshape is None and formula.line is not None


def test_states_are_a_row_for_each() -> None:
    row = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    formula = open_batch.fit(np.repeat(row, 2 * A, 1), np.repeat(row, 2 * B, 1))
    assert formula is not None and formula.stack is not None
    assert (formula.stack.axis, formula.stack.times) == (1, 2)
    assert np.array_equal(formula.stack.row, row)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.float32(1 / A), np.float32(1 / B)),  # a share of the batch
        (np.arange(A), np.arange(B)),  # numbers of the rows
        (np.zeros((A, A)), np.zeros((B, B))),
        (np.array([A * A]), np.array([B * B])),
        (np.zeros(A), np.ones(B)),
        (np.zeros(A + 1), np.zeros(B + 1)),
    ],
)
def test_what_does_not_follow(first: np.ndarray, second: np.ndarray) -> None:
    assert open_batch.fit(np.asarray(first), np.asarray(second)) is None


def test_samples_are_joined_along_the_open_axis() -> None:
    opened = Tensor("x", (4, 1, 2), "float32", dims=("", "N", ""))
    arrays = [np.full((4, 1, 2), i, np.float32) for i in range(3)]
    joined = open_batch.join(opened, arrays)
    assert joined.shape == open_batch.resize(opened, 3).shape == (4, 3, 2)
    assert joined[0, :, 0].tolist() == [0, 1, 2]
    fixed = Tensor("y", (4, 1, 2), "float32")
    assert open_batch.join(fixed, arrays).shape == (4, 1, 2)
    assert opened.open_shape == (4, -1, 2)


def test_samples_of_other_sizes_are_made_of_all() -> None:
    rows = [open_batch.pick_rows(sample, 7, 8) for sample in range(2)]
    assert rows == [[0, 1, 2, 3, 4, 5, 6], [7, 0, 1, 2, 3, 4, 5]]


def test_outputs_whose_rank_changes_are_refused() -> None:
    output = Tensor("y", (3,), "float32")
    with pytest.raises(InputError, match="rank"):
        open_batch.name_open_axes([output], [[(A, 3)], [(B, 3)]], "N")
    named = open_batch.name_open_axes([Tensor("y", (1, 3), "float32")], [[(A, 3)], [(B, 3)]], "N")
    assert named[0].dims == ("N", "")
