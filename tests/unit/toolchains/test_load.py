"""Names that come from files of others, and lead nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import BadInput
from runner.toolchains.load import load_image, load_toolchain


@pytest.mark.parametrize("prefix", ["{folder}/", "../../{folder}/", "/proc/self/cwd/"])
def test_a_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain.toml").write_text("description = 'x'\nstage = []\n")
    (tmp_path / "img").mkdir()
    (tmp_path / "img/image.toml").write_text("python = '3.8'\nas-of = '2020-01-01'\n")
    start = prefix.format(folder=tmp_path)
    with pytest.raises(BadInput, match="There is no toolchain"):
        load_toolchain(start + "chain")
    with pytest.raises(BadInput, match="There is no image"):
        load_image(start + "img")
