"""The grid on which weights lie is found from the weights alone, or found not to be there."""

from __future__ import annotations

import numpy as np
import pytest

from stages.quantize.weight_grid import find_step


@pytest.mark.parametrize("step", [1e-6, 0.00375, 0.11, 40.0])
@pytest.mark.parametrize("count", [2, 9, 300])
def test_every_grid_is_found(step: float, count: int) -> None:
    """Exactly the weights come back, in float32, also where the grid found is a coarser one."""
    generator = np.random.default_rng(count)
    for _ in range(50):
        multiples = generator.integers(-128, 128, count)
        weights = (multiples * np.float32(step)).astype(np.float32)
        found = find_step(weights)
        assert found is not None and found >= 0.999 * step
        again = np.round(weights / found)
        assert np.abs(again).max() <= 128
        assert again * found == pytest.approx(weights, rel=1e-5)


def test_weights_of_no_grid_have_no_step() -> None:
    generator = np.random.default_rng(0)
    assert find_step(generator.normal(0, 1, 300).astype(np.float32)) is None
    # Of two channels with steps of their own, neither step is that of both.
    mixed = np.concatenate([generator.integers(-127, 128, 50) * s for s in (0.01, 0.0137)])
    assert find_step(mixed.astype(np.float32)) is None
    assert find_step(np.zeros(9, np.float32)) == 1.0
