"""Programs for single files, read from the data files that define them: `stages/tools/*.toml`.

A tool's stages run in the environment of the file's own framework, which `formats.toml` names.
Adding a format takes an entry there and a module `stages/compare/open_KIND.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.host.compat import tomllib
from runner.host.paths import ROOT
from runner.schemas.inspection import Inspection, Obstacle
from runner.toolchains.code import list_code
from runner.toolchains.load import (
    list_image_names,
    load_image,
    load_targets,
    load_toolchains,
    read_toolchain,
)
from runner.toolchains.model import Image, Stage, Toolchain


@dataclass(frozen=True)
class FileFormat:
    """How files of some formats are opened: by which module, in which environment."""

    kind: str
    image: str
    formats: tuple[str, ...]


@dataclass(frozen=True)
class Tool:
    """A program's stages, without their environment, which depends on the file.

    `runtime` is the image that one for .tflite files runs in if none is named.
    """

    name: str
    description: str
    stages: tuple[dict[str, Any], ...]
    runtime: str = ""

    def stage(self, index: int, opened: FileFormat, file: Path, title: str = "") -> Stage:
        """Make a stage for a file of this format; the first one consumes the file."""
        entry = self.stages[index]
        consumes = make_volume_path(entry["name"], file) if index == 0 else entry["consumes"]
        return Stage(
            name=entry["name"],
            service="",
            module=entry["module"],
            image=opened.image,
            consumes=consumes,
            produces=entry["produces"],
            title=title or entry["title"],
            options=tuple(entry["options"]),
        )


def make_samples_stage(image: str) -> Stage:
    """Return the program that makes the inputs of a check again, for a toolchain's first image."""
    (entry,) = load_tool("samples").stages
    return Stage(
        name=entry["name"],
        module=entry["module"],
        image=image,
        consumes="samples/samples.json",
        produces=entry["produces"],
        title=entry["title"],
    )


def make_image_stage(tool: Tool, image: Image, title: str) -> Stage:
    """Make a tool's only stage for an image."""
    (entry,) = tool.stages
    return Stage(
        name=entry["name"],
        module=entry["module"],
        image=image.name,
        consumes=entry["consumes"],
        produces=entry["produces"],
        title=title,
        options=tuple(entry["options"]),
    )


def list_tries(own: Sequence[str], root: Path = ROOT) -> list[Image]:
    """List the images that try quantised models, but for interpreters that these images have."""
    images = [load_image(name, root=root) for name in list_image_names(root)]
    has = {load_image(name).runtime for name in own}
    return [image for image in images if image.tries_quantized and image.runtime not in has]


def make_volume_path(role: str, file: Path) -> str:
    """Return the path of a user's file in the volume: its name, with unsafe characters replaced."""
    return f"{role}/{re.sub('[^A-Za-z0-9_.-]', '-', file.name).lstrip('.-') or 'model'}"


def load_tool(name: str, root: Path = ROOT) -> Tool:
    data = tomllib.loads((root / "stages" / "tools" / f"{name}.toml").read_text())
    return Tool(name, data["description"], tuple(data["stage"]), data.get("runtime", ""))


def load_quantize_chain(root: Path = ROOT) -> Toolchain:
    """Load the stages that quantise a .tflite file: a toolchain that convert does not name."""
    return read_toolchain(root / "stages" / "tools" / "quantize.toml")


def load_file_formats(root: Path = ROOT) -> list[FileFormat]:
    data = tomllib.loads((root / "stages" / "tools" / "formats.toml").read_text())
    return [FileFormat(**{**e, "formats": tuple(e["formats"])}) for e in data["format"]]


def list_image_code(name: str, root: Path = ROOT) -> tuple[Path, ...]:
    """List the code, and the data that it reads, of every program that runs in an image."""
    chains = (*load_toolchains(root), load_quantize_chain(root))
    stages = [stage for chain in chains for stage in (*chain.stages, *chain.quantizers)]
    stages += load_targets(root).values()
    modules = {m for s in stages if s.image == name for m in (s.module, s.trace) if m}
    runs_in = {
        "formats": any(entry.image == name for entry in load_file_formats(root)),
        "runtimes": name in list_runtimes(root),
        "starts": name in {chain.stages[0].image for chain in load_toolchains(root)},
        "its-own": False,  # among the chains
    }
    for path in (root / "stages" / "tools").glob("*.toml"):
        tool = tomllib.loads(path.read_text())
        if runs_in[tool.get("runs-in", "formats")]:
            modules |= {stage["module"] for stage in tool.get("stage", ())}
    return list_code(sorted(modules), root)


def list_runtimes(root: Path = ROOT) -> list[str]:
    """List the images in which .tflite files run: by their own word, or as the end of a chain."""
    last = [chain.stages[-1].image for chain in load_toolchains(root)]
    return sorted({*_list_own_runtimes(root), *last})


@cache
def _list_own_runtimes(root: Path) -> tuple[str, ...]:
    return tuple(n for n in list_image_names(root) if load_image(n, root=root).runtime)


def choose_runtimes(tool: Tool, names: Sequence[str]) -> list[Image]:
    """Return the named images, or the tool's own one without a name.

    Raises `BadInput` for one that runs no .tflite files.
    """
    known = list_runtimes()
    for name in names:
        if name not in known and not load_image(name).runtime:
            raise BadInput(
                f"Nothing in the image '{name}' runs .tflite files.",
                f"Runtimes: {', '.join(known)}.",
            )
    return [load_image(name) for name in dict.fromkeys(names or (tool.runtime,))]


def find_format(found: Inspection) -> FileFormat | None:
    """Find how a file is opened, by what it is; None if no environment opens it."""
    return next((entry for entry in load_file_formats() if found.format in entry.formats), None)


def require_format(found: Inspection) -> FileFormat:
    """Find how a file is opened. Raises `BadInput` for one that cannot be run."""
    opened = find_format(found)
    against = [o for o in found.toolchain.obstacles if opened is None or not o.runs]
    if opened is None or against:
        why = against[0] if against else Obstacle(reason="")
        raise BadInput(
            f"{found.path} is no model that can be run here: {found.what}. {why.reason}".rstrip(),
            why.remedy or "Name a .pt, .onnx, .pb or .tflite file.",
        )
    return opened
