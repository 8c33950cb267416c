"""What all sections share: pairs, links that stay in the run folder, and the checks of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from runner.schemas.report import CheckRecord, Report, StageRecord


@dataclass(frozen=True)
class Pair:
    """A name and its value, in words."""

    name: str
    value: str


def make_link(path: str) -> str:
    """Return a relative link to a file of the run folder; '' for any other path."""
    safe = path and path[0].isalnum() and all(c.isalnum() or c in "_./-" for c in path)
    return path if safe and path.isascii() and ".." not in path.split("/") else ""


def compute_share(part: float, whole: float) -> float:
    """Return the per cent of a whole for a bar's length: 0 to 100, whatever the figures are."""
    if not (math.isfinite(part) and math.isfinite(whole) and whole > 0):
        return 0.0
    return round(100 * min(1.0, max(0.0, part / whole)), 2)


def list_checks(report: Report) -> list[CheckRecord]:
    """List the checks of the stages that got that far, in order."""
    return [r.report.check for r in report.stages if r.report and r.report.check]


def find_final_check(report: Report) -> CheckRecord | None:
    """Return the check of the final model, which the gate judges."""
    final = report.stages[-1].report if report.stages else None
    return final.check if final else None


def list_failed_stages(report: Report) -> list[StageRecord]:
    return [r for r in (*report.stages, *report.quantized) if r.status == "failed"]
