"""What a person sees of a run: set-up bars, a live table of the stages, the final table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runner.host.files import human_bytes, relative_to_here
from runner.schemas.report import KnownFailure, Report, StageRecord
from runner.toolchains.model import Stage

# Of a line of a log, when it is shown.
_LONGEST_LINE = 200
_OUTCOMES = {
    "passed": "[bold green]Converted, within tolerance.[/]",
    "out-of-tolerance": "[bold yellow]Converted, but out of tolerance.[/]",
    "vacuous": "[bold yellow]Converted, but the check proves nothing.[/]",
    "failed": "[bold red]Not converted: a stage failed.[/]",
    "interrupted": "[bold red]Interrupted.[/]",
}
_COMPARED = {
    "passed": "[bold green]The two agree within tolerance.[/]",
    "out-of-tolerance": "[bold yellow]The two differ by more than the tolerance.[/]",
    "vacuous": "[bold yellow]The comparison proves nothing.[/]",
    "failed": "[bold red]Not compared: a stage failed.[/]",
    "interrupted": "[bold red]Interrupted.[/]",
}
_VERDICTS = {
    "passed": "[green]passed[/]",
    "exceeded": "[yellow]exceeded[/]",
    "vacuous": "[yellow]vacuous[/]",
    "nonfinite": "[red]NaN or inf[/]",
    "shape": "[red]wrong shape[/]",
}


class SilentView:
    """Shows nothing: for `--quiet`, `--json` and Python callers. Also what every view can do."""

    def __enter__(self) -> SilentView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def say(self, text: str) -> None:
        """One line about the run as a whole."""

    def task(self, title: str) -> Callable[[str, float | None], None]:
        """Begin a set-up task; the returned function takes a text and a fraction done."""
        return lambda text, fraction: None

    def stage_started(self, stage: Stage) -> None:
        pass

    def stage_progress(self, stage: Stage, data: str) -> None:
        """`data` is the stage's own JSON: phase, done, total."""

    def stage_line(self, stage: Stage, line: str) -> None:
        """A line of the stage's output."""

    def stage_finished(self, record: StageRecord) -> None:
        pass

    def finished(self, report: Report, folder: Path) -> None:
        pass


View = SilentView


class ConsoleView(SilentView):
    """Shows a run on a terminal, live; elsewhere as plain lines."""

    def __init__(self, console: Console, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._setup: Progress | None = None
        self._rows: list[_Row] = []
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
            auto_refresh=console.is_terminal,
        )

    def __enter__(self) -> ConsoleView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def task(self, title: str) -> Callable[[str, float | None], None]:
        if self._setup is None:
            self._setup = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[text]}"),
                console=self._console,
            )
        setup = self._setup
        identity = setup.add_task(title, total=None, text="")
        plain = not self._console.is_terminal
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
        self._rows.append(_Row(stage))
        if not self._console.is_terminal:
            self.say(f"{stage.name}: {stage.title} ...")

    def stage_progress(self, stage: Stage, data: str) -> None:
        try:
            self._rows[-1].progress(json.loads(data))
        except Exception:
            pass  # a stage may print anything; only the display would suffer

    def stage_line(self, stage: Stage, line: str) -> None:
        if self._verbose:
            text = Text(f"{stage.name} | {printable(line)}", style="dim")
            self._console.print(text, highlight=False)

    def stage_finished(self, record: StageRecord) -> None:
        self._rows[-1].record = record
        if not self._console.is_terminal:
            self.say(f"{record.name}: {record.status} after {record.seconds:.1f} s")

    def finished(self, report: Report, folder: Path) -> None:
        # Late: it needs this module.
        from runner.cli.diagnosis import rendered

        self._live.stop()
        self._console.print(summary(report, folder))
        if report.diagnosis is not None:
            self._console.print(rendered(report.diagnosis))

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [self._setup] if self._setup is not None else []
        if self._rows:
            grid = Table.grid(padding=(0, 2))
            for row in self._rows:
                grid.add_row(*row.cells())
            parts.append(grid)
        return Group(*parts)


class _Row:
    """A stage in the live view."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.record: StageRecord | None = None
        self._start = time.monotonic()
        self._spinner = Spinner("dots")
        self._phase = "starting"
        self._share = ""

    def progress(self, data: dict[str, Any]) -> None:
        self._phase = printable(str(data["phase"]))[:20]
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


def summary(report: Report, folder: Path) -> RenderableType:
    """The table of a finished run, with what failed and what to do, and the verdict."""
    title = f"{report.model.name} ({report.model.kind})"
    other = report.options.get("compared_with")  # a comparison's, which converts nothing
    if other:
        title += f" and {other}"
    table = Table(
        title=Text(printable(title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in ("stage", "version", "artifact"):
        table.add_column(column, no_wrap=True)
    for column in ("size", "seconds", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for record in report.stages:
        table.add_row(*_cells(record))
    parts: list[RenderableType] = [table]
    parts += [Text(f"note: {printable(note)}", style="dim") for note in report.notes]
    parts += [
        Text(f"{record.name}: {stand_in}", style="dim")
        for record in report.stages
        if record.environment
        for stand_in in record.environment.stand_ins
    ]
    if fixes := sorted({f for r in report.stages if r.report for f in r.report.fixes}):
        parts.append(Text(printable(f"fixes applied: {', '.join(fixes)}"), style="dim"))
    parts += [_failure(record, folder) for record in report.stages if record.status == "failed"]
    parts += [
        Text(f"\n{record.name}:").append_text(known_failure(record.known))
        for record in report.stages
        if record.known and record.status != "failed"
    ]
    outcomes = _COMPARED if other else _OUTCOMES
    parts.append(Text.from_markup(outcomes[report.outcome]).append(f" {explain(report)}", ""))
    parts.append(Text(f"{relative_to_here(folder)}/report.html", style="dim"))
    ended = report.outcome in ("passed", "out-of-tolerance", "vacuous")
    if ended and report.artifacts and not other:
        parts.append(Text(f"{relative_to_here(folder)}/{report.artifacts[-1].path}", style="bold"))
    return Group(*parts)


def explain(report: Report) -> str:
    """One or two sentences on the gate: the figure, and what it means."""
    gate = report.gate
    if gate.verdict in (None, "nonfinite", "shape"):
        return meaning(report)
    value = "no value" if gate.value is None else f"{gate.value:.2g}"
    text = f"{gate.metric} = {value}, tolerance {gate.tolerance:g}."
    return f"{text} {meaning(report)}".rstrip()


def meaning(report: Report) -> str:
    """What the gate's verdict means, in a sentence or two; '' where the figure says it all."""
    gate = report.gate
    final = report.stages[-1].report if report.stages else None
    outputs = final.check.outputs if final and final.check else []
    if gate.verdict == "nonfinite":
        own = any(output.reference_nonfinite for output in outputs)
        return (
            f"{report.reference}'s own outputs hold NaN or infinity."
            if own
            else "Outputs hold NaN or infinity."
        )
    if gate.verdict == "shape":
        wrong = next((output for output in outputs if output.actual_shape is not None), None)
        if wrong is None:
            return "An output has another shape."
        there = f"{report.reference} gives {wrong.shape}"
        return f"'{printable(wrong.name)}' has shape {wrong.actual_shape}, where {there}."
    if gate.verdict == "vacuous" and any(o.verdict in ("passed", "exceeded") for o in outputs):
        return f"{report.reference}'s own outputs are random, or always the same."
    if gate.verdict == "vacuous":
        return (
            f"{report.reference}'s outputs hardly vary over the samples, so that a wrong "
            "model would pass as well: check the weights, BatchNorm's statistics and the inputs."
        )
    # A float64 run that differs grossly is no measure of rounding.
    floors = [
        o.times_noise_floor
        for o in outputs
        if o.times_noise_floor and o.noise_floor and o.noise_floor < 1e-3 * o.reference_std
    ]
    if gate.verdict != "exceeded" or not floors:
        return ""
    worst = max(floors)
    rounding = f"{report.reference}'s own float32 rounding"
    conclusion = (
        "that is float32 rounding; choose a --tolerance that fits the outputs' size."
        if worst < 5
        else "that is more than rounding."
    )
    shown = f"{worst:.1f}" if worst < 1000 else f"{worst:,.0f}"
    return f"The error is {shown} times {rounding}: {conclusion}"


def _cells(record: StageRecord) -> list[str]:
    report = record.report
    check = report.check if report else None
    artifact = report.artifact if report else None
    worst = max((o.mean_abs or 0.0 for o in check.outputs), default=0.0) if check else None
    verdict = _VERDICTS[check.verdict] if check else f"[dim]{record.status}[/]"
    return [
        record.name,
        # The stage's own tool comes first; the report has them all.
        escape(printable(" ".join(next(iter(report.versions.items()), ())))) if report else "",
        artifact.path if artifact else "",
        human_bytes(artifact.bytes) if artifact else "",
        "cached" if record.cached else f"{record.seconds:.1f}" if record.seconds else "",
        "" if worst is None else f"{worst:.1e}",
        "[red]failed[/]" if record.status == "failed" else verdict,
    ]


def _failure(record: StageRecord, folder: Path) -> RenderableType:
    text = Text(f"\n{record.name}: {printable(record.failure.strip())}", style="red")
    if record.remedy:
        text.append(f"\n→ {printable(record.remedy)}", style="default")
    if record.known:
        # The stage's own remedy, if it gave one, is for this model; the catalogue's for any.
        text.append_text(known_failure(record.known, remedy=not record.remedy))
    elif record.blame == "stage" and (record.last_lines or not record.remedy):
        lines = " The last lines of its log:" if record.last_lines else ""
        text.append(f"\n  Not a known failure.{lines}", style="default")
        for line in record.last_lines:
            text.append(f"\n    {printable(line)[:_LONGEST_LINE]}", style="dim")
    if record.log:
        place = relative_to_here(folder / record.log)
        text.append(f"\n  {place} holds the whole log.", style="dim")
    if record.blame in ("stage", "environment") and not (record.known and record.known.fix):
        text.append(
            f"\n  To report it: runner report bundle {relative_to_here(folder)} makes an archive "
            "for an issue, without the model's weights.",
            style="dim",
        )
    return text.append("\n")


def known_failure(known: KnownFailure, remedy: bool = True) -> Text:
    """The cause and the source; the remedy too, unless one is shown already."""
    text = Text()
    if remedy:
        text.append(f"\n→ {known.remedy}", style="default not bold")
    text.append(f"\n  Why: {known.cause}", style="default not bold")
    return text.append(f"\n  {known.source} (known failure: {known.id})", style="dim not bold")


def printable(text: str) -> str:
    """Text from a stage without what would steer the terminal (escape sequences and the like)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
