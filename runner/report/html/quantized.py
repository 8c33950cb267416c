"""The quantised models of a run, beside the float one."""

from __future__ import annotations

from dataclasses import dataclass

from runner.report.html import figures
from runner.report.html.marks import make_link
from runner.report.wording import (
    STATUSES,
    VERDICTS,
    Mark,
    compute_sqnr,
    find_agreement,
    read_least_sqnr,
)
from runner.schemas.report import CheckRecord, Report, StageRecord


@dataclass(frozen=True)
class QuantizedRow:
    """A quantised model; '' for a figure that it has not."""

    mode: str
    mark: Mark
    file: str
    size: str
    share: str
    ratio: str
    least: str
    cosine: str
    agreement: str
    error: str


def list_quantized(report: Report) -> list[QuantizedRow]:
    """List the quantised models, in the order in which they were asked for."""
    whole = report.artifacts[-1].bytes if report.artifacts else 0
    return [_make_row(record, whole) for record in report.quantized]


def _make_row(record: StageRecord, whole: int) -> QuantizedRow:
    own = record.report
    made = own.artifact if own and record.status == "ok" else None
    check = own.check if own and record.status == "ok" else None
    return QuantizedRow(
        mode=figures.clip(record.name, 40),
        mark=VERDICTS[check.verdict] if check else STATUSES[record.status],
        file=make_link(made.path) if made else "",
        size=figures.size(made.bytes) if made else "",
        share=f"{made.bytes / whole:.0%}" if made and whole else "",
        **_make_figures(check),
    )


def _make_figures(check: CheckRecord | None) -> dict[str, str]:
    if check is None or check.verdict in ("nonfinite", "shape"):
        return dict.fromkeys(("ratio", "least", "cosine", "agreement", "error"), "")
    ratio, agreement = compute_sqnr(check), find_agreement(check)
    cosines = [o.cosine_mean for o in check.outputs if o.cosine_mean is not None]
    errors = [o.mean_abs for o in check.outputs if o.mean_abs is not None]
    return {
        "ratio": "no error" if ratio is None else f"{ratio:.1f} dB",
        "least": f"{read_least_sqnr(check):.3g} dB",
        "cosine": f"{min(cosines):.5f}" if cosines else "",
        "agreement": f"{agreement:.1%}" if agreement is not None else "",
        "error": figures.scientific(max(errors)) if errors else "",
    }
