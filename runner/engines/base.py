"""The interface between the pipeline and the engines that run its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.engines.limits import Limits
from runner.schemas.report import EnvironmentRecord
from runner.toolchains.model import Image, Stage

# A stage's report is small: a larger file in its place is not read.
MOST_READ = 64 << 20

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class StageExit:
    """How a stage's process ended; `reason` is set if the engine knows more than the status."""

    status: int
    reason: str = ""
    remedy: str = ""


def make_out_of_memory_exit(status: int, memory: int) -> StageExit:
    """Return the exit of a stage that the kernel killed for exceeding `memory` bytes."""
    return StageExit(
        status,
        f"The stage ran out of memory; it had {memory / 1e9:.1f} GB.",
        "Use a machine with more memory, smaller inputs, or fewer --samples; or allow more: "
        "--limit memory=16g.",
    )


class Progress(Protocol):
    """Shows the progress of set-up work, one task per environment."""

    def task(self, title: str) -> Callable[[str, float | None], None]:
        """Begin a task; the returned function takes a text and the fraction done (or None)."""


class Volume(Protocol):
    """The folder that the stages of one run share, and the limits on each stage."""

    limits: Limits

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        """Copy files into the volume, under names relative to it."""

    def run(self, stage: Stage, on_line: OnLine, following: Stage | None = None) -> StageExit:
        """Run a stage to completion, passing each line of its output to `on_line`.

        The one that is `following` may be started meanwhile, to do its imports: see
        `runner.engines.ahead`.
        """

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, or None if there is none."""

    def get(self, name: str, target: Path) -> None:
        """Copy an artifact out; the target appears whole or not at all."""


class Engine(Protocol):
    """Prepares environments and opens volumes."""

    name: str
    details: dict[str, str]

    def prepare(self, images: Sequence[Image], progress: Progress) -> None:
        """Build or install what is missing. Raises `EnvironmentUnavailable`."""

    def is_ready(self, image: Image) -> bool:
        """Tell whether an image could be prepared without building or installing anything."""

    def environment(self, image: Image) -> EnvironmentRecord:
        """Return the record of what was prepared for an image."""

    def volume(self, run: str, folder: Path) -> AbstractContextManager[Volume]:
        """Open a fresh volume for a run; `folder`, scratch space on the host, is removed later."""
