"""What a stage prints: into its log, and to the view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.engines.base import OnLine
from runner.engines.output import stage_log
from runner.toolchains.model import Stage
from runner.view import View

# How a stage marks progress among its output lines.
_PROGRESS = "@progress "


@contextmanager
def followed(stage: Stage, view: View, final: Path, most: int) -> Iterator[OnLine]:
    """A stage's lines: progress to the view, the rest to the view and a log of `most` bytes."""
    with stage_log(final, most) as log:

        def on_line(line: str) -> None:
            if line.startswith(_PROGRESS):
                view.stage_progress(stage, line[len(_PROGRESS) :])
            else:
                log.write(line)
                view.stage_line(stage, line)

        yield on_line
