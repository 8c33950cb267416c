"""What all sections share: verdicts with a sign and a word, and links that lead nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from runner.schemas.report import CheckRecord, Report, StageRecord, Verdict

Tone = Literal["pass", "warn", "fail", "idle"]


@dataclass(frozen=True)
class Mark:
    """A verdict: its colour's name, a sign for those who see no colour, and a word."""

    tone: Tone
    sign: str
    word: str


VERDICTS: dict[Verdict, Mark] = {
    "passed": Mark("pass", "✓", "within tolerance"),
    "exceeded": Mark("warn", "!", "out of tolerance"),
    "vacuous": Mark("warn", "?", "proves nothing"),
    "nonfinite": Mark("fail", "✕", "NaN or infinity"),
    "shape": Mark("fail", "✕", "wrong shape"),
}
STATUSES = {
    "ok": Mark("pass", "✓", "done"),
    "failed": Mark("fail", "✕", "failed"),
    "skipped": Mark("idle", "–", "not run"),
    "interrupted": Mark("fail", "‖", "interrupted"),
}
OUTCOMES = {
    "passed": Mark("pass", "✓", "Converted, within tolerance"),
    "out-of-tolerance": Mark("warn", "!", "Converted, but out of tolerance"),
    "vacuous": Mark("warn", "?", "Converted, but the check proves nothing"),
    "failed": Mark("fail", "✕", "Not converted"),
    "interrupted": Mark("fail", "‖", "Interrupted"),
}


@dataclass(frozen=True)
class Pair:
    """A name and what it stands for, in words."""

    name: str
    value: str


def link(path: str) -> str:
    """A file of the run folder as a relative link; '' for what is none."""
    safe = path and path[0].isalnum() and all(c.isalnum() or c in "_./-" for c in path)
    return path if safe and path.isascii() and ".." not in path.split("/") else ""


def share(part: float, whole: float) -> float:
    """Per cent of a whole for a bar's length: from 0 to 100 whatever the figures are."""
    if not (math.isfinite(part) and math.isfinite(whole) and whole > 0):
        return 0.0
    return round(100 * min(1.0, max(0.0, part / whole)), 2)


def checks(report: Report) -> list[CheckRecord]:
    """The checks of the stages that got so far, in order."""
    return [r.report.check for r in report.stages if r.report and r.report.check]


def final_check(report: Report) -> CheckRecord | None:
    """The check of the final model, which the gate judges."""
    final = report.stages[-1].report if report.stages else None
    return final.check if final else None


def failed_stages(report: Report) -> list[StageRecord]:
    return [record for record in report.stages if record.status == "failed"]
