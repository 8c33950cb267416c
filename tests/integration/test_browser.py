"""The pages in a real browser: at two widths, in light and dark, without any network."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from harness import Convert, run_cli
from sample_reports import (
    culprit,
    diagnosis,
    failed,
    output,
    point,
    quantized_point,
    quantized_trace,
    report,
    stage,
    timed,
    validated,
)

from runner.report.html.drawing.depth import DepthCurve
from runner.report.html.render import render_run

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "passed": ("cnn", ()),
    "failed": ("inverse", ()),
    "exceeded": ("cnn", ("--tolerance", "1e-12", "--strict")),
    "nan": ("nan", ()),
}

# Elements that stick out to the right, and are not in a box that scrolls by itself.
STICKING_OUT = """
[...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !element.closest(".scroll, .skip, .unseen");
}).map(element => element.outerHTML.slice(0, 120))
"""
# Pieces of a chart's text that lie on another's.
COLLIDING = """
[...document.querySelectorAll("svg[role=img]")].flatMap(chart => {
  const boxes = [...chart.querySelectorAll("text")].map(t => [t, t.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2
  ).map(([b]) => a.textContent + " / " + b.textContent));
})
"""


@pytest.fixture(scope="module")
def pages(convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of a real run, of all runs in a table, or of a report with everything in it."""
    folder = tmp_path_factory.mktemp("pages")

    def page(kind: str) -> Path:
        if kind in RUNS:
            name, options = RUNS[kind]
            return convert(name, *options).folder / "report.html"
        path = folder / f"{kind}.html"
        if kind == "table":
            runs = [convert(name, *options).folder for name, options in RUNS.values()]
            done = run_cli("report", "table", *runs, "--html", path, cwd=folder)
            assert done.returncode == 0, done.stderr
        elif kind == "full":
            path.write_text(full_page(), encoding="utf-8")
        return path

    return page


def full_page() -> str:
    """Everything at once, with names as long as they come."""
    made = failed()
    names = ["x" * 200, "a name with spaces in it " * 8, "features.17.conv.2.weight_quantized"]
    outputs = [output(name, 10.0**-size) for name, size in zip(names, (9, 5, 0), strict=True)]
    made["stages"] = [stage(name, outputs) for name in ("torch", "onnx-tf", "tflite")]
    last = made["stages"][-1]
    last.update(status="failed", failure="/a/path/without/end" * 40, remedy="y" * 300)
    last["report"]["operators"] = {"Flex" + "Operator" * 12: 10**9, "ADD": 1}
    made["model"]["name"] = "model_" * 20 + ".pt"
    made["notes"] = ["z" * 400]
    made["gate"]["tolerance"] = 1e-13
    residual = [
        point("stem"),
        point("one", "stem"),
        point("two", "one"),
        point("add", "stem", "two"),
    ]
    wide = [point(f"{i}_{'w' * 60}", "add", modules=["deep." * 12 + "MMW"]) for i in range(5)]
    joined = point("cat", *(each["tensor"] for each in wide), operators=["Operator" * 9, "Relu"])
    traced = [*residual, *wide, joined, point("head", "cat", shape=[1, 123456, 1234, 1234])]
    named = [culprit("torch", each) for each in (residual[3], joined, wide[4])]
    depths = [
        quantized_point(f"features.{i}" + "deep." * 9, sqnr=60.0 - i, own_sqnr=45.0)
        for i in range(90)
    ]
    depths[40]["output_sqnr"] = 1.0
    made["diagnosis"] = diagnosis(
        {"torch": traced}, *named, quantized=[quantized_trace(depths), quantized_trace(depths[:1])]
    )
    made["quantized"] = [timed("int8", "An interpreter of a long name " * 3, 1e-3, 12.3)]
    points = tuple((f"features.{i}." + "deep." * 20, 10.0 ** (i / 40 - 8)) for i in range(400))
    return render_run(validated(made), "r" * 100, [DepthCurve("TFLite", points, points[300][0])])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", [*RUNS, "table", "full"])
def test_it_fits_and_asks_for_nothing(
    browser: Browser,
    pages: Callable[[str], Path],
    tmp_path: Path,
    kind: str,
    width: int,
    scheme: str,
) -> None:
    page = pages(kind)
    browser.open(page, width=width, scheme=scheme)
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.messages == []
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(STICKING_OUT) == []
    colours = browser.evaluate(
        "[document.body, document.querySelector('h1')].map((e, i) =>"
        " getComputedStyle(e)[i ? 'color' : 'backgroundColor'])"
    )
    paper, ink = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert (paper > 600 > ink) if scheme == "light" else (paper < 150 < ink)
    picture = tmp_path / "page.png"
    browser.screenshot(picture)
    assert struct.unpack(">I", picture.read_bytes()[16:20])[0] == width


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", [*RUNS, "full"])
def test_text_in_charts_lies_on_no_other(
    browser: Browser, pages: Callable[[str], Path], kind: str, width: int
) -> None:
    browser.open(pages(kind), width=width)
    assert browser.evaluate(COLLIDING) == []
    sizes = browser.evaluate(
        "[...document.querySelectorAll('svg text')]"
        ".map(text => parseFloat(getComputedStyle(text).fontSize))"
    )
    assert all(size >= 12 for size in sizes)  # of the screen's pixels: no chart is shrunk


@pytest.mark.parametrize("kind", ["passed", "table"])
def test_on_a_phone_a_row_is_a_block(
    browser: Browser, pages: Callable[[str], Path], kind: str
) -> None:
    """The head of such a table is not seen, and each figure has its column's name beside it."""
    look = """
    [document.querySelector(".stack thead").getBoundingClientRect().height,
     [...document.querySelectorAll(".stack td[data-label]")].map(
       cell => [cell.dataset.label, getComputedStyle(cell, "::before").content])]
    """
    for width in WIDTHS:
        browser.open(pages(kind), width=width)
        head, cells = browser.evaluate(look)
        assert cells and (head <= 1) == (width == 390)
        for label, before in cells:
            assert before == (f'"{label}"' if width == 390 else "none")


@pytest.mark.parametrize("kind", ["passed", "failed", "table"])
def test_assistive_technology_finds_its_way(
    browser: Browser, pages: Callable[[str], Path], kind: str
) -> None:
    browser.open(pages(kind), width=1280)
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in browser.call("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"]
    ]
    roles = [role for role, _ in nodes]
    assert roles.count("main") == 1 and roles.count("banner") == 1
    assert roles.count("contentinfo") == 1
    charts = [name for role, name in nodes if role in ("image", "img", "graphics-document")]
    assert len(charts) == (4 if kind == "passed" else 0)
    assert all(len(name) > 20 for name in charts)
    assert all(name for role, name in nodes if role in ("link", "heading", "region", "table"))


def test_the_keyboard_reaches_everything(browser: Browser, pages: Callable[[str], Path]) -> None:
    browser.open(pages("passed"), width=390)
    reached, links = [], browser.evaluate("document.querySelectorAll('a, summary').length")
    for _ in range(links + 10):
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
            browser.call("Input.dispatchKeyEvent", type=kind, **key)
        focused = browser.evaluate(
            "[document.activeElement.tagName, document.activeElement.textContent.trim(),"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.append(tuple(focused))
    assert reached[0][1] == "Skip to the content"
    names = [name for name, _, _ in reached]
    assert names.count("SUMMARY") >= 3 and "DIV" in names  # what scrolls can be scrolled
    assert all(outline == "solid" for name, _, outline in reached if name in ("A", "SUMMARY"))


def test_the_policy_holds(browser: Browser, pages: Callable[[str], Path], tmp_path: Path) -> None:
    """Were there a hole in the escaping, nothing would come through it."""
    html = pages("passed").read_text(encoding="utf-8")
    hole = "<script>document.title = 'ran'</script><img src='data:image/gif;base64,R0lGODdh'>"
    path = tmp_path / "hole.html"
    path.write_text(html.replace("</main>", f"{hole}<p onclick='x'></p></main>"), encoding="utf-8")
    browser.open(path, width=1280)
    assert browser.evaluate("document.title") != "ran"
    said = " ".join(browser.messages)
    assert said.count("Content Security Policy") >= 2, said


def test_it_prints(browser: Browser, pages: Callable[[str], Path]) -> None:
    browser.open(pages("passed"), width=1280, scheme="dark")
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type/Page\n") <= 12


def test_a_report_without_figures_is_a_page_too(browser: Browser, tmp_path: Path) -> None:
    made: dict[str, Any] = report(stages=[], artifacts=[], notes=[], options={}, outcome="failed")
    path = tmp_path / "bare.html"
    path.write_text(render_run(validated(made)), encoding="utf-8")
    browser.open(path, width=390)
    assert browser.messages == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
