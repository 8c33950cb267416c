"""The geometry of the charts: where each mark lies, in per cent of the width.

Templates draw them as inline SVG whose x coordinates are percentages. So a chart fills the width
of its column while its text and its marks keep their size, on a phone too, and without a script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from runner.report.html import figures
from runner.schemas.report import Histogram

_MOST_TICKS = 5
_MOST_POINTS = 300
# The decimal exponents beyond float64's range: a scale never gets wider.
_LOWEST, _HIGHEST = -324, 309


@dataclass(frozen=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True)
class LogScale:
    """A scale from 10**low to 10**high, mapped to 0 to 100 per cent."""

    low: int
    high: int

    def at(self, value: float) -> float:
        """Return the place of a value; what lies outside goes to the edge, as 0 does."""
        if not value > 0:
            return 0.0
        exponent = math.log10(value) if math.isfinite(value) else math.inf
        share = (exponent - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> list[Tick]:
        step = max(1, math.ceil((self.high - self.low) / _MOST_TICKS))
        return [
            Tick(self.at(10.0**exponent), figures.power_of_ten(exponent))
            for exponent in range(self.low, self.high + 1, step)
            if exponent > _LOWEST and exponent < _HIGHEST
        ]


def make_log_scale(values: Iterable[float | None], margin: float = 0.15) -> LogScale:
    """Make a scale of whole decades around all positive finite values; others are ignored."""
    logs = [math.log10(v) for v in values if v is not None and math.isfinite(v) and v > 0]
    if not logs:
        return LogScale(-9, 0)
    low, high = math.floor(min(logs) - margin), math.ceil(max(logs) + margin)
    return LogScale(max(low, _LOWEST), min(max(high, low + 2), _HIGHEST))


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    height: float
    beyond: bool
    """Whether the whole bin lies beyond the tolerance."""


@dataclass(frozen=True)
class Bin:
    """A row of the histogram's table."""

    low: str
    high: str
    count: str
    share: str


@dataclass(frozen=True)
class HistogramChart:
    """Bars over a log scale; heights are in per cent of the tallest."""

    scale: LogScale
    bars: tuple[Bar, ...]
    bins: tuple[Bin, ...]
    total: int
    zeros: int
    median: float | None
    """The bin edge below which half of the errors lie."""


def make_histogram_scale(
    histograms: Sequence[Histogram], marks: Iterable[float | None]
) -> LogScale:
    """Make one scale for all histograms of a page, so that they compare at a glance."""
    edges = [edge for h in histograms for edge in (h.edges[:1] + h.edges[-1:])]
    return make_log_scale([*edges, *marks], margin=0.0)


def make_histogram_chart(
    histogram: Histogram, scale: LogScale, tolerance: float | None
) -> HistogramChart:
    tallest = max(histogram.counts, default=0) or 1
    total = histogram.zeros + sum(histogram.counts)
    bars, bins = [], []
    below, median = histogram.zeros, 0.0 if 2 * histogram.zeros >= total else None
    for low, high, count in zip(
        histogram.edges, histogram.edges[1:], histogram.counts, strict=False
    ):
        x = scale.at(low)
        beyond = tolerance is not None and low >= tolerance
        if count:
            height = round(max(1.0, 100 * count / tallest), 2)
            bars.append(Bar(x, round(scale.at(high) - x, 2), height, beyond))
        share = figures.percent(count, total)
        bins.append(
            Bin(figures.scientific(low), figures.scientific(high), figures.count(count), share)
        )
        below += count
        if median is None and 2 * below >= total:
            median = high
    return HistogramChart(scale, tuple(bars), tuple(bins), total, histogram.zeros, median)


@dataclass(frozen=True)
class Curve:
    """A polyline whose points go from (0, 0) at the top left to (100, 100)."""

    points: str
    """In the form of the `points` attribute of an SVG polyline."""
    marked: tuple[float, float] | None


@dataclass(frozen=True)
class RatioScale:
    """A linear scale of decibels from `low` to `high`, mapped to 0 to 100 per cent."""

    low: int
    high: int

    def at(self, value: float) -> float:
        """Return the place of a value; what lies outside goes to the edge."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> list[Tick]:
        step = 10 * max(1, math.ceil((self.high - self.low) / 10 / _MOST_TICKS))
        numbers = range(self.low, self.high + 1, step)
        return [Tick(self.at(n), f"{n} dB".replace("-", "−").replace(" ", "\xa0")) for n in numbers]


def make_ratio_scale(values: Iterable[float]) -> RatioScale:
    """Make a scale of whole tens around all values, from 0 if that is near."""
    found = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = math.floor(min(found) / 10), math.ceil(max(found) / 10)
    return RatioScale(10 * (min(low, 0) if low < 4 else low), 10 * max(high, low + 1))


def make_curve(
    values: Sequence[float],
    scale: LogScale | RatioScale,
    marked: int | None = None,
    worst: Callable[[float], float] | None = None,
) -> Curve:
    """Plot figures in order of depth over a vertical scale, NaN at the top.

    With more than a few hundred values, each stretch is drawn as its largest one, or as that for
    which `worst` is largest: peaks stay.
    """
    worst = worst or _get_height
    last = max(1, len(values) - 1)

    def place(index: int) -> tuple[float, float]:
        value = values[index]
        return round(100 * index / last, 2), round(
            100 - (100.0 if math.isnan(value) else scale.at(value)), 2
        )

    step = max(1, math.ceil(len(values) / _MOST_POINTS))
    kept = [
        max(range(start, min(start + step, len(values))), key=lambda i: worst(values[i]))
        for start in range(0, len(values), step)
    ]
    points = " ".join(f"{x:g},{y:g}" for x, y in map(place, kept))
    return Curve(points, None if marked is None else place(marked))


def _get_height(value: float) -> float:
    return math.inf if math.isnan(value) else value
