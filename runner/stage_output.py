"""What a stage prints: into its log, and to the view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.engines.base import OnLine
from runner.toolchain import Stage
from runner.view import View

# How a stage marks progress among its output lines.
_PROGRESS = "@progress "


@contextmanager
def followed(stage: Stage, view: View, final: Path) -> Iterator[OnLine]:
    """Take a stage's lines: progress to the view, the rest to the view and a log.

    The log has a temporary name meanwhile; it gets its own however the stage ends: nothing is lost.
    """
    temporary = final.with_name(f".{final.name}.part")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as log:

            def on_line(line: str) -> None:
                if line.startswith(_PROGRESS):
                    view.stage_progress(stage, line[len(_PROGRESS) :])
                else:
                    log.write(line + "\n")
                    view.stage_line(stage, line)

            yield on_line
    finally:
        temporary.replace(final)
