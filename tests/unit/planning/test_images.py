"""Folders of images as samples: prepared as a .toml says, or refused with what is to be said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from runner.errors import BadInput
from runner.planning.check import Check
from runner.planning.images import prepare_image
from runner.planning.inputs import read_toml, resolve_inputs
from runner.planning.quantization import Quantization
from runner.planning.samples import prepare_samples
from runner.planning.source import Source

COLORS = np.array([[[250, 10, 20], [30, 240, 50]], [[60, 70, 230], [90, 100, 110]]], np.uint8)


def read(folder: Path, lines: str, shape: str = "[1, 3, 2, 2]") -> np.ndarray:
    """Prepare the image of COLORS by a .toml."""
    file = folder / "model.toml"
    file.write_text(f'[[input]]\nshape = {shape}\nkind = "image"\n{lines}\n')
    (spec,) = read_toml(file)
    assert spec.image is not None
    return prepare_image(PIL.Image.fromarray(COLORS), spec.shape, spec.image)


def test_values_are_scaled_and_normalised_by_channel(tmp_path: Path) -> None:
    plain = COLORS.transpose(2, 0, 1) / 255
    assert read(tmp_path, "") == pytest.approx(plain, abs=1e-6)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.1, 0.2, 0.3])
    wanted = (plain - mean[:, None, None]) / std[:, None, None]
    lines = f"mean = {mean.tolist()}\nstd = {std.tolist()}"
    assert read(tmp_path, lines) == pytest.approx(wanted, abs=1e-5)
    last = read(tmp_path, lines + '\nlayout = "nhwc"', "[1, 2, 2, 3]")
    assert last == pytest.approx(wanted.transpose(1, 2, 0), abs=1e-5)
    swapped = read(tmp_path, 'color = "bgr"\nscale = 1\nmean = [1, 2, 3]')
    assert swapped[:, 0, 0] == pytest.approx([20 - 1, 10 - 2, 250 - 3])
    gray = read(tmp_path, "scale = 1", "[1, 1, 2, 2]")
    assert gray[0, 0, 0] == pytest.approx(250 * 0.299 + 10 * 0.587 + 20 * 0.114, abs=1)
    raw = read(tmp_path, 'dtype = "uint8"')
    assert np.array_equal(raw, COLORS.transpose(2, 0, 1))


def test_a_model_that_prepares_images_takes_pixels(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    lines = 'shape=[1,3,2,2]\nkind="image"\nmean=[1,2,3]\ncolor="bgr"\npixels={dtype="uint8"}\n'
    (tmp_path / "model.toml").write_text(f"[[input]]\n{lines}")
    ((spec,), _) = resolve_inputs(model, (), None, embed=True)
    assert spec.image is not None and spec.embedded is not None
    made = prepare_image(PIL.Image.fromarray(COLORS), spec.shape, spec.image)
    assert np.array_equal(made, COLORS.transpose(2, 0, 1))
    assert (spec.dtype, spec.low, spec.high) == ("uint8", 0, 256)
    assert spec.embedded.as_option()["swapped"] and spec.embedded.mean == (1, 2, 3)
    with pytest.raises(BadInput, match="no input is of images"):
        resolve_inputs(model, ("1x3x2x2",), None, embed=True)


def test_the_middle_is_taken_of_a_resized_image(tmp_path: Path) -> None:
    """As torchvision's Resize(8) and CenterCrop(4): columns 6 to 9 of 16, rows 2 to 5 of 8."""
    ramp = np.repeat(np.arange(16, dtype=np.uint8)[None] * 10, 8, axis=0)
    file = tmp_path / "model.toml"
    file.write_text('[[input]]\nshape=[1,1,4,4]\nkind="image"\nscale=1\nresize=8\n')
    (spec,) = read_toml(file)
    assert spec.image is not None
    made = prepare_image(PIL.Image.fromarray(ramp), spec.shape, spec.image)
    assert np.array_equal(made, np.broadcast_to([60, 70, 80, 90], (1, 4, 4)))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('shape = [1, 3, 8, 8]\nkind = "picture"', "no kind"),
        ("shape = [1, 3, 8, 8]\nmean = 0.5", 'Say kind = "image"'),
        ('shape = [1, 8, 8, 3]\nkind = "image"', "a shape such as"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\nlayout = "nhwc"', "a shape such as"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\ncolor = "gray"', "does not fit 3 channels"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\nmean = [1, 2]', "mean is a number, or 3"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\nstd = 0', "can be 0"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\nresize = 7', "at least 8"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\ndtype = "uint8"\nmean = 1', "as they are"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\ndtype = "int64"', "float32 or uint8"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\npixels = "uint8"', "pixels is a table"),
        ('shape = [1, 3, 8, 8]\nkind = "image"\npixels = {color = "gray"}', "3 channels"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    file = tmp_path / "model.toml"
    file.write_text(f"[[input]]\n{lines}\n")
    with pytest.raises(BadInput) as caught:
        read_toml(file)
    assert said in f"{caught.value} {caught.value.remedy}"


def save_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((8, 8), number, np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def test_folders_become_arrays_for_as_long_as_they_are_needed(tmp_path: Path) -> None:
    """Of 510 images, 500 calibrate; 20 of 40 are checked, at even distances."""
    model, said = tmp_path / "model.pt", list[str]()
    (tmp_path / "model.toml").write_text('[[input]]\nshape=[1,1,8,8]\nkind="image"\nscale=1\n')
    asked = Check(inputs_file=save_images(tmp_path / "held", 40), samples=20)
    seen = Quantization(("int8",), save_images(tmp_path / "seen", 255))
    save_images(tmp_path / "seen/more", 255)
    (tmp_path / "seen/notes.txt").write_text("no image")
    with prepare_samples(Source(model), asked, seen, said.append) as (check, quantization):
        assert check.inputs_file is not None and quantization.calibration is not None
        held = np.load(check.inputs_file)
        assert held.shape == (20, 1, 1, 8, 8) and check.made
        assert held[:, 0, 0, 0, 0].tolist() == list(range(0, 40, 2))
        assert np.load(quantization.calibration).shape == (500, 1, 1, 8, 8)
    assert not check.inputs_file.exists()
    assert said == [
        "held: 20 of 40 images, prepared as the model's .toml says.",
        "seen: 500 of 510 images, prepared as the model's .toml says.",
    ]


def refuse(folder: Path, images: Path) -> str:
    asked = Check(inputs_file=images)
    with (
        pytest.raises(BadInput) as caught,
        prepare_samples(Source(folder / "model.pt"), asked, Quantization(), print),
    ):
        pass
    return f"{caught.value} {caught.value.remedy}"


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    images = save_images(tmp_path / "held", 1)
    assert "nothing says how the model takes them" in refuse(tmp_path, images)
    toml = tmp_path / "model.toml"
    toml.write_text('[[input]]\nshape=[1,1,8,8]\nkind="image"\n[[input]]\nshape=[1,4]\n')
    assert "2 inputs" in refuse(tmp_path, images)
    toml.write_text('[[input]]\nshape=[1,1,8,8]\nkind="image"\n')
    PIL.Image.fromarray(np.full((8, 8), 70000, np.int32)).save(images / "deep.tif")
    assert "deep.tif" in (said := refuse(tmp_path, images)) and "8 bits" in said
    (images / "deep.tif").write_bytes(b"no image at all")
    assert "deep.tif cannot be read" in refuse(tmp_path, images)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refuse(tmp_path, tmp_path / "empty")
