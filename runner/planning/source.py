"""The file that a run starts from: identified by its bytes, and refused if nothing reads it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.formats.facts import FileFacts
from runner.formats.identify import read_file
from runner.formats.kinds import KINDS, STARTS, add_article
from runner.planning.accept import judge
from runner.schemas.inspection import Format, Obstacle
from runner.toolchains.model import Toolchain

_WEIGHTS = ("state-dict", "checkpoint")
_SAVE = "Save the model with torch.save(model, FILE) or torch.jit.save(traced, FILE)."


@dataclass(frozen=True)
class Source:
    """What a run is asked to start from: a file, and what builds the model if the file does not.

    `arch` is FILE.py, FILE.py:CALLABLE or MODULE:CALLABLE, `arch_args` its keyword arguments. With
    `embed_preprocessing` the converted model prepares images itself, as the .toml beside it says.
    """

    path: Path
    arch: str = ""
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    embed_preprocessing: bool = False

    @property
    def options(self) -> dict[str, str]:
        """The same in the form of stage options."""
        return {
            "arch": self.arch,
            "arch_args": json.dumps(self.arch_args) if self.arch_args else "",
        }


@dataclass(frozen=True)
class ModelFile:
    """An identified file that a run starts from; `sha256` and `bytes` describe its content."""

    path: Path
    format: Format
    sha256: str
    bytes: int

    @property
    def kind(self) -> str:
        """What it is, in the words of reports."""
        return KINDS[self.format].title


def summarize(path: Path) -> FileFacts:
    """Read what a file says of itself, and judge if a toolchain takes it. Raises `BadInput`."""
    found = read_file(path)
    judge(found)
    return found


def apply_arch(found: FileFacts, arch: str) -> None:
    """Drop the obstacles that `--arch` settles: it names the code, or what builds the model."""
    if not arch or found.format not in ("torch-module", *_WEIGHTS):
        return
    taken = found.toolchain
    taken.obstacles = [o for o in taken.obstacles if o.settled_by != "--arch"]
    taken.accepted = not taken.obstacles
    taken.command = f"runner convert --arch {shlex.quote(arch)} --model"


def identify_source(chain: Toolchain, path: Path, arch: str = "") -> ModelFile:
    """Identify a file as what a toolchain starts from. Raises `BadInput`, with a remedy."""
    if path.is_dir() and not (path / "saved_model.pb").is_file():
        what = STARTS[chain.accepts].title
        raise BadInput(f"{path} is a folder.", f"Name the file of {what}, such as model.pt.")
    found = read_file(path)
    judge(found, chain)
    _refuse_another_start(found, chain, path)
    apply_arch(found, arch)
    for obstacle in found.toolchain.obstacles:
        if obstacle.refused:
            raise BadInput(_format_obstacle(path, found, obstacle), obstacle.remedy)
    if found.format in _WEIGHTS and not arch.partition(":")[2]:
        form = (
            " in a zip checkpoint, the format of torch 1.6 and later,"
            if found.container == "zip"
            else ","
        )
        raise BadInput(
            f"{path} is a {KINDS[found.format].title}{form} weights without the model that they "
            "belong to.",
            "Name what builds the model: --arch FILE.py:CALLABLE or "
            "--arch torchvision.models:mobilenet_v2 (its arguments: --arch-args '{...}').",
        )
    assert found.sha256 is not None
    return ModelFile(path, found.format, found.sha256, found.bytes)


def _refuse_another_start(found: FileFacts, chain: Toolchain, path: Path) -> None:
    """Raise `BadInput` unless it is the kind of file that the toolchain starts from."""
    kind, wanted = KINDS[found.format], STARTS[chain.accepts]
    zipped = found.container == "zip"
    if kind.start == chain.accepts or (zipped and found.damaged and chain.accepts == "pytorch"):
        return
    if zipped and chain.accepts != "pytorch":
        raise BadInput(
            f"{path} is a PyTorch file or another archive, not {wanted.title}.",
            f"Convert a PyTorch model with {STARTS['pytorch'].option}.",
        )
    if kind.start:
        option = STARTS[kind.start].option
        raise BadInput(
            f"{path} is {add_article(kind.title)}, not {wanted.title}.",
            f"Convert it with {option}, or name {wanted.title}.",
        )
    if found.format == "tflite":
        raise BadInput(
            f"{path} is a TensorFlow Lite model already.", "There is nothing left to convert."
        )
    if zipped and found.format == "other":
        raise BadInput(f"{path} is a zip archive that PyTorch did not write.", _SAVE)
    unknown = next((o for o in found.problems if o.refused and not found.damaged), None)
    if unknown is not None:
        raise BadInput(_format_obstacle(path, found, unknown), unknown.remedy)
    remedies = [obstacle.remedy for obstacle in found.problems if not obstacle.refused]
    raise BadInput(
        f"{path} is {add_article(found.what)}, not {wanted.title}.",
        " ".join(filter(None, [found.remedy, *remedies, f"Or name {wanted.title}."])),
    )


def _format_obstacle(path: Path, found: FileFacts, obstacle: Obstacle) -> str:
    """Word an obstacle's reason as a sentence about the file."""
    subject, _, rest = obstacle.reason.partition(" ")
    if subject == "It":
        return f"{path} {rest}"
    if subject == "Its":
        return f"{path} is {add_article(KINDS[found.format].title)}, and its {rest}"
    return f"{path}: {obstacle.reason}"
