"""A suite on the terminal: what is done, what runs where, what failed, how long it will take."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.cli.console import Console
from runner.cli.progress import LiveView
from runner.host.text import make_printable
from runner.report.html import figures
from runner.report.wording import COLOURS
from runner.suite.results import Record, ResultSet, count_outcomes
from runner.suite.run import Watcher
from runner.suite.wording import OUTCOMES

_MOST_RUNNING = 16


class SuiteView(LiveView, Watcher):
    """A watcher that shows a suite live on a terminal, and as plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._total = 0
        self._done: Counter[str] = Counter()
        self._running: dict[str, tuple[str, str, float]] = {}
        self._seconds: list[float] = []
        super().__init__(console)

    def say(self, text: str) -> None:
        self.console.print(Text(make_printable(text)), soft_wrap=True)

    def planned(self, total: int, there: Sequence[Record]) -> None:
        self._total = total
        self._done.update(record.outcome for record in there)
        refused = sum(record.outcome == "refused" and not record.key for record in there)
        self.say(
            f"{total} conversions: {len(there) - refused} are there, {refused} refused, "
            f"{total - len(there)} to do."
        )

    def started(self, cell: str, worker: str) -> None:
        self._running[cell] = (worker, "", time.monotonic())

    def stage(self, cell: str, stage: str) -> None:
        if cell in self._running:
            worker, _, begin = self._running[cell]
            self._running[cell] = (worker, stage, begin)

    def finished(self, record: Record) -> None:
        self._running.pop(str(record.cell), None)
        self._done[record.outcome] += 1
        self._seconds.append(record.seconds)
        mark = OUTCOMES[record.outcome]
        line = Text(f"{mark.sign} ", COLOURS[mark.tone])
        line.append(make_printable(f"{record.cell}: {mark.word}"), "default")
        if record.reason and record.outcome != "passed":
            line.append(make_printable(f": {record.reason[:160]}"), "dim")
        line.append(f"  {record.seconds:.1f} s", "dim")
        self.console.print(line, soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2, 0, 0))
        for cell, (worker, stage, begin) in list(self._running.items())[:_MOST_RUNNING]:
            seconds = f"{time.monotonic() - begin:.0f} s"
            table.add_row(*(Text(make_printable(t)) for t in (cell, stage, worker, seconds)))
        more = len(self._running) - _MOST_RUNNING
        if more > 0:
            table.add_row(f"and {more} more")
        return Group(table, self._summarize())

    def _summarize(self) -> Text:
        line = Text(f"{self._done.total()} of {self._total} done")
        for outcome, mark in OUTCOMES.items():
            if count := self._done[outcome]:
                line.append(f"  {mark.sign} {count} {mark.word}", COLOURS[mark.tone])
        left = self._total - self._done.total()
        if self._seconds and left:
            lanes = max(len(self._running), 1)
            rest = left * sum(self._seconds) / len(self._seconds) / lanes
            line.append(f"  about {figures.duration(rest)} left", "dim")
        return line


class JsonView(Watcher):
    """A watcher that prints lines of JSON, for machines."""

    def __enter__(self) -> JsonView:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def _print(self, event: str, **more: Any) -> None:
        print(json.dumps({"event": event, **more}), flush=True)

    def say(self, text: str) -> None:
        self._print("say", text=text)

    def planned(self, total: int, there: Sequence[Record]) -> None:
        counts = count_outcomes(there)
        self._print("planned", total=total, there=len(there), outcomes=counts)

    def started(self, cell: str, worker: str) -> None:
        self._print("started", conversion=cell, worker=worker)

    def stage(self, cell: str, stage: str) -> None:
        self._print("stage", conversion=cell, stage=stage)

    def finished(self, record: Record) -> None:
        self._print("finished", record=record.model_dump())


def render_results(results: ResultSet) -> RenderableType:
    """Render the matrix of a suite for a terminal: a row for each model, a column a toolchain."""
    table = Table(title=make_printable(results.name), title_justify="left")
    table.add_column("model", overflow="fold")
    columns = [(t, v) for t in results.toolchains for v in results.variants]
    for toolchain, variant in columns:
        several = len(results.variants) > 1
        table.add_column(make_printable(f"{toolchain}\n{variant}" if several else toolchain))
    found = {(r.model, r.toolchain, r.variant): r for r in results.records}
    for model in results.models:
        cells = []
        for toolchain, variant in columns:
            mark = OUTCOMES[found[model, toolchain, variant].outcome]
            cells.append(Text(f"{mark.sign} {mark.short or mark.word}", COLOURS[mark.tone]))
        table.add_row(make_printable(model), *cells)
    return table
