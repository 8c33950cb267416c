"""The words for the outcome of a run, which terminal, page and table share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runner.host.text import make_printable
from runner.schemas.report import CheckRecord, Report, Verdict

Tone = Literal["pass", "warn", "fail", "idle"]
# The colour of a tone on a terminal.
COLOURS: Mapping[Tone, str] = {"pass": "green", "warn": "yellow", "fail": "red", "idle": "dim"}


@dataclass(frozen=True)
class Mark:
    """A verdict: its tone, a sign for those who see no colour, a word, and a shorter one."""

    tone: Tone
    sign: str
    word: str
    short: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: its mark, and a sentence for a conversion and one for a comparison."""

    mark: Mark
    converted: str
    compared: str


OUTCOMES: Mapping[str, Outcome] = {
    "passed": Outcome(
        Mark("pass", "✓", "passed"),
        "Converted, within tolerance.",
        "The two agree within tolerance.",
    ),
    "out-of-tolerance": Outcome(
        Mark("warn", "!", "out of tolerance"),
        "Converted, but out of tolerance.",
        "The two differ by more than the tolerance.",
    ),
    "vacuous": Outcome(
        Mark("warn", "?", "proves nothing"),
        "Converted, but the check proves nothing.",
        "The comparison proves nothing.",
    ),
    "failed": Outcome(
        Mark("fail", "✕", "failed"),
        "Not converted: a stage failed.",
        "Not compared: a stage failed.",
    ),
    "interrupted": Outcome(Mark("fail", "‖", "interrupted"), "Interrupted.", "Interrupted."),
}
VERDICTS: Mapping[Verdict, Mark] = {
    "passed": Mark("pass", "✓", "within tolerance", "passed"),
    "rounding": Mark("pass", "✓", "passed at rounding", "at rounding"),
    "exceeded": Mark("warn", "!", "out of tolerance", "exceeded"),
    "vacuous": Mark("warn", "?", "proves nothing", "vacuous"),
    "nonfinite": Mark("fail", "✕", "NaN or infinity", "NaN or inf"),
    "shape": Mark("fail", "✕", "wrong shape", "wrong shape"),
}
STATUSES: Mapping[str, Mark] = {
    "ok": Mark("pass", "✓", "done"),
    "failed": Mark("fail", "✕", "failed"),
    "skipped": Mark("idle", "–", "not run"),
    "interrupted": Mark("fail", "‖", "interrupted"),
}


def summarize_outcome(report: Report) -> str:
    """Say in one sentence how a conversion or comparison ended."""
    outcome = OUTCOMES[report.outcome]
    compared = "compared_with" in report.options
    if "quantized_file" in report.options and report.outcome == "passed":
        return "Quantised, within the gate."
    if is_quantized_at_fault(report):
        what = "failed" if report.outcome == "failed" else "is below its gate"
        done = "Quantised" if "quantized_file" in report.options else "Converted"
        return f"{done}, but a quantised model {what}."
    if report.gate.verdict == "rounding" and report.outcome == "passed":
        return "The two agree at rounding." if compared else "Converted, passed at rounding."
    return outcome.compared if compared else outcome.converted


def is_quantized_at_fault(report: Report) -> bool:
    """Tell whether the float model has passed, and a quantised one has not."""
    bad = report.outcome in ("failed", "out-of-tolerance")
    return bool(report.quantized) and bad and report.gate.verdict in ("passed", "rounding")


def compute_sqnr(check: CheckRecord) -> float | None:
    """Return the worst output's signal-to-quantisation-noise ratio in dB; None if it has none.

    Outputs without any error have none, and neither has one of zeros.
    """
    errors = [output.rms_rel for output in check.outputs if output.rms_rel]
    return _to_decibels(max(errors)) if errors else None


def find_agreement(check: CheckRecord) -> float | None:
    """Return the least share of samples with the reference's class, of all outputs of classes."""
    shares = [o.top1_agreement for o in check.outputs if o.top1_agreement is not None]
    return min(shares, default=None)


def find_accuracy(check: CheckRecord) -> tuple[float, float] | None:
    """Return the reference's accuracy and the model's own, by the user's labels, if there are any.

    Of several outputs of classes, those of the least accurate.
    """
    known = [
        (o.reference_accuracy, o.accuracy)
        for o in check.outputs
        if o.reference_accuracy is not None and o.accuracy is not None
    ]
    return min(known, key=lambda pair: pair[1], default=None)


def explain_accuracy(report: Report) -> str:
    """Say how often the reference and the float model find the true class; '' without labels."""
    final = report.stages[-1].report if report.stages else None
    known = find_accuracy(final.check) if final and final.check else None
    if known is None:
        return ""
    return f"Accuracy of {report.reference}: {known[0]:.2%}; of the float model: {known[1]:.2%}."


def read_least_sqnr(check: CheckRecord) -> float:
    """Return the least ratio that the check's gate asks for, in dB."""
    return _to_decibels(check.tolerance)


def _to_decibels(error: float) -> float:
    """Return the ratio of a relative error in dB; NaN for one that no honest stage reports."""
    return -20 * math.log10(error) if 0 < error < math.inf else math.nan


def name_reference(report: Report) -> str:
    """Say which run made the reference, where it is not the run's own; else return ''."""
    given = report.given_reference
    if given is None:
        return ""
    return f"Judged by {report.reference}'s outputs as the toolchain {given.toolchain} made them."


def explain_gate(report: Report) -> str:
    """Explain the gate in one or two sentences: the figure, and what it means."""
    gate = report.gate
    if "quantized_file" in report.options and report.outcome == "passed":
        return ""  # each model has a gate of its own
    if gate.verdict in (None, "nonfinite", "shape"):
        return explain_verdict(report)
    value = "no value" if gate.value is None else f"{gate.value:.2g}"
    text = f"{gate.metric} = {value}, tolerance {gate.tolerance:g}."
    return f"{text} {explain_verdict(report)}".rstrip()


def explain_verdict(report: Report) -> str:
    """Explain the gate's verdict in a sentence or two; '' if the figure says it all."""
    gate = report.gate
    final = report.stages[-1].report if report.stages else None
    outputs = final.check.outputs if final and final.check else []
    if gate.verdict == "nonfinite":
        own = any(output.reference_nonfinite for output in outputs)
        return (
            f"{report.reference}'s own outputs hold NaN or infinity."
            if own
            else "Outputs hold NaN or infinity."
        )
    if gate.verdict == "shape":
        wrong = next((output for output in outputs if output.actual_shape is not None), None)
        if wrong is None:
            sizes = final.check.sizes if final and final.check else []
            failed = next((at for at in sizes if at.failure), None)
            if failed is not None:
                return f"At a batch of {failed.size}: {make_printable(failed.failure)}."
            return "An output has another shape."
        there = f"{report.reference} gives {wrong.shape}"
        return f"'{make_printable(wrong.name)}' has shape {wrong.actual_shape}, where {there}."
    if gate.verdict == "vacuous" and any(o.verdict in ("passed", "exceeded") for o in outputs):
        return f"{report.reference}'s own outputs are random, or always the same."
    if gate.verdict == "vacuous":
        return (
            f"{report.reference}'s outputs hardly vary over the samples, so that a wrong "
            "model would pass as well: check the weights, BatchNorm's statistics and the inputs."
        )
    # If the float64 run differs grossly, it does not measure rounding.
    floors = [
        o.times_noise_floor
        for o in outputs
        if o.times_noise_floor and o.noise_floor and o.noise_floor < 1e-3 * o.reference_std
    ]
    if gate.verdict not in ("exceeded", "rounding") or not floors:
        return ""
    worst = max(floors)
    shown = f"{worst:.1f}" if worst < 1000 else f"{worst:,.0f}"
    said = f"The error is {shown} times {report.reference}'s own float32 rounding"
    return f"{said}."
