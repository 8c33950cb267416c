"""What a notebook's cell shows of a run: how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.host.files import format_bytes
from runner.report.html.render import render
from runner.report.wording import (
    OUTCOMES,
    STATUSES,
    VERDICTS,
    Mark,
    explain_gate,
    name_reference,
    summarize_outcome,
)
from runner.schemas.report import Report, StageRecord

_RUNNING = Mark("idle", "…", "running")


@dataclass(frozen=True)
class Step:
    """A stage of a run that goes on; `status` is that of its record, or 'running'."""

    title: str
    status: str
    seconds: float | None = None

    @property
    def mark(self) -> Mark:
        return STATUSES.get(self.status, _RUNNING)


def render_progress(lines: Sequence[str], steps: Sequence[Step]) -> str:
    """Render how far a run is: what it said last, and its stages."""
    return render("progress.html.j2", lines=lines[-5:], steps=steps)


def render_result(report: Report, page: str, link: str) -> str:
    """Render a report: the verdict, a row for each stage, what failed, and a link to its page."""
    return render(
        "result.html.j2",
        mark=OUTCOMES[report.outcome].mark,
        verdict=summarize_outcome(report),
        gate=explain_gate(report),
        reference=name_reference(report),
        rows=[_make_row(record) for record in (*report.stages, *report.quantized)],
        failed=[r for r in (*report.stages, *report.quantized) if r.status == "failed"],
        page=page,
        link=link,
    )


def _make_row(record: StageRecord) -> dict[str, object]:
    report = record.report
    check = report.check if report else None
    artifact = report.artifact if report else None
    errors = [output.mean_abs or 0.0 for output in check.outputs] if check else []
    ok = record.status == "ok"
    return {
        "stage": record.name,
        "artifact": artifact.path if artifact else "",
        "size": format_bytes(artifact.bytes) if artifact else "",
        "seconds": "cached" if record.cached else f"{record.seconds:.1f}",
        "error": f"{max(errors):.1e}" if errors else "",
        "mark": VERDICTS[check.verdict] if check and ok else STATUSES[record.status],
    }
