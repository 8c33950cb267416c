"""The interface by which a run can be watched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.schemas.report import Report, StageRecord
    from runner.toolchains.model import Stage


class Observer:
    """The base of all observers; itself silent, for `--quiet`, `--json` and Python callers."""

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def say(self, text: str) -> None:
        """Show one line about the run as a whole."""

    def task(self, title: str) -> Callable[[str, float | None], None]:
        """Begin a set-up task; return a function that takes a text and the fraction done."""
        return lambda text, fraction: None

    def stage_started(self, stage: Stage) -> None:
        pass

    def stage_progress(self, stage: Stage, data: str) -> None:
        """Show progress; `data` is the stage's own JSON: phase, done, total."""

    def stage_line(self, stage: Stage, line: str) -> None:
        """Show a line of the stage's output."""

    def stage_finished(self, record: StageRecord) -> None:
        pass

    def finished(self, report: Report, folder: Path) -> None:
        pass
