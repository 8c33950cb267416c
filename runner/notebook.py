"""A run in a Jupyter notebook: its progress in the cell, and its report as a table with a link."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import PrivateAttr

from runner.conversion.observer import Observer
from runner.report.html.notebook import Step, render_progress, render_result
from runner.report.html.render import PAGE
from runner.schemas.report import Report, StageRecord
from runner.toolchains.model import Stage


def is_notebook() -> bool:
    """Tell whether a notebook's kernel runs this process."""
    # Whoever runs in a kernel has imported IPython.
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return getattr(shell, "kernel", None) is not None


class ShownReport(Report):
    """A report that a notebook shows as a table, with a link to the page in the run's `folder`."""

    _folder: Path = PrivateAttr(Path())

    @property
    def folder(self) -> Path:
        return self._folder

    def _repr_html_(self) -> str:
        # A notebook's server gives out what is below the notebook's own folder.
        relative = os.path.relpath(self._folder)
        return render_result(self, f"{relative}/{PAGE}", quote(f"{relative}/{PAGE}"))


def make_shown(report: Report, folder: Path) -> ShownReport:
    """Make a report that a notebook shows, with the same content."""
    shown = ShownReport.model_construct(report.model_fields_set, **dict(report))
    shown._folder = folder
    return shown


class NotebookView(Observer):
    """An observer that shows in the cell's output how far the stages are."""

    def __init__(self) -> None:
        self._display: Any = None
        self._lines: list[str] = []
        self._steps: list[Step] = []
        self._begin = 0.0

    def say(self, text: str) -> None:
        self._lines.append(text)
        self._show()

    def task(self, title: str) -> Callable[[str, float | None], None]:
        self._lines.append(title)
        place = len(self._lines) - 1

        def update(text: str, fraction: float | None) -> None:
            said = f"{title}: {text.strip()[:60]}"
            if said != self._lines[place]:
                self._lines[place] = said
                self._show()

        self._show()
        return update

    def stage_started(self, stage: Stage) -> None:
        self._begin = time.monotonic()
        self._steps.append(Step(stage.title, "running"))
        self._show()

    def stage_finished(self, record: StageRecord) -> None:
        title = self._steps[-1].title
        self._steps[-1] = Step(title, record.status, time.monotonic() - self._begin)
        self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        shown = HTML(render_progress(self._lines, self._steps))
        if self._display is None:
            self._display = display(shown, display_id=True)
        else:
            self._display.update(shown)
