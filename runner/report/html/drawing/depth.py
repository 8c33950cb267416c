"""The error by depth: the page's charts of a diagnosis, if the run has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.report.html import figures
from runner.report.html.drawing.charts import Curve, LogScale, make_curve, make_log_scale
from runner.report.html.drawing.neighbourhood import Drawings
from runner.schemas.diagnosis import Culprit, Named
from runner.schemas.report import Report

_MOST_ROWS, _LABEL = 60, 24


@dataclass(frozen=True)
class DepthCurve:
    """A stage's relative error at each tensor that it shares with the reference, in order.

    `points` are pairs of a tensor's label (a module's path or a node's name) and its error;
    `culprit` is the label of the point that introduces the error, '' if there is none.
    """

    stage: str
    points: tuple[tuple[str, float], ...]
    culprit: str = ""


def make_depth_curves(report: Report) -> list[DepthCurve]:
    """Make a curve for each stage that was traced; none for a report without a diagnosis."""
    diagnosis = report.diagnosis
    if diagnosis is None:
        return []
    culprit = diagnosis.culprit
    curves = []
    for stage in diagnosis.stages:
        if stage.trace is None:
            continue
        points = tuple((_make_label(point), point.error) for point in stage.trace.points)
        born_here = culprit is not None and culprit.stage == stage.stage
        curves.append(DepthCurve(stage.stage, points, _make_label(culprit) if born_here else ""))
    return curves


def summarize_depth(report: Report) -> str:
    """Return the diagnosis's own summary, clipped; '' without a diagnosis."""
    diagnosis = report.diagnosis
    return "" if diagnosis is None else figures.clip(diagnosis.summary, 500)


@dataclass(frozen=True)
class NamedOperator:
    """An operator that the diagnosis names, and the anchor of its drawing, if it has one."""

    label: str
    stage: str
    anchor: str


def list_culprits(report: Report, drawings: Drawings) -> list[NamedOperator]:
    """List what the diagnosis of the float model names, what is at fault first."""
    diagnosis = report.diagnosis
    if diagnosis is None:
        return []
    found: list[Culprit | Named | None] = [diagnosis.culprit, *diagnosis.others, diagnosis.named]
    points = {
        (stage.stage, point.tensor): point
        for stage in diagnosis.stages
        for point in (stage.trace.points if stage.trace else ())
    }
    named = []
    for item in found:
        if item is not None:
            place = (item.stage, item.tensor)
            point = points.get(place) or item
            label = _make_label(point) if not isinstance(point, Named) else item.tensor
            named.append(
                NamedOperator(
                    figures.clip(label, 120), figures.clip(item.stage, 60), drawings.find(*place)
                )
            )
    return named


def _make_label(point: Any) -> str:
    """Name the layers of the user's model that a tensor comes from, and the tensor itself."""
    layers = " + ".join(point.modules)
    return f"{layers} ({point.tensor})" if layers else str(point.tensor)


@dataclass(frozen=True)
class Point:
    """A row of the curve's table."""

    index: int
    label: str
    error: str
    culprit: bool


@dataclass(frozen=True)
class DepthChart:
    stage: str
    scale: LogScale
    curve: Curve
    culprit: str
    label: str
    """The culprit's name, cut to the room in the chart."""
    description: str
    rows: tuple[Point, ...]
    shown: str


def make_depth_charts(curves: Sequence[DepthCurve]) -> list[DepthChart]:
    """Chart the curves over one scale, so that the stages compare."""
    curves = [item for item in curves if item.points]
    scale = make_log_scale(error for item in curves for _, error in item.points)
    return [_make_chart(item, scale) for item in curves]


def _make_chart(item: DepthCurve, scale: LogScale) -> DepthChart:
    errors = [error for _, error in item.points]
    labels = [label for label, _ in item.points]
    at = labels.index(item.culprit) if item.culprit and item.culprit in labels else None
    chosen: Sequence[int] = range(len(errors))
    shown = f"All {figures.count(len(errors))} tensors that were compared, in order"
    if len(errors) > _MOST_ROWS:
        largest = sorted(chosen, key=lambda i: -errors[i] if errors[i] == errors[i] else -1e308)
        kept = {*largest[:_MOST_ROWS], *([] if at is None else [at])}
        chosen, total = sorted(kept), figures.count(len(errors))
        shown = f"The {len(kept)} tensors of {total} with the largest errors, in order"
    culprit = "" if at is None else figures.clip(item.culprit, 120)
    born = (
        f" It is born at {culprit}, at {figures.scientific(errors[at])}." if at is not None else ""
    )
    return DepthChart(
        stage=figures.clip(item.stage, 60),
        scale=scale,
        curve=make_curve(errors, scale, at),
        culprit=culprit,
        label=_shorten(culprit),
        description=(
            f"From {figures.scientific(errors[0])} at the first of {figures.count(len(errors))} "
            f"tensors to {figures.scientific(errors[-1])} at the last.{born}"
        ),
        rows=tuple(
            Point(i + 1, figures.clip(labels[i], 80), figures.scientific(errors[i]), i == at)
            for i in chosen
        ),
        shown=shown,
    )


def _shorten(culprit: str) -> str:
    """Return a layer's path without the tensor's name; of a long one, the end, which says most."""
    path = culprit.partition(" (")[0]
    return path if len(path) <= _LABEL else "…" + path[1 - _LABEL :]
