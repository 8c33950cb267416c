"""The drawings of the graph around what a diagnosis names, and the links to them."""

from __future__ import annotations

from typing import Any

import pytest
from html_checks import check
from sample_reports import (
    culprit,
    diagnosis,
    point,
    quantized_point,
    quantized_trace,
    report,
    validated,
)

from runner.report.html.drawing.neighbourhood import Neighbourhood, make_drawings
from runner.report.html.render import render_run
from runner.schemas.diagnosis import Diagnosis

# A residual block: `add` reads `stem` past two others, and `end` reads `add`.
BLOCK = [
    point("stem"),
    point("one", "stem"),
    point("two", "one"),
    point("add", "stem", "two"),
    point("end", "add"),
    point("head", "end"),
    point("far", "head"),
]


def draw(points: list[dict[str, Any]], *named: str) -> tuple[Neighbourhood, ...]:
    chosen = [culprit("torch", p) for name in named for p in points if p["tensor"] == name]
    made = diagnosis({"torch": points}, *chosen)
    return make_drawings(Diagnosis.model_validate(made)).all


def list_rows(drawing: Neighbourhood) -> list[list[str]]:
    """The layers' names, row by row from the top, from left to right."""
    rows: dict[int, list[tuple[float, str]]] = {}
    for box in drawing.boxes:
        rows.setdefault(box.y, []).append((box.x, box.name.rpartition(".")[2]))
    return [[name for _, name in sorted(rows[y])] for y in sorted(rows)]


def test_what_it_reads_is_above_and_what_reads_it_below() -> None:
    (drawing,) = draw(BLOCK, "add")
    assert list_rows(drawing) == [["stem"], ["one"], ["two"], ["add"], ["end"], ["head"]]
    assert [box.name for box in drawing.boxes if box.marked] == ["features.add"]
    assert len(drawing.edges) == 6  # the one past the block too
    (long,) = [edge for edge in drawing.edges if "V" in edge.path]
    # No box is where it passes.
    lane = float(long.path.split("V")[0].rpartition(" ")[0].rpartition(" ")[2])
    assert all(box.x + box.width < lane < 100 for box in drawing.boxes)
    assert (
        drawing.description
        == "features.add reads features.stem, features.two, and feeds features.end."
    )
    (box,) = [box for box in drawing.boxes if box.marked]
    assert (box.operators, box.shape) == ("Conv + Relu", "1×8×16×16")


def test_edges_run_downwards_between_their_boxes() -> None:
    (drawing,) = draw(BLOCK, "add")
    tops = {box.y for box in drawing.boxes}
    for edge in drawing.edges:
        assert edge.y in tops and edge.path.endswith(f"{edge.x:g} {edge.y}")
        begin = int(edge.path.split("C")[0].rpartition(" ")[2])
        assert begin - 62 in tops and begin < edge.y


def test_of_many_neighbours_a_few_are_drawn() -> None:
    """They fit beside each other, and it is said how many are not there."""
    names = [f"in{i}" for i in range(7)]
    points = [*map(point, names), point("cat", *names), point("end", "cat")]
    (drawing,) = draw(points, "cat")
    assert list_rows(drawing) == [["in0", "in1", "in2"], ["cat"], ["end"]]
    assert drawing.left_out == 4
    row = sorted(box.x for box in drawing.boxes if box.y == 0)
    width = drawing.boxes[0].width
    assert row[0] >= 0 and row[-1] + width <= 100
    assert all(b - a > width for a, b in zip(row, row[1:], strict=False))


def test_long_names_are_cut_and_told_whole() -> None:
    long = "backbone." * 5 + "conv"
    (drawing,) = draw([point("a", modules=[long]), point("b", "a")], "b")
    (box,) = [box for box in drawing.boxes if not box.marked]
    assert box.name.startswith("…") and box.name.endswith("conv") and len(box.name) <= 30
    assert long in box.whole


@pytest.mark.parametrize(
    "points",
    [
        [point("alone"), point("other")],  # as of a report from before inputs were recorded
        [point("other")],
    ],
)
def test_without_known_neighbours_there_is_no_drawing(points: list[dict[str, Any]]) -> None:
    made = diagnosis({"torch": points}, culprit("torch", point("alone")))
    assert make_drawings(Diagnosis.model_validate(made)).all == ()
    page = check(render_run(validated(report(diagnosis=made))))
    assert "features.alone" in page.with_id("depth").words
    assert not [e for e in page.all("section") if e.attributes["id"] == "graph"]


def test_a_circle_in_a_report_is_no_endless_drawing() -> None:
    points = [point("a", "c", "a"), point("b", "a"), point("c", "b", "nowhere")]
    (drawing,) = draw(points, "b")
    assert list_rows(drawing) == [["a"], ["b"], ["c"]]


def test_every_named_operator_links_to_its_drawing() -> None:
    made = diagnosis({"torch": BLOCK}, *(culprit("torch", BLOCK[i]) for i in (3, 5)))
    page = check(render_run(validated(report(diagnosis=made))))
    links = {
        a.words: a.attributes["href"][1:]
        for a in page.all("a")
        if page.with_id("depth") in a.ancestors
    }
    assert set(links) == {"features.add (add)", "features.head (head)"}
    for label, anchor in links.items():
        figure = page.with_id(anchor)
        assert page.with_id("graph") in figure.ancestors
        assert label.partition(" ")[0] in figure.words


@pytest.mark.parametrize("verdict", ["reference", "cancellation"])
def test_what_a_summary_names_without_blame_is_drawn_too(verdict: str) -> None:
    where = {"stage": "torch", "tensor": "two"}
    made = diagnosis({"torch": BLOCK}, verdict=verdict, named=where)
    (drawing,) = make_drawings(Diagnosis.model_validate(made)).all
    assert [box.name for box in drawing.boxes if box.marked] == ["features.two"]


@pytest.mark.parametrize("fault", [True, False])
def test_the_layers_of_a_quantised_model_are_drawn(fault: bool) -> None:
    """Those at fault, or else the one that costs most."""
    points = [quantized_point("a"), quantized_point("b", "a"), quantized_point("c", "b")]
    points[1]["output_sqnr"] = 10.0
    kind = {"kind": "outlier", "reason": "A channel reaches far."}
    found = {key: points[2][key] for key in ("tensor", "operators", "modules")} | kind
    trace = quantized_trace(points, faults=[found] if fault else [])
    made = diagnosis({}, verdict="quantization", quantized=[trace])
    (drawing,) = make_drawings(Diagnosis.model_validate(made)).all
    (marked,) = [box.name for box in drawing.boxes if box.marked]
    assert (drawing.where, marked) == ("int8", "c" if fault else "b")
