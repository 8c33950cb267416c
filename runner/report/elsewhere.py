"""Words for quantised models in other interpreters than their own."""

from __future__ import annotations

from collections.abc import Sequence

from runner.report.wording import compute_sqnr, find_agreement
from runner.schemas.report import CheckRecord, Elsewhere, ElsewhereRow, Report, StageRecord

# Twice the power of the error, which rounding that differs from kernel to kernel never costs.
_MOST_LOSS = 3.0
_MOST_OTHER_CLASS = 0.02


def format_figures(check: CheckRecord) -> str:
    """Format signal to noise, and the share of samples of the same class."""
    if check.verdict in ("nonfinite", "shape"):
        return "NaN or infinity" if check.verdict == "nonfinite" else "another shape"
    ratio, agreement = compute_sqnr(check), find_agreement(check)
    parts = ["no error" if ratio is None else f"{ratio:.1f} dB"]
    if agreement is not None:
        parts.append(f"{agreement:.1%} same class")
    return ", ".join(parts)


def is_wrong(row: ElsewhereRow, own: CheckRecord | None) -> bool:
    """Tell whether an interpreter computes a model worse than the one that judged it does."""
    if row.check is None or own is None:
        return False
    good = ("passed", "rounding")
    if row.check.verdict not in good and own.verdict in good:
        return True
    theirs, ours = compute_sqnr(row.check), compute_sqnr(own)
    if theirs is not None and (ours is None or theirs < ours - _MOST_LOSS):
        return True
    same, before = find_agreement(row.check), find_agreement(own)
    return same is not None and before is not None and same < before - _MOST_OTHER_CLASS


def list_warnings(found: Sequence[Elsewhere], records: Sequence[StageRecord]) -> list[str]:
    """Warn of interpreters that refuse a model, or that compute it wrongly."""
    own = {record.name: record.report.check for record in records if record.report}
    notes = []
    for place in found:
        if place.failure:
            notes.append(f"Nothing could be tried in {place.runtime}: {place.failure}")
        for row in place.files:
            check = own.get(row.mode)
            if row.failure:
                notes.append(f"{row.mode}: {place.runtime} does not run it: {row.failure}")
            elif row.check and check and is_wrong(row, check):
                notes.append(
                    f"Warning: {row.mode}: {place.runtime} computes it wrongly, without a "
                    f"complaint: {format_figures(row.check)}, where {check.framework} has "
                    f"{format_figures(check)}. Don't run it there."
                )
    return notes


def list_places(report: Report, mode: str) -> list[tuple[str, str, bool]]:
    """List the other interpreters that a mode was tried in: name, figures, and if it is fine."""
    own = {record.name: record.report.check for record in report.quantized if record.report}
    return [
        (
            place.runtime,
            "refused" if row.check is None else format_figures(row.check),
            row.check is not None and not is_wrong(row, own.get(mode)),
        )
        for place in report.elsewhere
        for row in place.files
        if row.mode == mode
    ]
