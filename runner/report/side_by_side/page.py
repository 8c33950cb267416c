"""The page of toolchains side by side: one file without a script, as every page of the runner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.report.html import figures
from runner.report.html.marks import make_link
from runner.report.html.render import PAGE as RUN_PAGE
from runner.report.html.render import render
from runner.report.html.verdict import Fact
from runner.report.side_by_side.wording import (
    CELLS,
    OUTCOMES,
    format_seconds,
    format_spread,
    format_threads,
)
from runner.report.wording import Mark
from runner.schemas.comparison import Cell, Comparison, ToolchainResult
from runner.schemas.latency import Latency

PAGE = "comparison.html"
_MOST_NOTES = 20


@dataclass(frozen=True)
class Time:
    """A latency in words, with its spread."""

    median: str
    spread: str = ""


@dataclass(frozen=True)
class Line:
    """A toolchain's row, in words; `times` are by the number of threads."""

    toolchain: str
    description: str
    link: str
    mark: Mark
    said: str
    error: str
    floor: str
    operators: str
    size: str
    seconds: str
    times: Sequence[tuple[str, Time]]


@dataclass(frozen=True)
class MatrixCell:
    runtime: str
    mark: Mark
    said: str


@dataclass(frozen=True)
class MatrixRow:
    toolchain: str
    cells: Sequence[MatrixCell]


@dataclass(frozen=True)
class LatencyRow:
    runtime: str
    toolchain: str
    times: Sequence[tuple[str, Time]]


def render_page(comparison: Comparison, folder: str = "") -> str:
    """Render the page; `folder` is the name of its folder, from which links are relative."""
    counts = sorted({t.threads for r in comparison.toolchains for t in r.latency})
    threads = [format_threads(count) for count in counts]
    matrix = _list_rows(comparison)
    latencies = _list_latencies(comparison, counts)
    taken = comparison.take is not None
    interesting = [
        ("warnings", "Beware", bool(comparison.warnings)),
        ("toolchains", "Toolchains", True),
        ("matrix", "Interpreters", bool(matrix)),
        ("latency", "Latency", bool(latencies)),
        ("notes", "Notes", bool(comparison.notes)),
    ]
    return render(
        "comparison.html.j2",
        model=figures.clip(comparison.model.name, 60),
        title=f"{figures.clip(comparison.model.name, 60)} through {_count(comparison)}",
        mark=Mark("pass", "✓", f"take {comparison.take}")
        if taken
        else Mark("warn", "!", "none to take"),
        lead=comparison.verdict,
        facts=_list_facts(comparison),
        sections=[(id_, name) for id_, name, shown in interesting if shown],
        warnings=[figures.clip(warning, 500) for warning in comparison.warnings],
        caption=_make_caption(comparison),
        threads=threads,
        lines=[_make_line(result, counts) for result in comparison.toolchains],
        matrix=matrix,
        runtimes=_name_runtimes(comparison),
        latencies=latencies,
        notes=[figures.clip(note, 500) for note in comparison.notes[:_MOST_NOTES]],
        started=figures.clip(comparison.started[:16].replace("T", " "), 40),
    )


def _count(comparison: Comparison) -> str:
    count = sum(result.outcome != "refused" for result in comparison.toolchains)
    return f"{count} toolchain{'' if count == 1 else 's'}"


def _make_caption(comparison: Comparison) -> str:
    said = (
        f"Errors are {figures.metric(comparison.metric)}s over {comparison.samples:,} samples; "
        "rounding is the reference's own float32 noise floor. A toolchain's name links to its run."
    )
    if comparison.timed_in:
        said += f" Latencies are in {figures.clip(comparison.timed_in, 60)}, all files in turns."
    return said


def _list_facts(comparison: Comparison) -> list[Fact]:
    passed = sum(result.outcome == "passed" for result in comparison.toolchains)
    found = [
        Fact("Within tolerance", str(passed), f"of {len(comparison.toolchains)}"),
        Fact(
            "Tolerance",
            figures.tolerance(comparison.tolerance),
            figures.metric(comparison.metric),
        ),
    ]
    if comparison.reference is not None:
        by = figures.clip(comparison.reference_by, 40)
        name = figures.clip(comparison.reference.toolchain, 40)
        found.append(Fact("One reference", name, f"made by {by}" if by else ""))
    found.append(Fact("Time", figures.duration(comparison.seconds), ""))
    return found


def _make_line(result: ToolchainResult, counts: Sequence[int]) -> Line:
    operators = figures.NONE if result.operators is None else figures.count(result.operators)
    said = result.why if result.why and result.outcome != "passed" else result.costs
    if result.remedy and result.outcome in ("refused", "failed"):
        said = f"{said} {result.remedy}"
    return Line(
        toolchain=figures.clip(result.toolchain, 40),
        description=figures.clip(result.description, 100),
        link=make_link(f"{result.folder}/{RUN_PAGE}") if result.folder else "",
        mark=OUTCOMES[result.outcome],
        said=figures.clip(said, 300),
        error=figures.scientific(result.error),
        floor=figures.scientific(result.noise_floor),
        operators=f"{operators} ({result.flex} Flex)" if result.flex else operators,
        size=figures.NONE if result.bytes is None else figures.size(result.bytes),
        seconds=figures.NONE if result.seconds is None else figures.duration(result.seconds),
        times=_list_times(result.latency, counts),
    )


def _list_times(latencies: Sequence[Latency], counts: Sequence[int]) -> list[tuple[str, Time]]:
    known = {latency.threads: latency for latency in latencies}
    return [
        (
            format_threads(count),
            Time(format_seconds(known[count].median), format_spread(known[count]))
            if count in known
            else Time(figures.NONE),
        )
        for count in counts
    ]


def _name_runtimes(comparison: Comparison) -> list[str]:
    names = {cell.image: f"{cell.runtime} ({cell.image})" for cell in comparison.matrix}
    return [figures.clip(name, 60) for name in names.values()]


def _list_rows(comparison: Comparison) -> list[MatrixRow]:
    rows: dict[str, list[MatrixCell]] = {}
    for cell in comparison.matrix:
        rows.setdefault(cell.toolchain, []).append(_make_cell(cell))
    return [MatrixRow(figures.clip(name, 40), cells) for name, cells in rows.items()]


def _make_cell(cell: Cell) -> MatrixCell:
    said = [figures.scientific(cell.error)] if cell.error is not None else []
    said += [figures.clip(cell.why, 160)] if cell.why else []
    said += ["own"] if cell.home else []
    return MatrixCell(
        figures.clip(f"{cell.runtime} ({cell.image})", 60), CELLS[cell.state], ", ".join(said)
    )


def _list_latencies(comparison: Comparison, counts: Sequence[int]) -> list[LatencyRow]:
    if comparison.benchmark is None:
        return []
    return [
        LatencyRow(
            figures.clip(f"{runtime.runtime} ({runtime.image})", 60),
            figures.clip(result.file, 40),
            _list_times(result.latency, counts),
        )
        for runtime in comparison.benchmark.runtimes
        for result in runtime.files
        if result.latency
    ]
