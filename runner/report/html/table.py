"""The page of many runs: counts of the outcomes, and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import BadInput
from runner.host.files import open_user_output
from runner.report.html import figures
from runner.report.html.render import render
from runner.report.table import Row
from runner.report.wording import OUTCOMES, Mark


@dataclass(frozen=True)
class Line:
    """A row of the table, in words."""

    run: str
    model: str
    mark: Mark
    error: str
    tolerance: str
    floor: str
    size: str
    operators: str
    seconds: str
    toolchain: str
    fixes: str
    reason: str


@dataclass(frozen=True)
class Count:
    mark: Mark
    number: str
    share: str


def write_table(rows: Sequence[Row], unreadable: Sequence[BadInput], path: Path) -> None:
    """Write the page of many runs. `unreadable` says which runs are not in it, and why."""
    with open_user_output(path) as target:
        target.write_text(render_table(rows, unreadable), encoding="utf-8")


def render_table(rows: Sequence[Row], unreadable: Sequence[BadInput] = ()) -> str:
    outcomes = Counter(row.outcome for row in rows)
    return render(
        "table.html.j2",
        counts=[
            Count(
                OUTCOMES[name].mark,
                figures.count(number),
                figures.percent(number, len(rows)),
            )
            for name in OUTCOMES
            if (number := outcomes[name])
        ],
        total=figures.count(len(rows)),
        one=len(rows) == 1,
        lines=[_make_line(row, OUTCOMES[row.outcome].mark) for row in rows],
        toolchain=figures.clip(rows[0].toolchain) if len({r.toolchain for r in rows}) == 1 else "",
        unreadable=[figures.clip(error.message, 300) for error in unreadable],
        tone="pass" if outcomes["passed"] == len(rows) and not unreadable else "warn",
    )


def _make_line(row: Row, mark: Mark) -> Line:
    operators = figures.NONE if row.operators is None else figures.count(row.operators)
    return Line(
        run=figures.clip(row.run, 80),
        model=figures.clip(row.model, 60),
        mark=mark,
        error=figures.scientific(row.error),
        tolerance=figures.tolerance(row.tolerance),
        floor=figures.scientific(row.noise_floor),
        size=figures.NONE if row.bytes is None else figures.size(row.bytes),
        operators=f"{operators} ({row.flex} Flex)" if row.flex else operators,
        seconds=figures.duration(row.seconds),
        toolchain=figures.clip(row.toolchain, 40),
        fixes=figures.clip(row.fixes, 60) or figures.NONE,
        reason=figures.clip(row.reason, 220),
    )
