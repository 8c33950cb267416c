"""Drawings of the graph around the operators that a diagnosis names.

As in the charts, x is in per cent of the width and y in pixels: text keeps its size on a phone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.report.html import figures
from runner.report.quantized import list_costly
from runner.schemas.diagnosis import (
    Culprit,
    Diagnosis,
    Named,
    QuantizedPoint,
    QuantizedTrace,
    TracePoint,
)

# So many steps up and down the graph are drawn, of so many boxes at most; and so many drawings.
_STEPS, _MOST_IN_ROW = 2, 3
_MOST_OF_A_KIND = 6
# In pixels; the room between boxes beside each other, and for edges that pass rows, in per cent.
_HEIGHT, _GAP = 62, 32
_BETWEEN, _LANE = 2.0, 6.0
_WIDEST = 62.0
# How many letters of 12 pixels fit on a phone into a box of a row of one, two or three.
_LETTERS = {1: 30, 2: 21, 3: 13}

_Point = TracePoint | QuantizedPoint


@dataclass(frozen=True)
class Box:
    """Some operators and the tensor that they make; `x` is the left edge. Texts are cut to fit."""

    x: float
    y: int
    width: float
    name: str
    operators: str
    shape: str
    whole: str
    """All that was cut, for those who point at it."""
    marked: bool


@dataclass(frozen=True)
class Edge:
    """A curve as an SVG path, and the place of its arrow's tip."""

    path: str
    x: float
    y: int


@dataclass(frozen=True)
class Neighbourhood:
    """A drawing, under the anchor `id`, of what is around one operator of a stage or of a mode."""

    id: str
    where: str
    layer: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    height: int
    description: str
    left_out: int


@dataclass(frozen=True)
class Drawings:
    """The drawings of a page, and the anchor of each by its stage or mode and its tensor."""

    all: tuple[Neighbourhood, ...]
    anchors: Mapping[tuple[str, str], str]

    def find(self, where: str, tensor: str) -> str:
        """Return the anchor of a tensor's drawing; '' if it has none."""
        return self.anchors.get((where, tensor), "")


def make_drawings(diagnosis: Diagnosis | None) -> Drawings:
    """Draw what is around each operator that a diagnosis names, where its trace tells it."""
    drawn: dict[tuple[str, str], Neighbourhood] = {}
    for where, tensor, points in _list_named(diagnosis) if diagnosis else ():
        if (where, tensor) in drawn:
            continue
        made = _draw(f"graph-{len(drawn) + 1}", where, tensor, points)
        if made is not None:
            drawn[where, tensor] = made
    return Drawings(tuple(drawn.values()), {key: made.id for key, made in drawn.items()})


def _list_named(diagnosis: Diagnosis) -> Iterable[tuple[str, str, Sequence[_Point]]]:
    """List what is named: the stage or mode, the tensor, and the points of the trace."""
    traced = {s.stage: s.trace.points for s in diagnosis.stages if s.trace is not None}
    named: list[Culprit | Named | None] = [diagnosis.culprit, diagnosis.named, *diagnosis.others]
    for item in named[: _MOST_OF_A_KIND + 1]:
        if item is not None:
            yield item.stage, item.tensor, traced.get(item.stage, [])
    for trace in diagnosis.quantized:
        for tensor in list_named_layers(trace):
            yield trace.mode, tensor, trace.points


def list_named_layers(trace: QuantizedTrace) -> list[str]:
    """List the tensors that the summary of a quantised model's trace names."""
    if trace.faults:
        return [fault.tensor for fault in trace.faults[:_MOST_OF_A_KIND]]
    return [point.tensor for point in list_costly(trace)[:1]]


def _draw(anchor: str, where: str, tensor: str, points: Sequence[_Point]) -> Neighbourhood | None:
    """Draw a tensor's neighbourhood; None where the trace knows no neighbour of it."""
    places = {point.tensor: place for place, point in enumerate(points)}
    if tensor not in places:
        return None
    # A report from elsewhere may hold circles: only what comes before counts as an input.
    reads = {
        place: [i for i in (places.get(name, place) for name in point.inputs) if i < place]
        for place, point in enumerate(points)
    }
    feeds: dict[int, list[int]] = {}
    for place, inputs in reads.items():
        for i in inputs:
            feeds.setdefault(i, []).append(place)
    centre = places[tensor]
    near = [centre, *_walk(centre, reads), *_walk(centre, feeds)]
    if len(near) == 1:
        return None
    rows = _arrange(near, reads)
    kept = {place for row in rows for place in row}
    edges = [(i, place) for place in sorted(kept) for i in reads[place] if i in kept]
    levels = {place: level for level, row in enumerate(rows) for place in row}
    usable = 100 - _LANE * any(levels[b] - levels[a] > 1 for a, b in edges)
    boxes = {
        place: box
        for level, row in enumerate(rows)
        for place, box in _place_row([points[i] for i in row], row, level, usable, centre)
    }
    around = {*reads[centre], *feeds.get(centre, ())}
    return Neighbourhood(
        id=anchor,
        where=figures.clip(where, 60),
        layer=figures.clip(_name(points[centre]), 120),
        boxes=tuple(boxes.values()),
        edges=tuple(_connect(edges, boxes, levels, usable)),
        height=len(rows) * (_HEIGHT + _GAP) - _GAP,
        description=_describe(points, centre, reads, feeds),
        left_out=len(around - kept),
    )


def _walk(centre: int, links: Mapping[int, Sequence[int]]) -> list[int]:
    """List who can be reached in a few steps, the nearest first, and few of each step."""
    found: dict[int, None] = {}
    step = [centre]
    for _ in range(_STEPS):
        beyond = dict.fromkeys(i for place in step for i in links.get(place, ()))
        step = [i for i in beyond if i != centre and i not in found][:_MOST_IN_ROW]
        found |= dict.fromkeys(step)
    return list(found)


def _arrange(near: Sequence[int], reads: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Arrange places into rows, each below all that it reads; `near` begins with the centre."""
    chosen = set(near)
    levels: dict[int, int] = {}
    for place in sorted(chosen):
        levels[place] = max((levels[i] + 1 for i in reads[place] if i in chosen), default=0)
    for place in sorted(chosen, reverse=True):
        readers = [levels[other] for other in chosen if place in reads[other]]
        if readers and not chosen.intersection(reads[place]):
            levels[place] = min(readers) - 1  # beside the others that feed the same one
    rows: list[list[int]] = []
    for level in sorted(set(levels.values())):
        row = [place for place in near if levels[place] == level][:_MOST_IN_ROW]
        rows.append(sorted(row))
    return rows


def _place_row(
    points: Sequence[_Point], row: Sequence[int], level: int, usable: float, centre: int
) -> Iterable[tuple[int, Box]]:
    count = len(row)
    width = min(_WIDEST, (usable - _BETWEEN * (count - 1)) / count)
    left = (usable - count * width - _BETWEEN * (count - 1)) / 2
    most = _LETTERS[count]
    for number, (place, point) in enumerate(zip(row, points, strict=True)):
        name, kinds, shape = _name(point), " + ".join(point.operators), figures.shape(point.shape)
        yield (
            place,
            Box(
                x=round(left + number * (width + _BETWEEN), 2),
                y=level * (_HEIGHT + _GAP),
                width=round(width, 2),
                name=_cut_begin(figures.clip(name, 200), most),
                operators=figures.clip(kinds or "input", most),
                shape=figures.clip(shape, most),
                whole=figures.clip(f"{name}: {kinds or 'input'}, {shape}", 300),
                marked=place == centre,
            ),
        )


def _connect(
    edges: Sequence[tuple[int, int]],
    boxes: Mapping[int, Box],
    levels: Mapping[int, int],
    usable: float,
) -> Iterable[Edge]:
    """Make the curves; one that passes a row takes the lane on the right."""
    middles = {place: box.x + box.width / 2 for place, box in boxes.items()}

    def enter(edge: tuple[int, int]) -> float:
        far = levels[edge[1]] - levels[edge[0]] > 1
        return 100.0 if far else middles[edge[0]]

    for target in dict.fromkeys(target for _, target in edges):
        coming = sorted((edge for edge in edges if edge[1] == target), key=enter)
        apart = min(8.0, boxes[target].width / (len(coming) + 1))
        for number, (source, _) in enumerate(coming):
            x1 = round(middles[source], 2)
            x2 = round(middles[target] + (number - (len(coming) - 1) / 2) * apart, 2)
            y1, y2 = boxes[source].y + _HEIGHT, boxes[target].y
            bend = _GAP // 2
            if levels[target] - levels[source] == 1:
                path = f"M{x1:g} {y1}C{x1:g} {y1 + bend} {x2:g} {y2 - bend} {x2:g} {y2}"
            else:
                lane = round(usable + (100 - usable) * (2 + source % 3) / 5, 2)
                path = (
                    f"M{x1:g} {y1}C{x1:g} {y1 + bend} {lane:g} {y1 + bend} {lane:g} {y1 + _GAP}"
                    f"V{y2 - _GAP}C{lane:g} {y2 - bend} {x2:g} {y2 - bend} {x2:g} {y2}"
                )
            yield Edge(path, x2, y2)


def _describe(
    points: Sequence[_Point],
    centre: int,
    reads: Mapping[int, Sequence[int]],
    feeds: Mapping[int, Sequence[int]],
) -> str:
    def name_all(places: Sequence[int]) -> str:
        return ", ".join(_name(points[i]) for i in places[:_MOST_IN_ROW])

    before = name_all(reads[centre]) or "the model's inputs"
    after = f", and feeds {name_all(feeds[centre])}" if feeds.get(centre) else ""
    return figures.clip(f"{_name(points[centre])} reads {before}{after}.", 400)


def _name(point: _Point) -> str:
    """Name the user's layers, or else the tensor's first name."""
    return " + ".join(point.modules) or point.tensor.partition(";")[0]


def _cut_begin(text: str, most: int) -> str:
    """Cut a path to its end, which says most."""
    return text if len(text) <= most else "…" + text[1 - most :]
