"""The images and toolchains, read from the data files that define them.

An image is a folder in `images/`; a toolchain is a TOML file in `stages/toolchains/` that lists
stages in order. Adding either means adding files: nothing here knows their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.host.compat import tomllib
from runner.host.paths import ROOT
from runner.schemas.base import NAME
from runner.toolchains.model import DEFAULT_VARIANT, Image, Reach, Reads, Stage, StandIn, Toolchain


def list_image_names(root: Path = ROOT) -> list[str]:
    return sorted(path.parent.name for path in (root / "images").glob("*/image.toml"))


def load_image(name: str, variant: str = DEFAULT_VARIANT, root: Path = ROOT) -> Image:
    """Read one image's definition. Raises `BadInput` if there is no such image or variant."""
    folder = root / "images" / name
    try:
        _check_plain(name)
        data = tomllib.loads((folder / "image.toml").read_text())
    except FileNotFoundError:
        known = ", ".join(list_image_names(root))
        raise BadInput(f"There is no image '{name}'.", f"Known images: {known}.") from None
    files: dict[str, str] = {"intent": "requirements.in", "lock": "requirements.lock"}
    if variant != DEFAULT_VARIANT:
        try:
            files = data["variants"][variant]
        except KeyError:
            raise BadInput(f"The image '{name}' has no variant '{variant}'.") from None
    return Image(
        name=name,
        variant=variant,
        folder=folder,
        python=data["python"],
        platform=data["platform"],
        as_of=data["as-of"],
        as_of_package=data.get("as-of-package", {}),
        intent=folder / files["intent"],
        lock=folder / files["lock"],
        stand_ins=tuple(_read_stand_in(entry) for entry in data.get("stand-in", ())),
        reads={name: Reads(**_convert(entry)) for name, entry in data.get("reads", {}).items()},
        reach=Reach(**_convert(data.get("reach", {}))),
    )


def list_variants(name: str, root: Path = ROOT) -> list[str]:
    data = tomllib.loads((root / "images" / name / "image.toml").read_text())
    return [DEFAULT_VARIANT, *data.get("variants", {})]


def load_all_images(root: Path = ROOT) -> list[Image]:
    """Load every image in every variant."""
    return [
        load_image(name, variant, root)
        for name in list_image_names(root)
        for variant in list_variants(name, root)
    ]


def load_toolchain(name: str = "", root: Path = ROOT) -> Toolchain:
    """Read the toolchain of this name, or the default one without a name.

    Raises `BadInput` if there is none of this name.
    """
    if not name:
        return load_toolchains(root)[0]
    folder = root / "stages" / "toolchains"
    try:
        _check_plain(name)
        data = tomllib.loads((folder / f"{name}.toml").read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
        raise BadInput(f"There is no toolchain '{name}'.", f"Known toolchains: {known}.") from None
    return Toolchain(
        name=name,
        description=data["description"],
        stages=tuple(
            Stage(**{**entry, "options": tuple(entry.get("options", ()))})
            for entry in data["stage"]
        ),
        accepts=data.get("accepts", "pytorch"),
        reference=data.get("reference", "PyTorch"),
        default=data.get("default", False),
    )


@cache
def load_toolchains(root: Path = ROOT) -> tuple[Toolchain, ...]:
    """Read every toolchain: the default one first, then the others, the latest name first."""
    names = sorted(
        (path.stem for path in (root / "stages/toolchains").glob("*.toml")), reverse=True
    )
    read = [load_toolchain(name, root) for name in names]
    return tuple(sorted(read, key=lambda chain: not chain.default))


def _check_plain(name: str) -> None:
    """Raise `FileNotFoundError` for a name that could lead to a file elsewhere."""
    if not re.fullmatch(NAME, name, re.ASCII):
        raise FileNotFoundError(name)


def choose_toolchain(accepts: str, root: Path = ROOT) -> str:
    """Name the toolchain for a kind of file: the default one if it accepts that."""
    return next(chain.name for chain in load_toolchains(root) if chain.accepts == accepts)


def _convert(table: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a table's keys to Python names, and its lists to tuples."""
    return {
        key.replace("-", "_"): tuple(value) if isinstance(value, list) else value
        for key, value in table.items()
    }


def _read_stand_in(entry: Mapping[str, Any]) -> StandIn:
    return StandIn(entry["pin"], entry["use"], entry["reason"], tuple(entry.get("sha256", ())))
