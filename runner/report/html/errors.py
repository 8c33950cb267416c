"""The errors: stage by stage on one scale, value by value as histograms, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass

from runner.report.html import figures
from runner.report.html.drawing.charts import (
    HistogramChart,
    LogScale,
    make_histogram_chart,
    make_histogram_scale,
    make_log_scale,
)
from runner.report.html.marks import compute_share, list_checks
from runner.report.wording import VERDICTS, Mark
from runner.schemas.report import CheckRecord, OutputRecord, Report

# Limits, so that no report makes a page of megabytes.
_MOST_ROWS, _MOST_CHARTS = 60, 12


@dataclass(frozen=True)
class ErrorRow:
    """The error of one output of one framework. `rounding` is the error in noise floors."""

    framework: str
    output: str
    shape: str
    remark: str
    mean: str
    p99: str
    largest: str
    rms: str
    rounding: str
    mark: Mark


@dataclass(frozen=True)
class Rung:
    """A framework in the chart of errors: its worst output by the metric, on the log scale."""

    framework: str
    value: str
    at: float | None
    p99: float | None
    largest: float | None
    mark: Mark


@dataclass(frozen=True)
class Ladder:
    """Errors stage by stage over one log scale, with the tolerance and the noise floor."""

    scale: LogScale
    rungs: tuple[Rung, ...]
    metric: str
    tolerance: float
    tolerance_text: str
    floor: float | None
    floor_text: str

    @property
    def description(self) -> str:
        parts = [
            f"{r.framework}: {r.value}" + (f", {r.mark.word}" if r.at is not None else "")
            for r in self.rungs
        ]
        floor = f" The noise floor is {self.floor_text}." if self.floor_text else ""
        return f"{'; '.join(parts)}. The tolerance is {self.tolerance_text}.{floor}"


def make_error_rows(report: Report) -> list[ErrorRow]:
    rows = []
    for check in list_checks(report):
        for output in check.outputs[:_MOST_ROWS]:
            compared = _was_compared(output)
            rows.append(
                ErrorRow(
                    framework=figures.clip(check.framework, 40),
                    output=figures.clip(output.name, 60),
                    shape=figures.shape(output.shape),
                    remark=_make_remark(output, report.reference),
                    mean=figures.scientific(output.mean_abs if compared else None),
                    p99=figures.scientific(output.p99_abs if compared else None),
                    largest=figures.scientific(output.max_abs if compared else None),
                    rms=figures.scientific(output.rms_abs if compared else None),
                    rounding=figures.multiple(output.times_noise_floor),
                    mark=VERDICTS[output.verdict],
                )
            )
    return rows[:_MOST_ROWS]


def _make_remark(output: OutputRecord, reference: str) -> str:
    """Say what the figures leave out, since they cover only what could be compared."""
    if output.actual_shape is not None:
        return f"has the shape {figures.shape(output.actual_shape)}"
    parts = [
        f"{figures.count(number)} of {figures.clip(whose, 40)}'s values"
        for number, whose in (
            (output.reference_nonfinite, reference),
            (output.nonfinite, "the model"),
        )
        if number
    ]
    return f"NaN or infinite: {', '.join(parts)}" if parts else ""


def _was_compared(output: OutputRecord) -> bool:
    """Tell whether any value of an output could be compared, as far as the report knows."""
    histogram = output.histogram
    return histogram is None or bool(histogram.zeros or sum(histogram.counts))


def _get_error(check: CheckRecord, output: OutputRecord, metric: str) -> float | None:
    """Return an output's error by the metric; None if NaN or a wrong shape make it meaningless."""
    if check.verdict in ("nonfinite", "shape"):
        return None
    value: float | None = getattr(output, metric, None)
    return value


def make_ladder(report: Report) -> Ladder | None:
    """Chart the errors; None if nothing was compared, or no comparison gave a figure."""
    metric, tolerance = report.gate.metric, report.gate.tolerance
    absolute = metric.endswith("_abs")
    floor = _find_noise_floor(report, metric) if absolute else None
    worst = [(check, _find_worst_output(check, metric)) for check in list_checks(report)]
    errors = [_get_error(check, output, metric) for check, output in worst]
    if all(error is None for error in errors):
        return None
    largest = [
        output.max_abs if absolute and error is not None else None
        for (_, output), error in zip(worst, errors, strict=True)
    ]
    scale = make_log_scale([tolerance, floor, *errors, *largest])

    def at(value: float | None) -> float | None:
        return None if value is None else scale.at(value)

    rungs = tuple(
        Rung(
            framework=figures.clip(check.framework, 28),
            value=VERDICTS[check.verdict].word if error is None else figures.scientific(error),
            at=at(error),
            p99=at(output.p99_abs) if most is not None else None,
            largest=at(most),
            mark=VERDICTS[check.verdict],
        )
        for (check, output), error, most in zip(worst, errors, largest, strict=True)
    )
    return Ladder(
        scale=scale,
        rungs=rungs,
        metric=figures.metric(metric),
        tolerance=scale.at(tolerance),
        tolerance_text=figures.tolerance(tolerance),
        floor=at(floor),
        floor_text="" if floor is None else figures.scientific(floor),
    )


def _find_worst_output(check: CheckRecord, metric: str) -> OutputRecord:
    return max(check.outputs, key=lambda output: getattr(output, metric, None) or 0.0)


def _find_noise_floor(report: Report, metric: str) -> float | None:
    """Find the noise floor by the gate's own metric: the largest of all outputs'."""
    for record in report.stages:
        if record.report and record.report.noise_floor:
            outputs = record.report.noise_floor.outputs or []
            return max((v for o in outputs if (v := getattr(o, metric, None))), default=None)
    return None


@dataclass(frozen=True)
class Spread:
    """The histogram of one output's error. `tolerance` is its place on the scale, in per cent."""

    framework: str
    output: str
    chart: HistogramChart
    description: str
    tolerance: float | None


def make_spreads(report: Report) -> list[Spread]:
    """Chart every output with a histogram; the last stages' if there are too many for a page."""
    pairs = [(check, o, o.histogram) for check in list_checks(report) for o in check.outputs]
    drawn = [(c, o, h) for c, o, h in pairs if h is not None and _was_compared(o)][-_MOST_CHARTS:]
    absolute = report.gate.metric.endswith("_abs")
    tolerance = report.gate.tolerance if absolute else None
    scale = make_histogram_scale([h for _, _, h in drawn], [tolerance])
    return [
        Spread(
            framework=figures.clip(check.framework, 40),
            output=figures.clip(output.name, 40),
            chart=(chart := make_histogram_chart(histogram, scale, tolerance)),
            description=_describe_spread(output, chart),
            tolerance=None if tolerance is None else scale.at(tolerance),
        )
        for check, output, histogram in drawn
    ]


def _describe_spread(output: OutputRecord, chart: HistogramChart) -> str:
    total = figures.count(chart.total)
    if chart.zeros == chart.total:
        return f"All {total} values are equal to the reference's."
    half = f"half are off by less than {figures.scientific(chart.median)}, " if chart.median else ""
    return (
        f"Of {total} values, {figures.percent(chart.zeros, chart.total)} are equal, {half}"
        f"99 % by less than {figures.scientific(output.p99_abs)}; "
        f"the largest error is {figures.scientific(output.max_abs)}."
    )


@dataclass(frozen=True)
class WorstRow:
    sample: str
    largest: str
    mean: str
    width: float


@dataclass(frozen=True)
class Worst:
    """The samples with the largest errors of one output; widths are in per cent of the worst."""

    framework: str
    output: str
    rows: tuple[WorstRow, ...]


def make_worst_tables(report: Report) -> list[Worst]:
    """Make a table for each output that has any error."""
    pairs = [(check, o) for check in list_checks(report) for o in check.outputs if o.worst_samples]
    return [
        Worst(
            figures.clip(check.framework, 40),
            figures.clip(output.name, 40),
            tuple(
                WorstRow(
                    figures.count(sample.sample),
                    figures.scientific(sample.max_abs),
                    figures.scientific(sample.mean_abs),
                    compute_share(sample.max_abs, max(s.max_abs for s in output.worst_samples)),
                )
                for sample in output.worst_samples
            ),
        )
        for check, output in pairs[-_MOST_CHARTS:]
    ]
