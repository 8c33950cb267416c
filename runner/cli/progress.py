"""A run on the terminal: set-up bars, a live table of the stages, the final table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runner.cli.summary import render_summary
from runner.conversion.observer import Observer
from runner.host.text import make_printable
from runner.schemas.report import Report, StageRecord
from runner.toolchains.model import Stage

View = TypeVar("View", bound="LiveView")


class LiveView:
    """The part of a terminal that changes while this is open, and that is gone in the end."""

    def __init__(self, console: Console) -> None:
        """Show nothing yet. A view calls this last: Live asks at once what is to be shown."""
        self.console = console
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
            auto_refresh=console.is_terminal,
        )

    def __enter__(self: View) -> View:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        """Return what is shown now."""
        raise NotImplementedError


class ConsoleView(LiveView, Observer):
    """An observer that shows a run live on a terminal, and as plain lines elsewhere."""

    def __init__(self, console: Console, verbose: bool = False) -> None:
        self._verbose = verbose
        self._setup: Progress | None = None
        self._rows: list[Row] = []
        super().__init__(console)

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def task(self, title: str) -> Callable[[str, float | None], None]:
        if self._setup is None:
            self._setup = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[text]}"),
                console=self.console,
            )
        setup = self._setup
        identity = setup.add_task(title, total=None, text="")
        plain = not self.console.is_terminal
        if plain:
            self.say(f"Setting up: {title}")

        def update(text: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            short = text.strip()[:60]
            setup.update(identity, total=total, completed=fraction or 0.0, text=escape(short))
            if plain and fraction == 1.0:
                self.say(f"Set up: {title} ({text})")

        return update

    def stage_started(self, stage: Stage) -> None:
        self._setup = None
        self._rows.append(Row(stage))
        if not self.console.is_terminal:
            self.say(f"{stage.name}: {stage.title} ...")

    def stage_progress(self, stage: Stage, data: str) -> None:
        try:
            self._rows[-1].progress(json.loads(data))
        except Exception:
            pass  # a stage may print anything; only the display suffers

    def stage_line(self, stage: Stage, line: str) -> None:
        if self._verbose:
            text = Text(f"{stage.name} | {make_printable(line)}", style="dim")
            self.console.print(text, highlight=False)

    def stage_finished(self, record: StageRecord) -> None:
        self._rows[-1].record = record
        if not self.console.is_terminal:
            self.say(f"{record.name}: {record.status} after {record.seconds:.1f} s")

    def finished(self, report: Report, folder: Path) -> None:
        from runner.cli.diagnosis import render_diagnosis

        self._live.stop()
        self.console.print(render_summary(report, folder))
        if report.diagnosis is not None:
            self.console.print(render_diagnosis(report.diagnosis))

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [self._setup] if self._setup is not None else []
        if self._rows:
            grid = Table.grid(padding=(0, 2))
            for row in self._rows:
                grid.add_row(*row.cells())
            parts.append(grid)
        return Group(*parts)


class Row:
    """A stage's row in the live view."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.record: StageRecord | None = None
        self._start = time.monotonic()
        self._spinner = Spinner("dots")
        self._phase = "starting"
        self._share = ""

    def progress(self, data: dict[str, Any]) -> None:
        self._phase = make_printable(str(data["phase"]))[:20]
        total = int(data["total"])
        self._share = f"{int(data['done'])} of {total} samples" if total else ""

    def cells(self) -> list[RenderableType]:
        if self.record is not None:
            mark = "[green]✓[/]" if self.record.status == "ok" else "[red]✗[/]"
            return [mark, self.stage.title, "", f"{self.record.seconds:.1f} s"]
        seconds = time.monotonic() - self._start
        return [
            self._spinner,
            self.stage.title,
            f"[dim]{escape(self._phase)} {self._share}[/]",
            f"{seconds:.0f} s",
        ]
