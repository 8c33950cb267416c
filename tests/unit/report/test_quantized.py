"""A quantised run's page: latency beside the float model's, and signal to noise by depth."""

from __future__ import annotations

from html_checks import check
from sample_reports import (
    diagnosis,
    latency,
    quantized_point,
    quantized_trace,
    report,
    timed,
    validated,
)

from runner.report.html.drawing.charts import make_ratio_scale
from runner.report.html.drawing.neighbourhood import make_drawings
from runner.report.html.quantized import list_latencies, list_layer_tables
from runner.report.html.render import render_run


def test_latencies_stand_side_by_side_by_interpreter() -> None:
    pair = {"float_model": latency(2e-3), "quantized": latency(5e-4)}
    tried = {"mode": "int8", "latency": {"runtime": "LiteRT 2.3.0", **pair}}
    elsewhere = [{"image": "litert", "runtime": "LiteRT 2.3.0", "files": [tried]}]
    made = report(quantized=[timed("int8", "TFLite 2.4.0", 1e-3, 3.2e-2)], elsewhere=elsewhere)
    rows = list_latencies(validated(made))
    assert [(row.runtime, row.whole, row.own, row.ratio) for row in rows] == [
        ("TFLite 2.4.0", "1\xa0ms", "32\xa0ms", "32"),
        ("LiteRT 2.3.0", "2\xa0ms", "0.500\xa0ms", "0.25"),
    ]
    assert rows[1].own_range == "0.450\xa0ms to 0.550\xa0ms"
    page = check(render_run(validated(made)))
    assert "Latency, float and quantised" in page.with_id("quantized").words
    made["quantized"][0]["report"]["latency"] = None
    made["elsewhere"] = []
    assert "Latency" not in check(render_run(validated(made))).with_id("quantized").words


def test_signal_to_noise_is_drawn_over_depth() -> None:
    ratios = [(200.0, 200.0), (41.0, 44.0), (28.0, 30.0), (31.0, 52.0)]
    points = [
        quantized_point(f"t{i}", sqnr=plain, own_sqnr=own, output_sqnr=40.0 - 10 * (i == 2))
        for i, (plain, own) in enumerate(ratios)
    ]
    quantised = quantized_trace(points)
    told = diagnosis({}, verdict="quantization", quantized=[quantised])
    made = validated(report(quantized=[timed("int8", "T", 1, 1)], diagnosis=told))
    (table,) = list_layer_tables(made, make_drawings(made.diagnosis))
    chart = table.chart
    # What has no noise is at the top, outside of the scale.
    assert (chart.scale.low, chart.scale.high) == (0, 60)
    places = [tuple(map(float, item.split(","))) for item in chart.plain.points.split()]
    assert [x for x, _ in places] == [0, 33.33, 66.67, 100]
    assert [round(y, 1) for _, y in places] == [0, 31.7, 53.3, 48.3]
    # The mark is at the layer that costs most, which the summary names.
    assert chart.label == "t2" and chart.plain.marked == (66.67, 53.33)
    assert "from no noise at the first of 4 tensors to 31.0 dB at the last" in chart.description
    page = check(render_run(made))
    titles = [e.words for e in page.all("title")]
    assert "Signal to noise by depth, int8" in titles


def test_a_stretch_of_many_layers_is_drawn_as_its_worst() -> None:
    points = [quantized_point(f"t{i}", sqnr=5.0 if i == 707 else 40.0) for i in range(1000)]
    told = diagnosis({}, verdict="quantization", quantized=[quantized_trace(points)])
    made = validated(report(quantized=[timed("int8", "T", 1, 1)], diagnosis=told))
    (table,) = list_layer_tables(made, make_drawings(made.diagnosis))
    heights = [float(item.split(",")[1]) for item in table.chart.plain.points.split()]
    assert len(heights) <= 300 and max(heights) == 87.5


def test_a_scale_of_decibels_goes_from_zero_if_that_is_near() -> None:
    for values, ends in (([31, 44], (0, 50)), ([52, 71], (50, 80)), ([-4, 20], (-10, 20))):
        scale = make_ratio_scale(values)
        assert (scale.low, scale.high) == ends
        assert len(scale.ticks) <= 7 and scale.ticks[0].x == 0
    assert make_ratio_scale([]).at(0.0) == 0.0
