"""What only the package index can tell: that locks are current, and that a stale one is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import PASSED, ROOT, run_cli

from runner.errors import EnvironmentUnavailable
from runner.packages import resolver
from runner.toolchains.load import load_all_images, load_image
from runner.toolchains.model import Image

pytestmark = pytest.mark.network


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """The torch image's data, to change."""
    shutil.copytree(ROOT / "images", tmp_path / "images")
    return load_image("torch", root=tmp_path)


def test_every_lock_is_what_its_intent_resolves_to(tmp_path: Path) -> None:
    finished = run_cli("lock", "--check", cwd=tmp_path)
    assert finished.returncode == PASSED, finished.stdout + finished.stderr
    for title in ("runner", *(image.title for image in load_all_images())):
        assert f"{title}: current\n" in finished.stdout


def test_a_stale_lock_is_told(image: Image) -> None:
    text = image.intent.read_text()
    image.intent.write_text(text.replace("==0.6.1", "==0.6.0").replace("==1.5.1", "==1.5.0"))
    told = resolver.diff_lock(image.lock, resolver.resolve(image))
    assert "-torch==1.5.1" in told and "+torch==1.5.0" in told


def test_an_intent_that_does_not_resolve(image: Image) -> None:
    image.intent.write_text("torch==1.5.1\nnumpy==1.20.0\n")  # of 2021
    with pytest.raises(EnvironmentUnavailable, match="does not resolve") as caught:
        resolver.resolve(image)
    assert "numpy" in caught.value.message and "date" in caught.value.remedy
