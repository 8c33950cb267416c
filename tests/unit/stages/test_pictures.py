"""Pictures of samples: drawn by a stage, validated, and written as PNG that others read."""

from __future__ import annotations

import base64
import io

import numpy as np
import PIL.Image
import pytest
from pydantic import ValidationError

from runner.report.html.pictures import encode_png, make_image_source
from runner.schemas.report import Picture
from stages.quantize.check.pictures import draw


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 3, 32, 40), (40, 32)),
        ((1, 32, 40, 3), (40, 32)),
        ((1, 1, 224, 100), (20, 44)),
        ((1, 1, 8, 4000), (47, 1)),
    ],
)
def test_pictures_are_png(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    sample = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    picture = Picture(sample=3, **draw(sample))
    with PIL.Image.open(io.BytesIO(encode_png(picture))) as image:
        assert image.size == size
        pixels = np.asarray(image)
    assert pixels.tobytes() == picture.decode() and pixels.min() == 0 and pixels.max() == 255
    if max(shape) <= 40:
        channels_last = np.moveaxis(sample[0], shape.index(3) - 1, -1).astype(float)
        low, high = channels_last.min(), channels_last.max()
        assert np.abs(pixels - 255 * (channels_last - low) / (high - low)).max() <= 0.51
    assert make_image_source(picture).startswith("data:image/png;base64,iVBOR")


def test_a_picture_is_what_it_says() -> None:
    made = draw(np.zeros((1, 1, 8, 8), np.float32))
    assert set(Picture(sample=0, **made).decode()) == {0}
    for wrong in (
        {**made, "width": 9},
        {**made, "pixels": '"><script>'},
        {**made, "width": 10**9},
        {**made, "pixels": base64.b64encode(b"short").decode()},
    ):
        with pytest.raises(ValidationError):
            Picture(sample=0, **wrong)
