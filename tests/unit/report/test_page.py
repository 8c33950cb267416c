"""The page of a run: what it says, that it is sound HTML, and that nothing in it is believed."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT
from html_checks import Page, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sample_reports import (
    KINDS,
    culprit,
    diagnosis,
    failed,
    output,
    point,
    report,
    stage,
    validated,
)

from runner.report.html import figures
from runner.report.html.drawing.charts import (
    LogScale,
    make_curve,
    make_histogram_chart,
    make_log_scale,
)
from runner.report.html.drawing.depth import DepthCurve
from runner.report.html.render import render_run, write_page
from runner.schemas.report import Histogram, KnownFailure, Report
from runner.toolchains.fixes import load_fixes
from stages.fixes.catalogue import FIXES

STYLE = ROOT / "runner/report/html/templates/style.css"


def render(made: dict[str, Any], **more: Any) -> Page:
    return check(render_run(validated(made), "run-1", **more))


def leaves(value: Any, kind: type, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values of a type in JSON."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, kind, (*path, key))
    elif type(value) is kind:
        yield path


def put(made: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    place: Any = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value


class TestVerdict:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_outcome_is_sound_and_says_what_happened(self, kind: str) -> None:
        page = render(KINDS[kind]())
        (headline,) = page.all("h1")
        assert "net.pt" in headline.words
        said = {
            "passed": "was converted, within tolerance",
            "exceeded": "is out of tolerance",
            "failed": "was not converted: the stage onnx-tf failed",
            "interrupted": "was interrupted during the stage onnx-tf",
            "nonfinite": "outputs are NaN or infinite",
            "shape": "an output has the wrong shape",
            "vacuous": "the check proves nothing",
            "quantized": "was converted, within tolerance",
        }[kind]
        assert said in headline.words

    def test_the_figure_the_tolerance_and_the_model_come_first(self) -> None:
        page = render(report())
        (header,) = page.all("header")
        words = header.words
        assert "1.00×10⁻⁷; the tolerance is 10⁻⁶" in words
        assert "2.0 times PyTorch's own float32 rounding" in words
        assert "run-1/model.tflite" in words
        assert "1.5 MB" in words

    def test_out_of_tolerance_says_what_would_pass(self) -> None:
        assert "would pass at 1.1×10⁻⁵" in render(KINDS["exceeded"]()).text

    def test_what_failed_and_what_to_do(self) -> None:
        page = render(failed())
        section = page.with_id("failure")
        words = section.words
        assert "No such operator. At Conv_1." in words
        assert "Write it otherwise." in words
        assert "logs/onnx-tf.log" in words
        # It comes before everything else.
        assert page.all("section")[0] is section

    @pytest.mark.parametrize("own", ["Write it otherwise.", ""])
    def test_what_is_known_of_a_failure_is_told_with_its_source(self, own: str) -> None:
        made = validated(failed())
        made.stages[1].remedy = own
        made.stages[1].known = KnownFailure(
            id="never-there",
            cause="It was <never> there.",
            remedy="Take another.",
            source="https://a.example/1",
            fix="layout",
        )
        page = check(render_run(made))
        words = page.with_id("failure").words
        # The stage's own remedy is for this model, the known failure's for any.
        assert "Why: It was <never> there." in words
        assert f"What to do: {own or 'Take another.'}" in words
        assert "The fix layout handles it." in words
        (link,) = (a for a in page.all("a") if a.attributes["href"].startswith("https://a"))
        assert link.attributes["rel"] == "noreferrer"

    def test_a_known_failures_source_is_no_link_unless_it_is_https(self) -> None:
        made = validated(failed())
        source = "javascript:alert(1)"
        made.stages[1].known = KnownFailure(id="x", cause="c", remedy="r", source=source)
        page = check(render_run(made))
        assert "javascript:alert(1)" in page.text
        assert all("javascript" not in a.attributes["href"] for a in page.all("a"))

    def test_no_figure_stands_for_nan_or_a_wrong_shape(self) -> None:
        for kind in ("nonfinite", "shape"):
            page = render(KINDS[kind]())
            assert "absolute error against" not in page.text
            assert "Error by stage" in page.text
            assert "ladder-title" not in page.html
        assert "NaN or infinite: 10 of PyTorch's values" in render(KINDS["nonfinite"]()).text
        assert "has the shape 10×1" in render(KINDS["shape"]()).text


class TestSections:
    def test_a_diagnosis_is_drawn(self) -> None:
        exact = [point(f"t{i}") for i in range(9)]
        wrong = [point(f"t{i}", error=1e-7 if i < 5 else 1e-2) for i in range(9)]
        made = KINDS["exceeded"]()
        made["diagnosis"] = diagnosis(
            {"torch": exact, "onnx-tf": wrong, "tflite": []},
            culprit("onnx-tf", wrong[5]),
            summary="Born in <features.t5>.",
        )
        page = render(made)
        section = page.with_id("depth")
        assert "Born in <features.t5>." in section.words
        captions = [e.words for e in page.all("figcaption") if section in e.ancestors]
        assert captions == [
            "No operator stands out: the error grows as rounding does.",
            "The error is born at features.t5 (t5) .",
        ]
        assert "features.t5 (t5) ← born here 0.0100" in section.words
        assert section.words.count("born here") == 1

    def test_everything_is_there(self) -> None:
        page = render(report(), curves=[DepthCurve("TFLite", (("a", 1e-7), ("b", 1e-2)), "b")])
        text = page.text
        for words in (
            *("tool 1.2.3", "pickled module, 1,234 parameters", "image 1×3×8×8 float32"),
            *("convert 1.5 s (of which export 0.50 s)",),
            *("new==2, stand-in for old==1", "1 applied", "300.0 MB"),
            *("99 % by less than 4.00×10⁻⁷", "Of 1,000 values, 20 % are equal"),
            *("The error is born at b", "those of the seed 3", "3 operators, 6 constants"),
            *("FlexErf needs Flex", "Channels last", "0123456789abcdef" * 4, "A note."),
            *("process (asked for)", "pytorch-tflite-2020", "Python", "3.8.18"),
        ):
            assert words in text, words

    def test_every_chart_has_its_figures_in_a_table(self) -> None:
        page = render(report(), curves=[DepthCurve("TFLite", (("a", 1e-7), ("b", 1e-2)), "b")])
        charts = [e for e in page.all("svg") if e.attributes.get("role") == "img"]
        assert len(charts) == 1 + 3 + 1
        for chart in charts:
            (section,) = (e for e in chart.ancestors if e.name == "section")
            inside = [e for e in page.all("table") if section in e.ancestors]
            assert inside

    def test_the_way_in_leads_to_every_section(self) -> None:
        page = render(report())
        linked = [a.attributes["href"][1:] for e in page.all("nav") for a in _links(e)]
        assert linked == [e.attributes["id"] for e in page.all("section")]

    def test_no_section_is_empty(self) -> None:
        made = report(notes=[], options={})
        for record in made["stages"]:
            record["report"].update(check=None, operators={}, fixes=[])
        page = render(made)
        identities = {e.attributes["id"] for e in page.all("section")}
        assert identities == {"journey", "fixes", "records"}

    def test_a_verdict_is_never_colour_alone(self) -> None:
        for kind in ("exceeded", "passed", "nonfinite"):
            page = render(KINDS[kind]())
            for element in page.elements:
                classes = element.attributes.get("class", "").split()
                if {"verdict", "badge"} & set(classes):
                    said = [item for item in element.content if isinstance(item, str)]
                    assert len("".join(said).strip()) > 5, element.words

    def test_faithful_says_so(self) -> None:
        made = report(options={"fixes": "none"})
        made["stages"][1]["report"]["fixes"] = []
        assert "the pinned tools alone made this" in render(made).text

    def test_fixes_are_told_from_the_catalogue(self) -> None:
        texts = load_fixes()
        assert {fix.name for fix in FIXES} == set(texts)
        for fix in FIXES:
            text = texts[fix.name]
            assert (text.title, text.defect, text.issue) == (fix.title, fix.defect, fix.issue)

    def test_a_report_from_before_there_were_histograms(self) -> None:
        made = report()
        for record in made["stages"]:
            for entry in record["report"]["check"]["outputs"]:
                del entry["histogram"]
                for worst in entry["worst_samples"]:
                    del worst["mean_abs"]
        page = render(made)
        assert "The worst samples" in page.text
        assert "How the errors are spread" not in page.text


def _links(element: Any) -> list[Any]:
    below = [e for child in element.children for e in _links(child)]
    return [*([element] if element.name == "a" else []), *below]


class TestNothingIsBelieved:
    HOSTILE = (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'><svg onload=alert(1)>",
        "{{ 7 * 7 }}{% include 'style.css' %}",
        "</title></style><b>x",
        "javascript:alert(1)",
        "&lt;i&gt;&#60;",
        "-->]]><!--",
    )

    @pytest.mark.parametrize("hostile", HOSTILE)
    @pytest.mark.parametrize("kind", ["passed", "failed"])
    def test_text_is_text_wherever_it_stands(self, kind: str, hostile: str) -> None:
        made, clean = KINDS[kind](), render(KINDS[kind]())
        placed = 0
        for path in list(leaves(made, str)):
            attempt = copy.deepcopy(made)
            put(attempt, path, hostile)
            try:
                validated(attempt)
            except ValidationError:
                continue  # of a form that nothing hostile has
            made, placed = attempt, placed + 1
        for record in made["stages"]:
            if record.get("report"):
                for name, value in (("operators", 3), ("versions", "3"), ("phases", 3.0)):
                    record["report"][name][hostile] = value
        made["options"][hostile] = made["engine"]["details"][hostile] = hostile
        assert placed > 40
        page = render(made)
        kept = " ".join(hostile.split())
        assert page.text.count(kept) > 12
        # The same elements as ever, and no attribute took anything in.
        assert {e.name for e in page.elements} <= {e.name for e in clean.elements} | {"pre", "p"}
        for element in page.elements:
            assert kept not in element.attributes.values()

    def test_control_characters_do_not_get_through(self) -> None:
        made = failed()
        bad = "a\x1b[31m\x00b\u202etxt.exe\u2066c\u200b"
        made["model"]["name"] = made["stages"][1]["failure"] = made["notes"][0] = bad
        html = render_run(validated(made))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\u200b]", html)

    def test_paths_that_leave_the_folder_are_no_links(self) -> None:
        for path in ("../../etc/passwd", "/etc/passwd", "//evil.example", "a/../b", "x:y"):
            made = failed()
            made["stages"][1]["log"] = path
            page = render(made)
            assert path not in [a.attributes["href"] for a in page.all("a")]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0, 5e-324, 1.7e308])
    def test_no_figure_breaks_it(self, value: float) -> None:
        for kind in KINDS.values():
            made = kind()
            for path in leaves(kind(), float):
                if "edges" not in path:
                    put(made, path, value)
            render(made, curves=[DepthCurve("x", (("a", value), ("b", 1.0)), "a")])

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_no_mixture_of_figures_breaks_it(self, data: st.DataObject) -> None:
        made = KINDS[data.draw(st.sampled_from(list(KINDS)))]()
        for path in list(leaves(made, float)):
            if "edges" not in path:
                put(made, path, data.draw(st.floats()))
        render(made)

    def test_a_huge_report_makes_a_small_page(self) -> None:
        made = report()
        outputs = [output(f"output_{i}" + "n" * 500, 1e-7 * (i + 1)) for i in range(500)]
        made["stages"] = [stage(name, outputs) for name in ("torch", "onnx-tf", "tflite")]
        for record in made["stages"]:
            record["report"]["operators"] = {f"Op{i}" + "o" * 300: i for i in range(3000)}
            record["report"]["fixes"] = [f"fix-{i}" * 50 for i in range(500)]
            record["failure"], record["remedy"] = "f" * 1_000_000, "r" * 1_000_000
            record["status"] = "failed"
        made["notes"] = ["note " * 10_000] * 1000
        made["options"] = {f"option{i}": "v" * 10_000 for i in range(1000)}
        points = tuple((f"features.{i}.conv", 1e-7 * (1 + i % 7)) for i in range(20_000))
        curves = [DepthCurve(name, points, "features.9000.conv") for name in "abc"]
        html = render_run(validated(made), curves=curves)
        check(html)
        assert len(html.encode()) < 200_000
        assert "2,976 more kinds" in html

    def test_an_ordinary_page_is_small(self) -> None:
        assert len(render_run(validated(report())).encode()) < 60_000


def read(text: str) -> float:
    """A figure back from how a page writes it."""
    found = re.fullmatch(f"(?:([0-9.]+)×)?10([{_RAISED}]+)|([0-9.]+)", text)
    assert found, text
    mantissa, power, plain = found.groups()
    digits = (power or "").translate(str.maketrans(_RAISED, "-0123456789"))
    return float(plain or mantissa or 1) * 10.0 ** int(digits or 0)


_RAISED = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"


class TestFigures:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1.2599953915923834e-7, "1.26×10⁻⁷"),
            (-3e-12, "−3.00×10⁻¹²"),
            (9.999e-8, "1.00×10⁻⁷"),
            (0.44040, "0.440"),
            (2.89, "2.89"),
            (123.4, "123"),
            (1234.5, "1.23×10³"),
            (0.0, "0"),
            (None, "–"),
            (math.nan, "NaN"),
            (-math.inf, "−∞"),
        ],
    )
    def test_scientific(self, value: float | None, text: str) -> None:
        assert figures.scientific(value) == text

    @pytest.mark.parametrize(
        ("value", "text"), [(1e-6, "10⁻⁶"), (2.5e-4, "2.5×10⁻⁴"), (0.01, "0.01"), (2.0, "2")]
    )
    def test_tolerance(self, value: float, text: str) -> None:
        assert figures.tolerance(value) == text

    @given(st.floats(min_value=1e-300, max_value=1e300))
    def test_rounded_up_is_never_below(self, value: float) -> None:
        shown = read(figures.round_up(value))
        assert value * (1 - 1e-12) <= shown <= value * 1.11

    @given(st.floats(min_value=1e-300, max_value=1e300))
    def test_scientific_is_the_value_to_three_digits(self, value: float) -> None:
        assert read(figures.scientific(value)) == pytest.approx(value, rel=5.1e-3)

    @pytest.mark.parametrize(
        ("part", "whole", "text"),
        [(0, 10, "0 %"), (1, 10**6, "< 0.1 %"), (10, 10, "100 %"), (9999, 10**4, "> 99.9 %")],
    )
    def test_percent(self, part: int, whole: int, text: str) -> None:
        assert figures.percent(part, whole).replace("\N{NO-BREAK SPACE}", " ") == text
        assert figures.percent(1, 0) == "–"

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.446, "0.45 s"), (9.37, "9.4 s"), (125.2, "2 min 5 s"), (4320, "1 h 12 min")],
    )
    def test_duration(self, seconds: float, text: str) -> None:
        assert figures.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text

    def test_long_text_is_cut_at_its_own_ends(self) -> None:
        assert figures.clip("a\n b" + "c" * 500, 10) == "a bcccccc…"
        assert figures.excerpt("first\n" * 5000 + "last", 100).endswith("last")
        assert figures.excerpt("first\n" * 5000 + "last", 100).startswith("…\nfirst")


class TestCharts:
    def test_a_decade_is_as_wide_as_another(self) -> None:
        scale = LogScale(-8, -4)
        assert [scale.at(10.0**e) for e in (-8, -7, -6, -5, -4)] == [0, 25, 50, 75, 100]
        assert (scale.at(0.0), scale.at(1e-20), scale.at(math.inf)) == (0, 0, 100)
        assert [tick.label for tick in scale.ticks] == ["10⁻⁸", "10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴"]

    @given(st.lists(st.floats() | st.none(), max_size=6))
    def test_a_scale_holds_every_value(self, values: list[float | None]) -> None:
        scale = make_log_scale(values)
        assert scale.low < scale.high and 1 <= len(scale.ticks) <= 6
        for value in values:
            if value is not None and math.isfinite(value) and value > 0:
                exponent = math.log10(value)
                assert scale.low <= exponent <= scale.high

    def test_bars_stand_where_the_errors_are(self) -> None:
        histogram = Histogram(zeros=10, edges=[1e-8, 1e-7, 1e-6, 1e-5], counts=[20, 0, 10])
        chart = make_histogram_chart(histogram, LogScale(-8, -4), tolerance=1e-6)
        assert [(b.x, b.width, b.height, b.beyond) for b in chart.bars] == [
            (0, 25, 100, False),
            (50, 25, 50, True),
        ]
        assert (chart.total, chart.median) == (40, 1e-7)
        assert [b.share for b in chart.bins] == [figures.percent(n, 40) for n in (20, 0, 10)]

    def test_a_curve_keeps_its_peak_however_many_points_there_are(self) -> None:
        values = [1e-8] * 10_000
        values[7777] = 1e-2
        drawn = make_curve(values, LogScale(-8, -2), marked=7777)
        points = [tuple(map(float, p.split(","))) for p in drawn.points.split()]
        assert len(points) <= 300
        assert min(points, key=lambda p: p[1]) == (77.78, 0.0) == drawn.marked
        assert all(a[0] < b[0] for a, b in zip(points, points[1:], strict=False))

    def test_the_culprit_is_in_the_figures_of_a_long_curve(self) -> None:
        points = tuple((f"layer{i}", 1.0 if i % 2 else 2.0) for i in range(1000))
        points = (*points[:500], ("the one", 1e-9), *points[500:])
        page = render(report(), curves=[DepthCurve("TFLite", points, "the one")])
        assert "the one ← born here" in page.text


class TestLook:
    """The palette's contrast, by WCAG 2: 4.5 for text, 3 for what a chart is drawn with."""

    @pytest.mark.parametrize("scheme", ["light", "dark", "print"])
    def test_contrast(self, scheme: str) -> None:
        colours = _palette(scheme)
        for ink in ("ink", "soft", "accent", "pass", "warn", "fail", "idle"):
            for ground in ("paper", "sheet"):
                assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for tone in ("pass", "warn", "fail", "idle"):
            assert _contrast(colours[tone], colours[f"{tone}-soft"]) >= 4.5, tone
        for text in ("ink", "soft", "accent"):
            assert _contrast(colours[text], colours["fail-soft"]) >= 4.5, text
        for mark in ("bars", "accent", "warn"):
            assert _contrast(colours[mark], colours["paper"]) >= 3, mark

    def test_the_style_sheet_is_no_template(self) -> None:
        assert not re.search(r"\{\{|\{%|\{#", STYLE.read_text())


def _palette(scheme: str) -> dict[str, str]:
    text = STYLE.read_text()
    blocks = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    assert len(blocks) == 3
    light, dark, paper = (dict(re.findall(r"--([a-z-]+): (#\w+);", block)) for block in blocks)
    assert set(light) == set(dark) == set(paper)
    return {"light": light, "dark": dark, "print": paper}[scheme]


def _contrast(one: str, other: str) -> float:
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_page_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Callable[[], Report] = lambda: validated(report())  # noqa: E731
    assert write_page(made(), tmp_path) == tmp_path / "report.html"
    before = (tmp_path / "report.html").read_bytes()
    assert b"\xc3\x97" in before  # UTF-8 whatever the locale is

    def full(*arguments: Any, **more: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(made(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_quantised_model_shows_whom_it_takes_for_whom() -> None:
    page = render(KINDS["quantized"]())
    assert "Accuracy of PyTorch: 97.00%; of the float model: 97.00%." in page.text
    assert "95.12%" in page.text and "34.0 dB" in page.text
    table = next(t for t in page.all("table") if "takes for each other" in t.words)
    assert table.words.endswith("3 8 2 41")
    (image,) = page.all("img")
    assert image.attributes["alt"] == "Sample 41: class 8 in place of 3, largest error 0.0900"
    assert (image.attributes["width"], image.attributes["height"]) == ("96", "48")
