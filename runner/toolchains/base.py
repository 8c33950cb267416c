"""The base of the stage images, as images/base/base.toml describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from runner.host.compat import tomllib
from runner.host.paths import ROOT


@dataclass(frozen=True)
class BaseRecipe:
    """The contents of images/base/base.toml; `published` names an image for a Python ('3.8')."""

    published: Mapping[str, str]
    epoch: int
    suite: str
    packages: tuple[str, ...]
    cuda_sources: tuple[str, ...]
    lock: Path

    @property
    def created(self) -> str:
        return datetime.fromtimestamp(self.epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_recipe(root: Path = ROOT) -> BaseRecipe:
    folder = root / "images" / "base"
    data = tomllib.loads((folder / "base.toml").read_text())
    local = data["local"]
    return BaseRecipe(
        published=data.get("published", {}),
        epoch=data["source-date-epoch"],
        suite=local["suite"],
        packages=tuple(local["packages"]),
        cuda_sources=tuple(data["cuda"]["sources"]),
        lock=folder / "packages.lock",
    )
