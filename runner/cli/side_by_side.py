"""Several runs on one terminal: whole lines with the toolchain's name, and the table at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.cli.console import Console
from runner.cli.progress import LiveView, Row
from runner.cli.summary import explain_failure
from runner.conversion.observer import Observer
from runner.host.files import format_bytes, format_relative_path
from runner.host.text import make_printable
from runner.report.side_by_side.wording import (
    CELLS,
    OUTCOMES,
    format_seconds,
    format_spread,
    format_threads,
)
from runner.report.wording import COLOURS, explain_gate, summarize_outcome
from runner.schemas.comparison import Cell, Comparison, ToolchainResult
from runner.schemas.report import Report, StageRecord
from runner.toolchains.model import Stage

# Columns of a console from which on everything fits.
_WIDE = 100
# Of the matrix: a toolchain's name, and an error with its mark.
_NAME_WIDTH, _CELL_WIDTH = 14, 10


class SideBySideView(LiveView):
    """What is shown while several toolchains run; `observe` makes what watches one of them.

    On a terminal each has its last stage in a table that changes; elsewhere there are only lines.
    """

    def __init__(self, console: Console, verbose: bool = False) -> None:
        self.verbose = verbose
        self.rows: dict[str, Row] = {}
        super().__init__(console)

    def observe(self, name: str = "") -> Observer:
        return _RunView(self, f"{name}: " if name else "")

    def _render(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        for row in list(self.rows.values()):
            grid.add_row(*row.cells())
        return grid


class _RunView(Observer):
    def __init__(self, shared: SideBySideView, prefix: str) -> None:
        self._shared, self._prefix = shared, prefix

    def say(self, text: str) -> None:
        line = Text(make_printable(f"{self._prefix}{text}"))
        self._shared.console.print(line, highlight=False, soft_wrap=True)

    def task(self, title: str) -> Callable[[str, float | None], None]:
        self.say(f"Setting up: {title}")

        def update(text: str, fraction: float | None) -> None:
            if fraction == 1.0:
                self.say(f"Set up: {title} ({text})")

        return update

    def stage_started(self, stage: Stage) -> None:
        titled = replace(stage, title=f"{self._prefix}{stage.title}")
        self._shared.rows[self._prefix] = Row(titled)
        if not self._shared.console.is_terminal:
            self.say(f"{stage.name}: {stage.title} ...")

    def stage_progress(self, stage: Stage, data: str) -> None:
        try:
            self._shared.rows[self._prefix].progress(json.loads(data))
        except Exception:
            pass  # a stage may print anything; only the display suffers

    def stage_line(self, stage: Stage, line: str) -> None:
        if self._shared.verbose:
            self.say(f"{stage.name} | {line}")

    def stage_finished(self, record: StageRecord) -> None:
        self._shared.rows.pop(self._prefix, None)
        self.say(f"{record.name}: {record.status} after {record.seconds:.1f} s")

    def finished(self, report: Report, folder: Path) -> None:
        self.say(f"{summarize_outcome(report)} {explain_gate(report)}".strip())
        for record in report.stages:
            if record.status == "failed":
                self._shared.console.print(explain_failure(record, folder))


def render_comparison(comparison: Comparison, folder: Path, width: int) -> RenderableType:
    """Render the table of all toolchains, what each costs, the matrix, and what to beware of.

    A console of little `width` gets neither sizes nor quartiles.
    """
    parts: list[RenderableType] = [_render_toolchains(comparison, wide=width >= _WIDE)]
    for result in comparison.toolchains:
        parts.append(_describe(result))
    if comparison.matrix:
        parts += [Text(), _render_matrix(comparison, width)]
    parts += [Text(make_printable(f"beware: {w}"), "yellow") for w in comparison.warnings]
    parts += [Text(make_printable(f"note: {note}"), "dim") for note in comparison.notes]
    if comparison.reference is not None:
        by = f" ({comparison.reference_by})" if comparison.reference_by else ""
        told = f"One reference for all: {comparison.reference.toolchain}'s{by}."
        parts.append(Text(make_printable(told), "dim"))
    colour = COLOURS["pass" if comparison.take else "warn"]
    parts.append(Text(make_printable(comparison.verdict), f"bold {colour}"))
    parts.append(Text(f"{format_relative_path(folder)}/comparison.html", "dim"))
    return Group(*parts)


def _render_toolchains(comparison: Comparison, wide: bool) -> Table:
    counts = sorted({t.threads for r in comparison.toolchains for t in r.latency})
    table = Table(
        title=Text(make_printable(f"{comparison.model.name} ({comparison.model.kind})")),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("toolchain", no_wrap=True)
    table.add_column("outcome")
    sizes = ("size",) if wide else ()
    for column in ("error", "operators", *sizes, "seconds", *map(format_threads, counts)):
        table.add_column(column, justify="right", no_wrap=True)
    for result in comparison.toolchains:
        mark = OUTCOMES[result.outcome]
        name = Text(make_printable(result.toolchain))
        if result.toolchain == comparison.take:
            name.stylize("bold")
        known = {latency.threads: latency for latency in result.latency}
        flex = f" ({result.flex} Flex)" if result.flex else ""
        table.add_row(
            name,
            Text(mark.word, COLOURS[mark.tone]),
            "" if result.error is None else f"{result.error:.1e}",
            "" if result.operators is None else f"{result.operators:,}{flex}",
            *(["" if result.bytes is None else format_bytes(result.bytes)] if wide else []),
            "" if result.seconds is None else f"{result.seconds:.1f}",
            *(
                Text(format_seconds(known[count].median)).append(
                    f"\n{format_spread(known[count])}" if wide else "", "dim"
                )
                if count in known
                else Text()
                for count in counts
            ),
        )
    return table


def _describe(result: ToolchainResult) -> Text:
    """Describe what a toolchain costs, or why it has no result and what to do."""
    line = Text(make_printable(f"{result.toolchain}: "), "bold")
    line.append(make_printable(result.costs), "not bold")
    if result.why and result.outcome != "passed":
        line.append(make_printable(f": {result.why.rstrip('.')}."), "not bold")
    if result.remedy and result.outcome in ("refused", "failed"):
        line.append(make_printable(f"\n→ {result.remedy}"), "not bold")
    return line


def _render_matrix(comparison: Comparison, width: int) -> RenderableType:
    """Render the matrix; where its columns do not fit, they have numbers, and a list below."""
    table = Table(
        title="error by interpreter (* the toolchain's own)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("file of", no_wrap=True)
    images = {cell.image: cell.runtime for cell in comparison.matrix}
    heads = [max(len(image), len(runtime)) + 2 for image, runtime in images.items()]
    fits = sum(heads) + _NAME_WIDTH <= width
    legend = Text(style="dim")
    for number, (image, runtime) in enumerate(images.items(), 1):
        table.add_column(Text(make_printable(f"{runtime}\n{image}") if fits else f"{number}"))
        legend.append(make_printable(f"{number}: {runtime} ({image})\n"))
    brief = len(images) * _CELL_WIDTH + _NAME_WIDTH > width
    known = {(cell.toolchain, cell.image): cell for cell in comparison.matrix}
    for name in dict.fromkeys(cell.toolchain for cell in comparison.matrix):
        cells = [_format_cell(known[name, image], brief) for image in images]
        table.add_row(Text(make_printable(name)), *cells)
    return table if fits else Group(table, legend)


def _format_cell(cell: Cell, brief: bool) -> Text:
    mark = CELLS[cell.state]
    error = "" if cell.error is None else f"{cell.error:.1e}"
    said = mark.word if brief or cell.error is None or cell.state == "wrong" else ""
    shown = " ".join(filter(None, (said, "" if brief else error)))
    return Text(shown + ("*" if cell.home else ""), COLOURS[mark.tone])
