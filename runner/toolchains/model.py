"""The definitions of an image, a stage and a toolchain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

DEFAULT_VARIANT = "cpu"


@dataclass(frozen=True)
class StandIn:
    """A pin that is no longer available, and the release that the lock names in its place."""

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
class Reads:
    """Which files of one format an environment's loader reads.

    It reads versions up to `newest` (0: any) in these `containers` (none: any), or nothing if
    `never` is set. `reason` says why not for the others, after 'It '; `{version}` stands for the
    file's. Versions above `native` are changed first, as the note `newer` says. ONNX models of an
    IR version above `newest_ir` are read as that version. `control_flow` is the note for models
    that have some. `operators` is a JSON file of the repository: which operators are converted,
    and why not others.
    """

    newest: int = 0
    containers: tuple[str, ...] = ()
    never: bool = False
    reason: str = ""
    remedy: str = ""
    newest_ir: int = 0
    newest_ir_of: str = ""
    control_flow: str = ""
    native: int = 0
    newer: str = ""
    operators: str = ""


@dataclass(frozen=True)
class Reach:
    """Regular expressions for the bytes in a file that could reach beyond the loading process.

    `graph` is searched for in TensorFlow's graphs and TensorFlow Lite models, `torchscript` in the
    code of a TorchScript archive. `builders` are values of --arch that only build a model.
    """

    graph: tuple[str, ...] = ()
    torchscript: tuple[str, ...] = ()
    builders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """One environment: its intent, its hashed lock and its Dockerfile.

    `indexes` names further package indexes and says what they are; the user's settings locate them
    (RUNNER_INDEX_NAME). `overrides` are requirements that take the place of every other one of the
    same package. `runtime` names what runs .tflite files there, if anything does;
    `tries_quantized` says that quantised ones are tried there, whatever made them.
    """

    name: str
    folder: Path
    python: str
    platform: str
    as_of: str
    intent: Path
    lock: Path
    variant: str = DEFAULT_VARIANT
    as_of_package: Mapping[str, str] = field(default_factory=dict)
    indexes: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    stand_ins: tuple[StandIn, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    reads: Mapping[str, Reads] = field(default_factory=dict)
    reach: Reach = Reach()
    runtime: str = ""
    tries_quantized: bool = False

    @property
    def dockerfile(self) -> Path:
        return self.folder / "Dockerfile"

    @property
    def lock_path(self) -> str:
        """The lock's path in a folder laid out like this repository, as builds see it."""
        return f"images/{self.name}/{self.lock.name}"

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
        """The stand-ins that the lock really installs: those that no user's wheel replaces."""
        handed_over = {wheel.pin for wheel in self.wheels}
        return tuple(s for s in self.stand_ins if s.pin not in handed_over)

    def explain_indexes(self) -> str:
        """Return, as the beginning of a remedy, which further indexes it needs; '' if none."""
        variables = {name: name.upper().replace("-", "_") for name in self.indexes}
        return "".join(
            f"It needs the index '{name}' ({what}): set RUNNER_INDEX_{variables[name]} to its URL, "
            "or to a folder with its files. "
            for name, what in self.indexes.items()
        )

    def render_requirements(self, wheel_folder: str | None = None) -> str:
        """Return the lock's text as an engine installs it.

        A user's wheel takes its stand-in's place, as a file URL with its hash.
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

    `options` names those of the command's options that the stage understands, `defaults` their
    values where the toolchain's are not the stage's own; `trace` is the module that compares the
    artifact with what it was made from, tensor by tensor.
    """

    name: str
    module: str
    image: str
    consumes: str
    produces: str
    title: str
    service: str = ""
    options: tuple[str, ...] = ()
    trace: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tracer(self) -> Stage:
        """The program of `trace` as a stage: it runs in the same image, under the same contract."""
        return replace(
            self, name=f"trace-{self.name}", module=self.trace, title=f"{self.title}, traced"
        )


@dataclass(frozen=True)
class Toolchain:
    """Stages in order, from a kind of file, `accepts`: 'pytorch', 'onnx' or 'frozen-graph'.

    `short` is what --toolchain takes besides the name; toolchains that start from different kinds
    of file may share it. `date` (YYYY-MM-DD) orders them. `reference` names whose outputs the check
    compares with. `file` is the definition. `quantizers` are run only if they are asked for, on
    the last stage's input. `opens_batch` tells whether it can leave the batch size open.

    `target` names what runs its models. Where that is another runtime than its own stages' models
    are for, the last stage is `target_stage`, which follows them, and `target_file` its definition.
    """

    name: str
    description: str
    stages: tuple[Stage, ...]
    accepts: str = "pytorch"
    reference: str = "PyTorch"
    default: bool = False
    short: str = ""
    date: str = ""
    file: Path = Path()
    quantizers: tuple[Stage, ...] = ()
    opens_batch: bool = False
    target: str = ""
    target_stage: Stage | None = None
    target_file: Path = Path()

    @property
    def own_stages(self) -> tuple[Stage, ...]:
        """The stages without the one for another target."""
        return self.stages[:-1] if self.target_stage else self.stages

    @property
    def title(self) -> str:
        """The name for people: the short one, if it has any."""
        return self.short or self.name

    def find_takers(self, key: str) -> list[Stage]:
        """Find the stages that understand the option NAME, or STAGE.NAME."""
        name, dot, option = key.rpartition(".")
        return [s for s in self.stages if (not dot or s.name == name) and option in s.options]

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stage.image for stage in self.stages))


def add_wheels(image: Image, wheels: tuple[Wheel, ...]) -> Image:
    """Return the image with those of the user's wheels that replace one of its stand-ins."""
    pins = {stand_in.pin for stand_in in image.stand_ins}
    return replace(image, wheels=tuple(wheel for wheel in wheels if wheel.pin in pins))


def _replace_requirement(text: str, pin: str, line: str) -> str:
    """Replace a requirement and its continuation lines (hashes) in a requirements file."""
    lines = text.splitlines(keepends=True)
    start = next(i for i, text_line in enumerate(lines) if text_line.startswith(f"{pin} "))
    end = start
    while lines[end].rstrip().endswith("\\"):
        end += 1
    return "".join([*lines[:start], line + "\n", *lines[end + 1 :]])
