"""The noise floor of a model that rounds to a grid, beside what rounding of float32's size does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.kit.contract import Tensor
from stages.kit.samples import Samples, measure_quantized_floor

STEP = 1 / 255
# An eighth of 2^-24 of the range, as measured for convolutions.
ROUNDING = 2.0**-27


def round_to_grid(values: np.ndarray) -> np.ndarray:
    return (np.round(values / STEP) * STEP).astype(np.float32)


def write(folder: Path, count: int, width: int) -> Samples:
    rows = np.random.default_rng(0).uniform(0, 1, (count, 1, width))
    np.save(folder / "input-0.npy", rows)
    np.save(folder / "output-0.npy", np.stack([net(row) for row in rows]))
    tensors = (Tensor("x", "x", "float64", (1, width)), Tensor("y", "y", "float32", (1, 4)))
    return Samples(folder, count, tensors[:1], tensors[1:])


def net(x: np.ndarray, moved: Any = 0.0) -> np.ndarray:
    """Return sums of what was rounded, of shape (1, 4)."""
    parts = round_to_grid(x + moved).reshape(1, 4, -1)
    return np.asarray(parts.astype(np.float64).sum(2).astype(np.float32))


def make_predict(part: float) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    return lambda values: [net(values[0], part)]


@pytest.mark.parametrize("width", [400, 40_000])
def test_the_floor_is_as_large_as_what_rounding_does(tmp_path: Path, width: int) -> None:
    samples = write(tmp_path, 256, width)
    (floor,) = measure_quantized_floor(samples, 256, make_predict).noise_floor["outputs"]  # type: ignore[index]
    inputs, outputs = samples.input_arrays[0], samples.output_arrays[0]
    generator = np.random.default_rng(1)
    errors = [
        np.abs(net(x, generator.normal(0, ROUNDING, x.shape)) - y).mean()
        for x, y in zip(inputs, outputs, strict=True)
    ]
    # One value that falls to the other side, in one sample; three are no surprise.
    one = STEP / 4 / 256
    assert np.mean(errors) / 2 <= floor["mean_abs"] <= max(4 * float(np.mean(errors)), 3.3 * one)


def test_a_model_that_nothing_changes_has_no_floor(tmp_path: Path) -> None:
    samples = write(tmp_path, 16, 400)
    found = measure_quantized_floor(samples, 16, lambda part: make_predict(0.0))
    assert found.noise_floor is not None and found.noise_floor["outputs"][0]["mean_abs"] == 0
