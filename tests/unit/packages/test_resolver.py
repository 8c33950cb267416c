"""The locks and their intents agree; a lock has one writer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from runner.errors import BadInput
from runner.host.paths import ROOT
from runner.packages import resolver
from runner.toolchains.load import load_all_images, load_image, load_toolchain
from runner.toolchains.model import Image

IMAGES = pytest.mark.parametrize("image", load_all_images(), ids=lambda image: image.title)
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ \\]+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    return {m["name"].lower(): m["version"] for m in PIN.finditer(text)}


@IMAGES
def test_every_pin_of_the_intent_is_in_the_lock(image: Image) -> None:
    replaced = {stand_in.pin: stand_in.use for stand_in in image.stand_ins}
    wanted = [line for line in image.intent.read_text().splitlines() if PIN.match(line)]
    assert wanted
    locked = pins(image.lock.read_text())
    for line in wanted:
        name, _, version = replaced.get(line, line).partition("==")
        assert locked[name.lower()] == version


@IMAGES
def test_every_requirement_is_pinned_and_hashed(image: Image) -> None:
    text = image.lock.read_text()
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(text)) > 5
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block


@IMAGES
def test_banner(image: Image) -> None:
    text = image.lock.read_text()
    assert text.startswith(resolver.BANNER)
    assert f"# As of {image.as_of}." in text
    for stand_in in image.stand_ins:
        assert f"{stand_in}: {stand_in.reason}." in text


@pytest.mark.parametrize("name", load_toolchain().images)
def test_the_environment_is_as_old_as_it_says(name: str) -> None:
    """What broke the 2020 tools later: numpy 1.20, protobuf 3.21."""
    image = load_image(name)
    locked = pins(image.lock.read_text())
    assert locked["numpy"].startswith("1.1")
    if "protobuf" in locked:
        assert locked["protobuf"].startswith("3.1")
    assert image.python == "3.8" and image.as_of.startswith("2020-")


def test_write_and_difference(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    text = f"{resolver.BANNER} requirements.in.\n\nsix==1.15.0\n"
    assert resolver.write(lock, text)
    before = lock.stat().st_mtime_ns
    assert not resolver.write(lock, text)
    assert lock.stat().st_mtime_ns == before
    assert resolver.diff_lock(lock, text) == ""
    told = resolver.diff_lock(lock, text.replace("1.15.0", "1.16.0"))
    assert "-six==1.15.0" in told and "+six==1.16.0" in told
    assert [path.name for path in tmp_path.iterdir()] == [lock.name]


def test_a_file_of_somebody_elses_is_not_overwritten(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("six==1.15.0\n")
    with pytest.raises(BadInput, match="not written by") as caught:
        resolver.write(lock, f"{resolver.BANNER} x.\n")
    assert caught.value.remedy
    assert lock.read_text() == "six==1.15.0\n"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the images' data, to change."""
    shutil.copytree(ROOT / "images", tmp_path / "images")
    return tmp_path


def test_a_stand_in_for_no_pin_is_told(copied: Path) -> None:
    image = load_image("tflite", root=copied)
    image.intent.write_text("six\n")
    with pytest.raises(BadInput, match="does not pin"):
        resolver.resolve(image)


@pytest.mark.parametrize("name", ["jax", "../images/torch/.."])
def test_no_such_image(name: str) -> None:
    with pytest.raises(BadInput, match="no image") as caught:
        load_image(name)
    assert all(name in caught.value.remedy for name in ("onnx-tf", "tflite", "torch-2.13"))
