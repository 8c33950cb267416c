"""The quantised models of a run, beside the float one."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from runner.report.elsewhere import list_places
from runner.report.html import figures
from runner.report.html.drawing.charts import Curve, RatioScale, make_curve, make_ratio_scale
from runner.report.html.drawing.neighbourhood import Drawings, list_named_layers
from runner.report.html.marks import make_link
from runner.report.html.pictures import make_image_source
from runner.report.quantized import is_below_gate, name_layer, summarize
from runner.report.wording import (
    STATUSES,
    VERDICTS,
    Mark,
    compute_sqnr,
    find_accuracy,
    find_agreement,
    read_least_sqnr,
)
from runner.schemas.diagnosis import QuantizedTrace
from runner.schemas.report import CheckRecord, LatencyBeside, Report, StageRecord

_MOST_LAYERS = 40
# From so many dB on there is nothing but float32's rounding.
_NO_NOISE = 150.0
# A label's letters beside a mark in a chart.
_LABEL = 24
# Limits, so that no report makes a page of megabytes, and a picture's larger side in pixels.
_MOST_PAIRS = 24
_SIDE = 96


@dataclass(frozen=True)
class ConfusionRow:
    """Samples of the reference's class for which the model finds another."""

    reference: str
    actual: str
    count: str
    sample: str


@dataclass(frozen=True)
class PictureCard:
    """A sample that the model gets wrong: the image's address, and what is wrong about it."""

    source: str
    width: int
    height: int
    caption: str


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
    accuracy: str
    error: str
    confusion: tuple[ConfusionRow, ...] = ()
    pictures: tuple[PictureCard, ...] = ()
    # Other interpreters that it was tried in: name, figures, and whether all is well.
    elsewhere: tuple[tuple[str, str, bool], ...] = ()


def list_quantized(report: Report) -> list[QuantizedRow]:
    """List the quantised models, in the order in which they were asked for."""
    whole = report.artifacts[-1].bytes if report.artifacts else 0
    return [_make_row(report, record, whole) for record in report.quantized]


def _make_row(report: Report, record: StageRecord, whole: int) -> QuantizedRow:
    own = record.report
    made = own.artifact if own and record.status == "ok" else None
    check = own.check if own and record.status == "ok" else None
    return QuantizedRow(
        mode=figures.clip(record.name, 40),
        mark=VERDICTS[check.verdict] if check else STATUSES[record.status],
        file=make_link(made.path) if made else "",
        size=figures.size(made.bytes) if made else "",
        share=f"{made.bytes / whole:.0%}" if made and whole else "",
        elsewhere=tuple(list_places(report, record.name)),
        **_make_figures(check),
        confusion=_list_confusion(check),
        pictures=_list_pictures(check),
    )


def _list_confusion(check: CheckRecord | None) -> tuple[ConfusionRow, ...]:
    pairs = [pair for output in (check.outputs if check else ()) for pair in output.confusion]
    return tuple(
        ConfusionRow(*map(figures.count, (pair.reference, pair.actual, pair.count, pair.sample)))
        for pair in pairs[:_MOST_PAIRS]
    )


def _list_pictures(check: CheckRecord | None) -> tuple[PictureCard, ...]:
    if check is None:
        return ()
    errors = {w.sample: w.max_abs for output in check.outputs for w in output.worst_samples}
    pairs = {pair.sample: pair for output in check.outputs for pair in output.confusion}
    cards = []
    for picture in check.pictures:
        pair, error = pairs.get(picture.sample), errors.get(picture.sample)
        parts = [f"Sample {figures.count(picture.sample)}"]
        if pair is not None:
            parts.append(f"class {pair.actual} in place of {pair.reference}")
        if error is not None:
            parts.append(f"largest error {figures.scientific(error)}")
        factor = max(1, _SIDE // max(picture.width, picture.height))
        source = make_image_source(picture)
        size = (factor * picture.width, factor * picture.height)
        cards.append(PictureCard(source, *size, f"{parts[0]}: {', '.join(parts[1:])}"))
    return tuple(cards)


def _make_figures(check: CheckRecord | None) -> dict[str, str]:
    if check is None or check.verdict in ("nonfinite", "shape"):
        keys = ("ratio", "least", "cosine", "agreement", "accuracy", "error")
        return dict.fromkeys(keys, "")
    ratio, agreement, known = compute_sqnr(check), find_agreement(check), find_accuracy(check)
    cosines = [o.cosine_mean for o in check.outputs if o.cosine_mean is not None]
    errors = [o.mean_abs for o in check.outputs if o.mean_abs is not None]
    return {
        "ratio": "no error" if ratio is None else f"{ratio:.1f} dB",
        "least": f"{read_least_sqnr(check):.3g} dB",
        "cosine": f"{min(cosines):.5f}" if cosines else "",
        "agreement": f"{agreement:.1%}" if agreement is not None else "",
        "accuracy": f"{known[1]:.2%}" if known else "",
        "error": figures.scientific(max(errors)) if errors else "",
    }


@dataclass(frozen=True)
class LatencyRow:
    """A quantised model's latency beside the float one's, with the quartiles, and their ratio."""

    mode: str
    runtime: str
    whole: str
    whole_range: str
    own: str
    own_range: str
    ratio: str


def list_latencies(report: Report) -> list[LatencyRow]:
    """List where each mode was timed beside the float model: in its own interpreter, and others."""
    rows = []
    for record in report.quantized:
        own = record.report if record.status == "ok" else None
        tried = [row for place in report.elsewhere for row in place.files]
        found = [own.latency if own else None]
        found += [row.latency for row in tried if row.mode == record.name]
        rows += [_make_latency_row(record.name, pair) for pair in found if pair is not None]
    return rows


def _make_latency_row(mode: str, pair: LatencyBeside) -> LatencyRow:
    whole, own = pair.float_model, pair.quantized
    return LatencyRow(
        mode=figures.clip(mode, 40),
        runtime=figures.clip(pair.runtime, 60),
        whole=figures.latency(whole.median),
        whole_range=f"{figures.latency(whole.low)} to {figures.latency(whole.high)}",
        own=figures.latency(own.median),
        own_range=f"{figures.latency(own.low)} to {figures.latency(own.high)}",
        ratio=figures.ratio(own.median, whole.median),
    )


@dataclass(frozen=True)
class RatioChart:
    """Signal to noise over depth: of plain runs, and of each layer's own noise."""

    scale: RatioScale
    plain: Curve
    own: Curve
    label: str
    description: str


def _make_chart(trace: QuantizedTrace) -> RatioChart:
    """Chart a trace, with a mark at the layer that its summary names; what has no noise is on top.

    The trace has a point at least.
    """
    points = trace.points
    known = [v for p in points for v in (p.sqnr, p.own_sqnr) if v < _NO_NOISE]
    scale = make_ratio_scale(known)
    tensors = [point.tensor for point in points]
    named = [tensors.index(t) for t in list_named_layers(trace)[:1] if t in tensors]
    at = named[0] if named else None
    label = "" if at is None else figures.clip(name_layer(points[at]), 120)
    first, last = (_format_ratio(point.sqnr) for point in (points[0], points[-1]))
    own = min(points, key=lambda point: point.own_sqnr)
    return RatioChart(
        scale=scale,
        plain=make_curve([point.sqnr for point in points], scale, at, operator.neg),
        own=make_curve([point.own_sqnr for point in points], scale, None, operator.neg),
        label=label if len(label) <= _LABEL else "…" + label[1 - _LABEL :],
        description=(
            f"As the model runs, from {first} at the first of {figures.count(len(points))} tensors "
            f"to {last} at the last. Of its own, the least has {_format_ratio(own.own_sqnr)}, at "
            f"{figures.clip(name_layer(own), 120)}."
        ),
    )


@dataclass(frozen=True)
class LayerRow:
    """A layer of a traced model: its signal to noise in dB, and what is wrong with it."""

    layer: str
    operators: str
    plain: str
    own: str
    output: str
    outside: str
    why: str
    # The drawing of what is around it in the graph, if there is one.
    anchor: str


@dataclass(frozen=True)
class LayerTable:
    """The layers of a quantised model in order of depth; `left_out` are of no note."""

    mode: str
    summary: str
    chart: RatioChart
    rows: list[LayerRow]
    left_out: int
    # The layers that the summary names, with their drawings.
    named: tuple[tuple[str, str], ...]


def list_layer_tables(report: Report, drawings: Drawings) -> list[LayerTable]:
    """List the tables of the quantised models that the run's diagnosis has traced."""
    traces = report.diagnosis.quantized if report.diagnosis else []
    below = {record.name for record in report.quantized if is_below_gate(record)}
    return [_make_table(trace, trace.mode in below, drawings) for trace in traces if trace.points]


def _make_table(trace: QuantizedTrace, below: bool, drawings: Drawings) -> LayerTable:
    faults = {fault.tensor: fault for fault in trace.faults}
    order = sorted(trace.points, key=lambda point: (point.tensor not in faults, point.output_sqnr))
    chosen = {id(point) for point in order[:_MOST_LAYERS]}
    rows = [
        LayerRow(
            layer=figures.clip(name_layer(point), 80),
            operators=figures.clip(" + ".join(point.operators), 80),
            plain=_format_ratio(point.sqnr),
            own=_format_ratio(point.own_sqnr),
            output=_format_ratio(point.output_sqnr),
            outside=f"{point.outside:.1%}" if point.levels else "",
            why=figures.clip(faults[point.tensor].reason, 500) if point.tensor in faults else "",
            anchor=drawings.find(trace.mode, point.tensor),
        )
        for point in trace.points
        if id(point) in chosen
    ]
    summary = figures.clip(summarize(trace, below), 900)
    named = tuple(
        (figures.clip(name_layer(point), 80), anchor)
        for point in trace.points
        if (anchor := drawings.find(trace.mode, point.tensor))
    )
    left_out = len(trace.points) - len(rows)
    mode = figures.clip(trace.mode, 40)
    return LayerTable(mode, summary, _make_chart(trace), rows, left_out, named)


def _format_ratio(ratio: float) -> str:
    return "no noise" if ratio >= _NO_NOISE else f"{ratio:.1f} dB"
