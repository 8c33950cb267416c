"""Images that lie within a range, as real ones do."""

from __future__ import annotations

import numpy as np


def draw_blobs(seed: int, count: int) -> np.ndarray:
    """Draw images of shape (count, 3, 32, 32) with one bright blob each, normalised as digits are.

    They lie within a range, as real images do and normal noise does not.
    """
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:32]
    places = generator.uniform(8, 24, (count, 2, 1, 1))
    widths = generator.uniform(2, 6, (count, 1, 1))
    squares = (y - places[:, 0]) ** 2 + (x - places[:, 1]) ** 2
    images = (np.exp(-squares / (2 * widths**2)) - 0.31) / 0.35
    return np.repeat(images[:, None], 3, axis=1).astype(np.float32)
