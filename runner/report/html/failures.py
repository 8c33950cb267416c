"""What failed, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from runner.report.html import figures
from runner.report.html.marks import make_link
from runner.schemas.report import KnownFailure, Report, StageError

_BLAMES = {
    "input": "The model, its inputs or an option cannot be used as given.",
    "environment": "The environment of the stage, or this machine, is at fault.",
}


@dataclass(frozen=True)
class Failure:
    stage: str
    title: str
    where: str
    message: str
    remedy: str
    blame: str
    log: str
    last_lines: str
    traceback: str
    known: KnownFailure | None


def list_failures(report: Report) -> list[Failure]:
    found = []
    for record in (*report.stages, *report.quantized):
        # A known failure may also explain a check that did not pass.
        if record.status != "failed" and record.known is None:
            continue
        error = record.report.error if record.report else None
        trace = "".join(error.traceback[-20:]) if error else ""
        found.append(
            Failure(
                stage=figures.clip(record.name, 40),
                title=figures.clip(record.title, 60),
                where=_describe_place(error) if error else "",
                message=figures.excerpt(record.failure, 3000),
                remedy=figures.excerpt(record.remedy, 1500),
                blame=_BLAMES.get(record.blame, ""),
                log=make_link(record.log or ""),
                last_lines=figures.excerpt("\n".join(record.last_lines), 3000),
                traceback=figures.excerpt(trace),
                known=record.known,
            )
        )
    return found


def _describe_place(error: StageError) -> str:
    return f"{figures.clip(error.type, 60)}, in the phase '{figures.clip(error.phase, 40)}'"
