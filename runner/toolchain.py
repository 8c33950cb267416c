"""Images and toolchains, read from the data files that define them.

An image is a folder in `images/`; a toolchain is a TOML file in `stages/toolchains/` that lists
stages in order. Adding either is adding files: nothing here knows their names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.host.compat import tomllib

_PACKAGE = Path(__file__).resolve().parent
# An installed wheel has `images` and `stages` inside the package, a checkout beside it.
# Of an image or a toolchain: the name of a folder or a file of ours, whoever says it.
NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
ROOT = _PACKAGE / "_toolchain" if (_PACKAGE / "_toolchain").is_dir() else _PACKAGE.parent

DEFAULT_TOOLCHAIN = "pytorch-tflite-2020"
DEFAULT_VARIANT = "cpu"


@dataclass(frozen=True)
class StandIn:
    """A pin that can no longer be had, and the release that the lock names in its place."""

    pin: str
    use: str
    reason: str
    sha256: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.use}, stand-in for {self.pin}"


@dataclass(frozen=True)
class Wheel:
    """A wheel that the user handed over for a vanished pin, already verified."""

    path: Path
    pin: str
    replaces: str
    sha256: str


@dataclass(frozen=True)
class Image:
    """One environment: its intent, its hashed lock and its Dockerfile."""

    name: str
    folder: Path
    python: str
    as_of: str
    intent: Path
    lock: Path
    variant: str = DEFAULT_VARIANT
    as_of_package: Mapping[str, str] = field(default_factory=dict)
    stand_ins: tuple[StandIn, ...] = ()
    wheels: tuple[Wheel, ...] = ()

    @property
    def dockerfile(self) -> Path:
        return self.folder / "Dockerfile"

    @property
    def title(self) -> str:
        """Name and, where it isn't the default, variant: `onnx-tf`, `onnx-tf-cuda`."""
        return self.name if self.variant == DEFAULT_VARIANT else f"{self.name}-{self.variant}"

    @cached_property
    def lock_sha256(self) -> str:
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()

    @cached_property
    def environment_key(self) -> str:
        """64 hex digits that change whenever an installed file could."""
        parts = [self.python, self.lock_sha256, *(wheel.sha256 for wheel in self.wheels)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def stand_ins_used(self) -> tuple[StandIn, ...]:
        """The stand-ins that the lock really installs: those without a wheel of the user's."""
        handed_over = {wheel.pin for wheel in self.wheels}
        return tuple(s for s in self.stand_ins if s.pin not in handed_over)

    def requirements(self, wheel_folder: str | None = None) -> str:
        """The lock's text as an engine installs it.

        A handed-over wheel takes its stand-in's place, as a file URL with its hash.
        `wheel_folder` is where the engine sees the wheels (default: where they are).
        """
        text = self.lock.read_text()
        for wheel in self.wheels:
            location = f"{wheel_folder}/{wheel.path.name}" if wheel_folder else str(wheel.path)
            name = wheel.pin.partition("==")[0]
            line = f"{name} @ file://{location} --hash=sha256:{wheel.sha256}"
            text = _replace_requirement(text, wheel.replaces, line)
        return text


@dataclass(frozen=True)
class Stage:
    """One step of a toolchain: a module that runs in an image and turns one artifact into another.

    `options` names those of the command's options that the stage understands; `trace` is the
    module that compares the artifact with what it was made from, tensor by tensor.
    """

    name: str
    service: str
    module: str
    image: str
    consumes: str
    produces: str
    title: str
    options: tuple[str, ...] = ()
    trace: str = ""

    @property
    def tracer(self) -> Stage:
        """The program of `trace` as a stage: it runs in the same image, under the same contract."""
        return replace(
            self, name=f"trace-{self.name}", module=self.trace, title=f"{self.title}, traced"
        )


@dataclass(frozen=True)
class Toolchain:
    """Stages in order, from a file that `accepts` names: 'pytorch', 'onnx' or 'frozen-graph'.

    `reference` is whose outputs the check compares with.
    """

    name: str
    description: str
    stages: tuple[Stage, ...]
    accepts: str = "pytorch"
    reference: str = "PyTorch"

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stage.image for stage in self.stages))


def image_names(root: Path = ROOT) -> list[str]:
    return sorted(path.parent.name for path in (root / "images").glob("*/image.toml"))


def load_image(name: str, variant: str = DEFAULT_VARIANT, root: Path = ROOT) -> Image:
    """Read one image's definition. `BadInput` if there is no such image or variant."""
    folder = root / "images" / name
    try:
        _plain(name)
        data = tomllib.loads((folder / "image.toml").read_text())
    except FileNotFoundError:
        known = ", ".join(image_names(root))
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
        as_of=data["as-of"],
        as_of_package=data.get("as-of-package", {}),
        intent=folder / files["intent"],
        lock=folder / files["lock"],
        stand_ins=tuple(_stand_in(entry) for entry in data.get("stand-in", ())),
    )


def variants_of(name: str, root: Path = ROOT) -> list[str]:
    data = tomllib.loads((root / "images" / name / "image.toml").read_text())
    return [DEFAULT_VARIANT, *data.get("variants", {})]


def all_images(root: Path = ROOT) -> list[Image]:
    """Every image in every variant."""
    return [
        load_image(name, variant, root)
        for name in image_names(root)
        for variant in variants_of(name, root)
    ]


def load_toolchain(name: str = DEFAULT_TOOLCHAIN, root: Path = ROOT) -> Toolchain:
    """Read one toolchain's list of stages. `BadInput` if there is none of this name."""
    folder = root / "stages" / "toolchains"
    try:
        _plain(name)
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
    )


def _plain(name: str) -> None:
    """See that a name is none of a file elsewhere. Raises `FileNotFoundError`."""
    if not re.fullmatch(NAME, name, re.ASCII):
        raise FileNotFoundError(name)


def toolchain_for(accepts: str, root: Path = ROOT) -> str:
    """The toolchain for a kind of file: the default one if it accepts that, else the latest."""
    names = sorted(path.stem for path in (root / "stages" / "toolchains").glob("*.toml"))
    ordered = [DEFAULT_TOOLCHAIN, *reversed(names)]
    return next(name for name in ordered if load_toolchain(name, root).accepts == accepts)


def with_wheels(image: Image, wheels: tuple[Wheel, ...]) -> Image:
    """The image with those of the user's wheels that replace one of its stand-ins."""
    pins = {stand_in.pin for stand_in in image.stand_ins}
    return replace(image, wheels=tuple(wheel for wheel in wheels if wheel.pin in pins))


def _stand_in(entry: Mapping[str, Any]) -> StandIn:
    return StandIn(entry["pin"], entry["use"], entry["reason"], tuple(entry.get("sha256", ())))


def _replace_requirement(text: str, pin: str, line: str) -> str:
    """Replace a requirement and its continuation lines (hashes) in a requirements file."""
    lines = text.splitlines(keepends=True)
    start = next(i for i, text_line in enumerate(lines) if text_line.startswith(f"{pin} "))
    end = start
    while lines[end].rstrip().endswith("\\"):
        end += 1
    return "".join([*lines[:start], line + "\n", *lines[end + 1 :]])
