"""What failed, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from runner.page import figures
from runner.page.marks import link
from runner.report import Report, StageError, StageRecord

_BLAMES = {
    "input": "The model, its inputs or an option cannot be used as given.",
    "environment": "The environment of the stage, or this machine, is at fault.",
}


@dataclass(frozen=True)
class Known:
    """A failure that is in the catalogue of known ones."""

    cause: str
    remedy: str
    source: str


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
    known: Known | None


def failures(report: Report) -> list[Failure]:
    found = []
    for record in report.stages:
        # What is known may be about a check that did not pass, too.
        if record.status != "failed" and getattr(record, "known", None) is None:
            continue
        error = record.report.error if record.report else None
        trace = "".join(error.traceback[-20:]) if error else ""
        found.append(
            Failure(
                stage=figures.clip(record.name, 40),
                title=figures.clip(record.title, 60),
                where=_where(error) if error else "",
                message=figures.excerpt(record.failure, 3000),
                remedy=figures.excerpt(record.remedy, 1500),
                blame=_BLAMES.get(record.blame, ""),
                log=link(record.log or ""),
                last_lines=figures.excerpt("\n".join(getattr(record, "last_lines", [])), 3000),
                traceback=figures.excerpt(trace),
                known=known_failure(record),
            )
        )
    return found


def _where(error: StageError) -> str:
    return f"{figures.clip(error.type, 60)}, in the phase '{figures.clip(error.phase, 40)}'"


def known_failure(record: StageRecord) -> Known | None:
    """What the catalogue of known failures says of this one, if it is in there."""
    known = getattr(record, "known", None)
    if known is None:
        return None

    def text(name: str) -> str:
        return figures.excerpt(str(getattr(known, name, "") or ""), 1500)

    return Known(text("cause"), text("remedy"), text("source"))
