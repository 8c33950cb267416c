"""Many runs as one table: a row for each run, for the console, for CSV and for JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.host.files import format_bytes
from runner.host.text import make_printable
from runner.report.wording import COLOURS, OUTCOMES, explain_verdict
from runner.schemas.report import Report

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# What a spreadsheet would take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Row:
    """A run in a table; None if a run did not get that far. Errors are by the run's own metric."""

    run: str
    model: str
    outcome: str
    metric: str
    error: float | None
    tolerance: float
    noise_floor: float | None
    bytes: int | None
    operators: int | None
    flex: int | None
    seconds: float
    toolchain: str
    fixes: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_rows(reports: Iterable[tuple[Path, Report]]) -> list[Row]:
    """Make a row for each report, in order; `run` is the run folder's name."""
    return [_make_row(folder, report) for folder, report in reports]


def _make_row(folder: Path, report: Report) -> Row:
    last = report.stages[-1] if report.stages else None
    final = last.report if last and last.status == "ok" else None
    outputs = final.check.outputs if final and final.check else []
    gate = report.gate
    return Row(
        run=folder.resolve().name,
        model=report.model.name,
        outcome=report.outcome,
        metric=gate.metric,
        # With NaN or a wrong shape, the error means nothing.
        error=None if gate.verdict in ("nonfinite", "shape") else gate.value,
        tolerance=gate.tolerance,
        noise_floor=max((o.noise_floor for o in outputs if o.noise_floor), default=None),
        bytes=final.artifact.bytes if final and final.artifact else None,
        operators=sum(final.operators.values()) if final else None,
        flex=count_flex_operators(final.operators) if final else None,
        seconds=report.seconds,
        toolchain=report.toolchain,
        fixes=str(report.options.get("fixes", "all")),
        reason=_find_reason(report),
    )


def _find_reason(report: Report) -> str:
    """Say in one line why a run did not pass."""
    failed = next((r for r in report.stages if r.status in ("failed", "interrupted")), None)
    if failed is None:
        return explain_verdict(report)
    said = failed.failure.strip().partition("\n")[0] or failed.status
    return f"{failed.name}: {said}"


def count_flex_operators(operators: dict[str, int]) -> int:
    """Count the operators that need TensorFlow's own kernels."""
    return sum(count for name, count in operators.items() if name.startswith("Flex"))


def write_csv(table: Sequence[Row]) -> str:
    """Return CSV with a header; text that a spreadsheet would calculate is quoted."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    for row in table:
        writer.writerow(defuse(value) for value in row.as_dict().values())
    return written.getvalue()


def defuse(value: Any) -> Any:
    """Keep spreadsheets from running text: put an apostrophe before anything like a formula."""
    if not isinstance(value, str):
        return value
    text = make_printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text


def render_table(table: Sequence[Row], width: int) -> Table:
    """Return the table for a console of this width; a narrow one leaves some columns out.

    A column that says the same of every run becomes a caption.
    """
    # Imported late, here and below: a page counts with this module, and draws without rich.
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [_format_cells(row) for row in table]
    same = [
        column
        for column in _CAPTION_COLUMNS
        if len(table) > 1 and len({row[column].plain for row in cells}) == 1
    ]
    said = [f"{column} {cells[0][column].plain}" for column in same if cells[0][column].plain]
    shown = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=Text(f"all runs: {', '.join(said)}") if said else None,
        caption_justify="left",
    )
    left_out = (*same, *(_WIDE_COLUMNS if width < _WIDE else ()))
    columns = [column for column in cells[0] if column not in left_out]
    for column in columns:
        text = column in _TEXT_COLUMNS
        folds = text and column != "metric"
        shown.add_column(
            column,
            justify="left" if text else "right",
            overflow="fold",
            no_wrap=not folds,
            min_width=10 if column == "run" else None,
        )
    for row in cells:
        shown.add_row(*(row[column] for column in columns))
    return shown


_WIDE = 110
_WIDE_COLUMNS = ("model", "metric", "rounding", "toolchain")
_TEXT_COLUMNS = ("run", "model", "outcome", "metric", "toolchain", "fixes")
_CAPTION_COLUMNS = ("metric", "tolerance", "Flex", "toolchain", "fixes")


def _format_cells(row: Row) -> dict[str, Text]:
    from rich.text import Text

    def format_number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    texts = {
        "run": row.run,
        "model": row.model,
        "outcome": row.outcome.replace("-", " "),
        "metric": row.metric,
        "error": format_number(row.error, ".1e"),
        "tolerance": format_number(row.tolerance, "g"),
        "rounding": format_number(row.noise_floor, ".1e"),
        "size": "" if row.bytes is None else format_bytes(row.bytes),
        "operators": format_number(row.operators, ","),
        "Flex": format_number(row.flex, ",") if row.flex else "",
        "seconds": format_number(row.seconds, ".1f"),
        "toolchain": row.toolchain,
        "fixes": row.fixes,
    }
    styles = {"outcome": COLOURS[OUTCOMES[row.outcome].mark.tone]}
    return {name: Text(make_printable(text), styles.get(name, "")) for name, text in texts.items()}
