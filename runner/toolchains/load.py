"""The images and toolchains, read from the data files that define them.

An image is a folder in `images/`; a toolchain is a TOML file in `stages/toolchains/` that lists
stages in order. Adding either means adding files: nothing here knows their names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.host.compat import tomllib
from runner.host.paths import ROOT
from runner.host.text import NAME
from runner.toolchains.model import DEFAULT_VARIANT, Image, Reach, Reads, Stage, StandIn, Toolchain


def find_user_place() -> Path:
    """Find the folder of the user's own toolchains: RUNNER_TOOLCHAINS, or ./toolchains."""
    return Path(os.environ.get("RUNNER_TOOLCHAINS") or "toolchains").absolute()


def find_user_folders() -> tuple[Path, ...]:
    """Find the folders of the user's own toolchains, one for each.

    Each holds its toolchains as TOML files and their images in `images`.
    """
    try:
        found = [path for path in find_user_place().iterdir() if not path.name.startswith(".")]
        return tuple(sorted(path for path in found if path.is_dir()))
    except OSError:
        return ()


def list_image_names(root: Path = ROOT) -> list[str]:
    """List the names of the images that come with the runner."""
    return _list_images(root)


def list_user_image_names() -> list[str]:
    """List the names of the images of the user's own toolchains."""
    return [name for folder in find_user_folders() for name in _list_images(folder)]


def _list_images(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in (folder / "images").glob("*/image.toml"))


def load_image(name: str, variant: str = DEFAULT_VARIANT, root: Path = ROOT) -> Image:
    """Read one image's definition, the user's own included.

    Raises `BadInput` if there is no such image or variant, or the definition is not valid.
    """
    folder = _find_image_folder(name, root)
    data = _read_toml(folder / "image.toml")
    files: dict[str, str] = {"intent": "requirements.in", "lock": "requirements.lock"}
    if variant != DEFAULT_VARIANT:
        try:
            files = data["variants"][variant]
        except KeyError:
            raise BadInput(f"The image '{name}' has no variant '{variant}'.") from None
    try:
        return Image(
            name=name,
            variant=variant,
            folder=folder,
            python=data["python"],
            platform=data["platform"],
            as_of=data["as-of"],
            as_of_package=data.get("as-of-package", {}),
            indexes=data.get("indexes", {}),
            overrides=tuple(data.get("overrides", ())),
            intent=folder / files["intent"],
            lock=folder / files["lock"],
            stand_ins=tuple(_read_stand_in(entry) for entry in data.get("stand-in", ())),
            reads={name: Reads(**_convert(entry)) for name, entry in data.get("reads", {}).items()},
            reach=Reach(**_convert(data.get("reach", {}))),
            runtime=data.get("runtime", ""),
            tries_quantized=data.get("tries-quantized", False),
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"{folder / 'image.toml'} is not complete: {error}.") from None


def _find_image_folder(name: str, root: Path) -> Path:
    if re.fullmatch(NAME, name, re.ASCII):
        for place in (root, *find_user_folders()):
            if (place / "images" / name / "image.toml").is_file():
                return place / "images" / name
    known = ", ".join(list_image_names(root))
    raise BadInput(f"There is no image '{name}'.", f"Known images: {known}.")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    return data


def list_variants(name: str, root: Path = ROOT) -> list[str]:
    data = _read_toml(_find_image_folder(name, root) / "image.toml")
    return [DEFAULT_VARIANT, *data.get("variants", {})]


def load_all_images(root: Path = ROOT) -> list[Image]:
    """Load every image that comes with the runner, in every variant."""
    return [
        load_image(name, variant, root)
        for name in list_image_names(root)
        for variant in list_variants(name, root)
    ]


def select_images(names: list[str] | None, toolchains: list[str] | None) -> list[Image]:
    """Return the named images, and those of the named toolchains, each in every variant.

    Without a name, they are those of the default toolchain; 'all' stands for every toolchain that
    comes with the runner. Raises `BadInput`.
    """
    if "all" in (toolchains or ()):
        return load_all_images()
    chains = toolchains or ([] if names else [""])
    wanted = [load_image(name).name for name in names or ()]
    wanted += [image for chain in chains for image in load_toolchain(chain).images]
    return [load_image(n, variant) for n in dict.fromkeys(wanted) for variant in list_variants(n)]


def load_toolchain(name: str = "", accepts: str = "", root: Path = ROOT) -> Toolchain:
    """Return the toolchain of this name or short name, or the default one without a name.

    Of several with one short name, `accepts` chooses; without it, the one whose name it is, or the
    first. `NAME+TARGET` is the one of this name for another target. Raises `BadInput` if there is
    none.
    """
    name, plus, target = name.partition("+")
    chain = _find_toolchain(name, accepts, root)
    return _add_target(chain, target, root) if plus else chain


def aim(name: str, target: str) -> str:
    """Return the name of a toolchain for a target, of its own if there is none: `NAME+TARGET`."""
    return f"{name}+{target}" if target and not name.endswith(f"+{target}") else name


def _find_toolchain(name: str, accepts: str, root: Path) -> Toolchain:
    chains = load_toolchains(root)
    if not name:
        return next(chain for chain in chains if accepts in ("", chain.accepts))
    found = [chain for chain in chains if name in (chain.name, chain.short)]
    if not found:
        known = ", ".join(dict.fromkeys(chain.title for chain in chains))
        raise BadInput(
            f"There is no toolchain '{name}'.",
            f"Known toolchains: {known}. Your own: runner toolchain new NAME.",
        )
    found.sort(key=lambda chain: (chain.accepts != accepts, chain.name != name))
    return found[0]


def _add_target(chain: Toolchain, target: str, root: Path) -> Toolchain:
    """Return the toolchain with what makes its models ones for a target. Raises `BadInput`."""
    if target == chain.target:
        return chain
    targets = load_targets(root)
    if target not in targets:
        known = dict.fromkeys(name for name in (chain.target, *targets) if name)
        raise BadInput(
            f"The toolchain '{chain.title}' has no target '{target}'.",
            f"Known: {', '.join(known)}.",
        )
    stage, own = targets[target], chain.stages[-1]
    if stage.consumes != own.produces:
        raise BadInput(
            f"The toolchain '{chain.title}' makes a {own.produces}; the target '{target}' takes a "
            f"{stage.consumes}."
        )
    return replace(
        chain,
        name=f"{chain.name}+{target}",
        short=f"{chain.short}+{target}" if chain.short else "",
        stages=(*chain.stages, stage),
        target=target,
        target_stage=stage,
        target_file=_locate_targets(root) / f"{target}.toml",
    )


@cache
def load_targets(root: Path = ROOT) -> Mapping[str, Stage]:
    """Return the stages that make models for another runtime, by its name: `stages/targets/`."""
    found = {}
    for path in sorted(_locate_targets(root).glob("*.toml")):
        (found[path.stem],) = _read_stages(_read_toml(path)["stage"])
    return found


def _locate_targets(root: Path) -> Path:
    return root / "stages" / "targets"


def load_toolchains(root: Path = ROOT) -> tuple[Toolchain, ...]:
    """Return every toolchain: the defaults first, then the runner's by date, then the user's."""
    return _load_toolchains(root, find_user_folders())


def forget_toolchains() -> None:
    """Read the toolchains again when they are next asked for: their files have changed."""
    _load_toolchains.cache_clear()


@cache
def _load_toolchains(root: Path, folders: Sequence[Path]) -> tuple[Toolchain, ...]:
    own = [read_toolchain(path) for path in sorted((root / "stages/toolchains").glob("*.toml"))]
    own.sort(
        key=lambda chain: (not chain.default, chain.date, chain.accepts != "pytorch", chain.name)
    )
    paths = [path for folder in folders for path in sorted(folder.glob("*.toml"))]
    return (*own, *map(read_toolchain, paths))


def read_toolchain(path: Path) -> Toolchain:
    """Read a toolchain's definition. Raises `BadInput` if it is not complete."""
    data = _read_toml(path)
    try:
        return Toolchain(
            name=path.stem,
            file=path,
            description=data["description"],
            stages=_read_stages(data["stage"]),
            quantizers=_read_stages(data.get("quantizer", ())),
            accepts=data.get("accepts", "pytorch"),
            reference=data.get("reference", "PyTorch"),
            default=data.get("default", False),
            short=data.get("short", ""),
            date=data.get("date", ""),
            opens_batch=data.get("opens_batch", False),
            target=data.get("target", ""),
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"{path} is not a complete toolchain: {error}.") from None


def _read_stages(entries: Iterable[Mapping[str, Any]]) -> tuple[Stage, ...]:
    return tuple(
        Stage(**{**entry, "options": tuple(entry.get("options", ()))}) for entry in entries
    )


def _convert(table: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a table's keys to Python names, and its lists to tuples."""
    return {
        key.replace("-", "_"): tuple(value) if isinstance(value, list) else value
        for key, value in table.items()
    }


def _read_stand_in(entry: Mapping[str, Any]) -> StandIn:
    return StandIn(entry["pin"], entry["use"], entry["reason"], tuple(entry.get("sha256", ())))
