"""The page of a suite: models by toolchains as a matrix, and a comparison with a baseline.

One file. Without its script, which sorts and filters, it shows all the same; the page's policy lets
this script run, by its hash, and no other.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from runner.host.files import open_user_output
from runner.report.html import figures
from runner.report.html.render import make_environment, render
from runner.report.side_by_side.wording import format_seconds
from runner.report.wording import Mark
from runner.suite.compare import Change, SuiteComparison, compare_results
from runner.suite.plan import Cell
from runner.suite.results import Record, ResultSet, count_outcomes, find_median, make_link
from runner.suite.wording import OUTCOMES

PAGE = "index.html"
# Besides the sign and the colour, the shape behind it tells the tones apart.
_SHAPES = {"pass": "", "warn": "square", "fail": "square", "idle": "hollow"}
_SIGNS = {True: "↑", False: "↓"}
_METRICS = ("error", "size", "operators", "latency")


@dataclass(frozen=True)
class Shown:
    """A cell of the matrix: its mark, link and figures; `values` are those, to sort by."""

    column: str
    mark: Mark
    shape: str
    link: str
    said: str
    figures: Sequence[tuple[str, str]]
    values: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Row:
    """A model's row; `worst` has the largest of each figure, to sort by."""

    model: str
    outcomes: str
    worst: Sequence[tuple[str, float]]
    cells: Sequence[Shown]


@dataclass(frozen=True)
class Line:
    """A change, in words."""

    cell: str
    link: str
    mark: Mark
    before: str
    after: str
    why: str


@dataclass(frozen=True)
class Part:
    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Count:
    mark: Mark
    number: str
    share: str


@dataclass(frozen=True)
class Choice:
    name: str
    mark: Mark


def write_page(results: ResultSet, base: ResultSet | None = None) -> Path:
    """Write the page into the folder of the results, with a comparison if there is a baseline."""
    path = results.folder / PAGE
    comparison = compare_results(base, results) if base is not None else None
    write_html(results, path, comparison)
    return path


def write_html(
    results: ResultSet,
    path: Path,
    comparison: SuiteComparison | None = None,
    *,
    open_comparison: bool = False,
) -> None:
    """Write the page to a path, from where its links are relative."""
    with open_user_output(path) as target:
        target.write_text(
            render_page(results, path.absolute().parent, comparison, open_comparison),
            encoding="utf-8",
        )


def render_page(
    results: ResultSet,
    folder: Path,
    comparison: SuiteComparison | None = None,
    open_comparison: bool = False,
) -> str:
    """Render the page for a file in this folder."""
    counts = count_outcomes(results.records)
    known = [name for name in OUTCOMES if counts.get(name)]
    script = _read_script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    total = len(results.records)
    return render(
        "suite.html.j2",
        title=figures.clip(results.name, 80) or "A suite",
        tone="pass" if set(known) <= {"passed", "rounding"} else "warn",
        counts=[
            Count(OUTCOMES[n], figures.count(counts[n]), figures.percent(counts[n], total))
            for n in known
        ],
        choices=[Choice(name, OUTCOMES[name]) for name in known],
        columns=[_name_column(results, t, v) for t in results.toolchains for v in results.variants],
        rows=_make_rows(results, folder),
        caption=_make_caption(results),
        comparison=_describe(comparison, results, folder) if comparison else None,
        open_comparison=open_comparison,
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
    )


def _read_script() -> str:
    loader = make_environment().loader
    assert loader is not None
    return loader.get_source(make_environment(), "suite.js")[0]


def _name_column(results: ResultSet, toolchain: str, variant: str) -> str:
    name = f"{toolchain} {variant}" if len(results.variants) > 1 else toolchain
    return figures.clip(name, 40)


def _make_caption(results: ResultSet) -> str:
    said = "A cell opens its run's page, or the log of what failed. Errors are against PyTorch."
    if results.latency.files:
        where = f"{results.latency.runtime} on {results.latency.machine}"
        said += f" Latencies are on one thread, in {figures.clip(where, 100)}."
    return said


def _make_rows(results: ResultSet, folder: Path) -> list[Row]:
    prefix = _find_prefix(results, folder)
    width = len(results.toolchains) * len(results.variants)
    rows = []
    for number, model in enumerate(results.models):
        records = results.records[number * width : (number + 1) * width]
        cells = [_make_cell(results, record, prefix) for record in records]
        worst: dict[str, float] = {}
        for cell in cells:
            for name, value in cell.values:
                worst[name] = max(value, worst.get(name, value))
        outcomes = dict.fromkeys(record.outcome for record in records)
        rows.append(Row(figures.clip(model, 80), " ".join(outcomes), list(worst.items()), cells))
    return rows


def _make_cell(results: ResultSet, record: Record, prefix: str) -> Shown:
    mark = OUTCOMES[record.outcome]
    timing = results.find_latency(record)
    latency = find_median(timing.sessions) if timing else None
    values = dict(
        zip(_METRICS, (record.error, record.bytes, record.operators, latency), strict=True)
    )
    texts = {
        "error": figures.scientific(record.error) if record.error is not None else "",
        "size": figures.size(record.bytes) if record.bytes is not None else "",
        "operators": _format_operators(record),
        "latency": format_seconds(latency) if latency is not None else "",
    }
    return Shown(
        column=_name_column(results, record.toolchain, record.variant),
        mark=mark,
        shape=_SHAPES[mark.tone],
        link=_link(record, prefix),
        said=figures.clip(record.reason, 200),
        figures=[(name, text) for name, text in texts.items() if text],
        values=[(name, value) for name, value in values.items() if value is not None],
    )


def _format_operators(record: Record) -> str:
    if record.operators is None:
        return ""
    count = figures.count(record.operators)
    return f"{count} ({record.flex} Flex)" if record.flex else count


def _find_prefix(results: ResultSet, folder: Path) -> str:
    """Find the way from the page's folder to that of the results, as the start of a link."""
    way = os.path.relpath(results.folder, folder)
    return "" if way == "." else f"{quote(way)}/"


def _link(record: Record, prefix: str) -> str:
    path = make_link(record)
    return f"{prefix}{quote(path)}" if path else ""


def _describe(comparison: SuiteComparison, results: ResultSet, folder: Path) -> dict[str, Any]:
    prefix = _find_prefix(results, folder)
    links = {str(record.cell): _link(record, prefix) for _, record in comparison.pairs}

    def make_lines(changes: Sequence[Change]) -> list[Line]:
        return [
            Line(
                cell=figures.clip(str(change.cell), 120),
                link=links.get(str(change.cell), ""),
                mark=Mark("fail", "↑", change.what)
                if change.worse
                else Mark("pass", "↓", change.what),
                before=figures.clip(change.before, 60),
                after=figures.clip(change.after, 60),
                why=figures.clip(change.why, 200),
            )
            for change in changes
        ]

    def make_cells(cells: Sequence[Cell], mark: Mark) -> list[Line]:
        return [Line(figures.clip(str(cell), 120), "", mark, "", "", "") for cell in cells]

    parts = [
        Part("Worse", make_lines(comparison.worse)),
        Part("Better", make_lines(comparison.better)),
    ]
    if comparison.only_base:
        gone = make_cells(comparison.only_base, Mark("fail", "✕", "no result"))
        parts.insert(0, Part("Gone: only the baseline has them", gone))
    if comparison.only_new:
        parts.append(Part("New", make_cells(comparison.only_new, Mark("idle", "+", "new"))))
    return {
        "base": figures.clip(comparison.base, 60),
        "new": figures.clip(comparison.new, 60),
        "worse": comparison.worse,
        "better": comparison.better,
        "compared": figures.count(len(comparison.pairs)),
        "notes": [figures.clip(note, 300) for note in comparison.notes],
        "parts": parts,
    }
