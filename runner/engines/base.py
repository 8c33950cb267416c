"""The seam between the pipeline and what runs a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.engines.limits import Limits
from runner.schemas.report import EnvironmentRecord
from runner.toolchains.model import Image, Stage

# A stage's report is small; a larger file in its place is not read.
MOST_READ = 64 << 20

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class StageExit:
    """How a stage's process ended. `reason` is set where the engine knows more than the status."""

    status: int
    reason: str = ""
    remedy: str = ""


def out_of_memory(status: int, memory: int) -> StageExit:
    """The kernel ended a stage that had so many bytes of memory."""
    return StageExit(
        status,
        f"The stage ran out of memory; it had {memory / 1e9:.1f} GB.",
        "Use a machine with more memory, smaller inputs, or fewer --samples; or allow more: "
        "--limit memory=16g.",
    )


class Progress(Protocol):
    """Shows set-up work: one task an environment."""

    def task(self, title: str) -> Callable[[str, float | None], None]:
        """Begin a task; the returned function takes a text and a fraction done (None: unknown)."""


class Volume(Protocol):
    """The folder that the stages of one run share, and what each of them may use."""

    limits: Limits

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        """Copy files in, under names relative to the volume."""

    def run(self, stage: Stage, on_line: OnLine) -> StageExit:
        """Run a stage to its end, handing on each line of its output."""

    def read(self, name: str) -> bytes | None:
        """A small file's content, or None if there is none."""

    def get(self, name: str, target: Path) -> None:
        """Copy an artifact out; the target appears whole or not at all."""


class Engine(Protocol):
    """Prepares environments and opens volumes."""

    name: str
    details: dict[str, str]

    def prepare(self, images: Sequence[Image], progress: Progress) -> None:
        """Build or install what is missing. Raises `EnvironmentUnavailable`."""

    def environment(self, image: Image) -> EnvironmentRecord:
        """What was prepared for an image, for the record."""

    def volume(self, run: str, folder: Path) -> AbstractContextManager[Volume]:
        """A fresh volume for a run. `folder` is scratch space on the host, removed afterwards."""
