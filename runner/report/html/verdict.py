"""The verdict: what happened in one sentence, and the figures beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from runner.report.html import figures
from runner.report.html.marks import find_final_check, list_failed_stages
from runner.report.table import count_flex_operators
from runner.report.wording import (
    OUTCOMES,
    Mark,
    explain_verdict,
    is_quantized_at_fault,
    name_reference,
    summarize_outcome,
)
from runner.schemas.report import CheckRecord, Report


@dataclass(frozen=True)
class Headline:
    """The verdict on the run: what a person reads first, and perhaps only."""

    mark: Mark
    title: str
    sentences: tuple[str, ...]


def make_headline(report: Report) -> Headline:
    outcome, model = OUTCOMES[report.outcome], figures.clip(report.model.name, 60)
    gate, other = report.gate, report.options.get("compared_with")
    mark = replace(outcome.mark, word=summarize_outcome(report).removesuffix("."))
    if other:
        return _make_comparison_headline(
            report, mark, f"{model} and {figures.clip(str(other), 60)}"
        )
    if report.outcome == "interrupted":
        at = next((s for s in report.stages if s.status == "interrupted"), None)
        where = f" during the stage {figures.clip(at.name)}" if at else ""
        title = f"The conversion of {model} was interrupted{where}."
        return Headline(mark, title, ("The logs and what was made until then are kept.",))
    done = "quantised" if "quantized_file" in report.options else "converted"
    if is_quantized_at_fault(report):
        what = "failed" if report.outcome == "failed" else "is below its gate"
        title = f"{model} was {done}, but a quantised model {what}."
        return Headline(mark, title, _make_sentences(report))
    if done == "quantised" and report.outcome == "passed":
        return Headline(mark, f"{model} was quantised, within the gate.", ())
    if report.outcome == "failed":
        failed = list_failed_stages(report)
        name = figures.clip(failed[0].name) if failed else "unknown"
        title = f"{model} was not converted: the stage {name} failed."
        return Headline(mark, title, ())  # the page says why right below
    if gate.verdict == "rounding":
        title = f"{model} was converted, at float32's rounding."
    elif report.outcome == "passed":
        title = f"{model} was converted, within tolerance."
    elif report.outcome == "vacuous":
        title = f"{model} was converted, but the check proves nothing."
    elif gate.verdict == "nonfinite":
        title = f"{model} was converted, but outputs are NaN or infinite."
    elif gate.verdict == "shape":
        title = f"{model} was converted, but an output has the wrong shape."
    else:
        title = f"{model} was converted, but is out of tolerance."
    return Headline(mark, title, _make_sentences(report))


def _make_comparison_headline(report: Report, mark: Mark, both: str) -> Headline:
    """Make the headline of a comparison of two models, in which nothing is converted."""
    title = {
        "passed": f"{both} agree, within tolerance.",
        "vacuous": f"{both} were compared, but that proves nothing.",
        "out-of-tolerance": f"{both} differ by more than the tolerance.",
        "failed": f"{both} could not be compared: a stage failed.",
        "interrupted": f"The comparison of {both} was interrupted.",
    }[report.outcome]
    ended = report.outcome not in ("failed", "interrupted")
    return Headline(mark, title, _make_sentences(report) if ended else ())


def _make_sentences(report: Report) -> tuple[str, ...]:
    """State the figure, and what it means."""
    check, gate, sentences = find_final_check(report), report.gate, []
    measured = gate.value is not None and gate.verdict not in ("nonfinite", "shape")
    if check is not None and measured:
        sentences.append(
            f"Over {figures.count(check.samples)} samples, its {figures.metric(gate.metric)} "
            f"against {figures.clip(report.reference)} is {figures.scientific(gate.value)}; "
            f"the tolerance is {figures.tolerance(gate.tolerance)}."
        )
    if told := explain_verdict(report):
        sentences.append(figures.clip(told, 400))
    elif report.outcome == "passed" and (rounding := _format_rounding(check)):
        sentences.append(
            f"That is {rounding} {figures.clip(report.reference)}'s own float32 rounding."
        )
    if told := name_reference(report):
        sentences.append(figures.clip(told, 300))
    return tuple(sentences)


def _format_rounding(check: CheckRecord | None) -> str:
    worst = max((o.times_noise_floor or 0.0 for o in check.outputs), default=0.0) if check else 0.0
    return figures.times(worst) if worst else ""


def _format_passing_tolerance(check: CheckRecord | None) -> str:
    passing = [o.passing_tolerance for o in check.outputs] if check else []
    known = [value for value in passing if value is not None]
    return figures.round_up(max(known)) if known and len(known) == len(passing) else ""


@dataclass(frozen=True)
class Fact:
    """A figure of the summary, with a note below it."""

    label: str
    value: str
    note: str = ""


def list_facts(report: Report) -> list[Fact]:
    """List the figures below the verdict: error, tolerance, rounding, size, operators, time.

    A run that made no model has none: there, what failed is what matters.
    """
    gate, found = report.gate, []
    if report.outcome in ("failed", "interrupted"):
        return []
    final = report.stages[-1].report if report.stages else None
    measured = gate.value is not None and gate.verdict not in ("nonfinite", "shape")
    if measured:
        found.append(Fact("Error", figures.scientific(gate.value), figures.metric(gate.metric)))
    check, note = find_final_check(report), ""
    if gate.verdict == "exceeded" and (enough := _format_passing_tolerance(check)):
        note = f"would pass at {enough}"
    elif gate.verdict == "passed" and gate.value and gate.value > 0:
        note = f"{figures.times(gate.tolerance / gate.value)} the error"
    found.append(Fact("Tolerance", figures.tolerance(gate.tolerance), note))
    floors = [o.noise_floor for o in check.outputs if o.noise_floor] if check else []
    if floors:
        name = figures.clip(report.reference, 30)
        found.append(Fact("Rounding", figures.scientific(max(floors)), f"of {name}'s own float32"))
    if final and final.artifact and report.stages[-1].status == "ok":
        size = figures.size(final.artifact.bytes)
        found.append(Fact("Size", size, f"from {figures.size(report.model.bytes)}"))
        total, flex = sum(final.operators.values()), count_flex_operators(final.operators)
        need = f"{figures.count(flex)} need Flex" if flex else "all built in"
        found.append(Fact("Operators", figures.count(total), need))
    setup = report.setup_seconds
    note = f"{figures.duration(setup)} of it set-up" if setup >= 1 else ""
    found.append(Fact("Time", figures.duration(report.seconds), note))
    return found
