"""Small pictures of the samples that a quantised model gets most wrong, for the page of a run."""

from __future__ import annotations

import base64
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from stages.kit.samples import Samples

# The largest height and width, and how many there are. The schema of a report knows them too.
_MOST_PIXELS = 48
_MOST_PICTURES = 6
_LEAST_PIXELS = 8


def draw_pictures(samples: Samples, outputs: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Draw the first sample of each confused pair of classes, then those of the largest errors.

    Of the first input that looks like an image; return [] if none does.
    """
    for tensor, array in zip(samples.inputs, samples.input_arrays):
        if _find_channels(tensor.shape) is not None and array.dtype.kind in "fu":
            numbers = [pair["sample"] for output in outputs for pair in output["confusion"]]
            numbers += [worst["sample"] for output in outputs for worst in output["worst_samples"]]
            chosen = list(dict.fromkeys(numbers))[:_MOST_PICTURES]
            return [{"sample": number, **draw(array[number])} for number in chosen]
    return []


def _find_channels(shape: Sequence[int]) -> Optional[int]:
    """Return the axis of the channels of an input of one image; None if it is none."""
    if len(shape) != 4 or shape[0] != 1:
        return None
    for axis, sides in ((1, shape[2:]), (3, shape[1:3])):
        if shape[axis] in (1, 3) and min(sides) >= _LEAST_PIXELS:
            return axis
    return None


def draw(sample: np.ndarray) -> Dict[str, Any]:
    """Return an image of shape (1, C, H, W) or (1, H, W, C) as a small picture.

    Its values are stretched from black to white, since nobody knows here what was subtracted.
    """
    channels = _find_channels(sample.shape)
    assert channels is not None
    image = np.moveaxis(sample[0].astype(np.float64), channels - 1, -1)
    step = -(-max(image.shape[:2]) // _MOST_PIXELS)
    # A side of a strip may be shorter than a step.
    height, width = (max(1, side // step) for side in image.shape[:2])
    blocks = image[: height * step, : width * step]
    rows = np.array_split(blocks, height, axis=0)
    small = np.stack(
        [np.stack([p.mean((0, 1)) for p in np.array_split(r, width, axis=1)]) for r in rows]
    )
    low, high = float(small.min()), float(small.max())
    pixels = np.round((small - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return {
        "width": width,
        "height": height,
        "channels": int(pixels.shape[2]),
        "pixels": base64.b64encode(pixels.tobytes()).decode(),
    }
