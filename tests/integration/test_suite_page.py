"""The page of a suite in a browser: fifty models and a thousand, on a desk and on a phone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from browser import Browser
from suites import measure, record, results

from runner.suite.compare import compare_results
from runner.suite.output.page import write_html
from runner.suite.results import ResultSet

CHAINS = ("2020-09", "2022", "2026-onnx2tf")
OUTCOMES = ("passed", "passed", "passed", "rounding", "out-of-tolerance", "failed", "refused")
WIDTHS = (1280, 390)


def make_set(models: int, seed: int, folder: Path) -> ResultSet:
    chance = random.Random(seed)
    records = []
    for number in range(models):
        for chain in CHAINS:
            outcome = chance.choice(OUTCOMES)
            made = outcome not in ("failed", "refused")
            figures = {
                "error": 10 ** chance.uniform(-8, -6),
                "bytes": chance.randrange(10_000, 10_000_000),
                "operators": chance.randrange(5, 900),
            }
            nothing = {**dict.fromkeys(figures), "flex": None, "artifact": "", "metric": ""}
            more = figures if made else nothing
            name = f"family{number % 7}/a-rather-long-name-of-a-network-{number:04d}"
            records.append(record(name, chain, outcome=outcome, reason="why\nit is so", **more))
    return results(records, folder, measure(records, chance))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The page of fifty models, with a comparison, and that of a thousand."""
    folder = tmp_path_factory.mktemp("suites")
    few = make_set(50, 1, folder)
    write_html(few, folder / "50.html", compare_results(make_set(50, 2, folder / "before"), few))
    write_html(make_set(1000, 3, folder), folder / "1000.html")
    return {count: folder / f"{count}.html" for count in (50, 1000)}


def names(browser: Browser) -> list[str]:
    """The models that are shown, in order."""
    found: list[str] = browser.evaluate(
        "[...document.querySelectorAll('#runs tbody tr')].filter(row => !row.hidden &&"
        " row.getBoundingClientRect().height > 0).map(row => row.cells[0].textContent)"
    )
    return found


def choose(browser: Browser, select: str, value: str) -> None:
    browser.evaluate(
        f"{{ const e = document.getElementById('{select}'); e.value = '{value}';"
        " e.dispatchEvent(new Event('change')); }"
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("count", "scheme"), [(50, "light"), (50, "dark"), (1000, "light")])
def test_it_fits_and_asks_for_nothing(
    browser: Browser, pages: dict[int, Path], count: int, width: int, scheme: str
) -> None:
    browser.open(pages[count], width=width, scheme=scheme)
    assert browser.requests == [pages[count].resolve().as_uri()]
    assert browser.messages == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert len(names(browser)) == count
    if count == 50:
        browser.evaluate("document.getElementById('tab-compared').click()")
        shown = "getComputedStyle(document.getElementById('{}')).display"
        assert browser.evaluate(shown.format("matrix")) == "none"
        assert browser.evaluate(shown.format("compared")) == "block"
        assert browser.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_it_sorts_and_filters(browser: Browser, pages: dict[int, Path], width: int) -> None:
    browser.open(pages[1000], width=width)
    first = names(browser)
    for figure in ("error", "size", "operators", "latency"):
        choose(browser, "order", figure)
        values = browser.evaluate(
            "[...document.querySelectorAll('#runs tbody tr')]"
            f".map(row => row.dataset.{figure}).map(v => v === undefined ? -1 : Number(v))"
        )
        assert values == sorted(values, reverse=True) and len(set(values)) > 100
        seen = f"getComputedStyle(document.querySelector('#runs .figure.{figure}')).display"
        assert browser.evaluate(seen) != "none"
    choose(browser, "order", "name")
    assert names(browser) == first
    # A column by itself; a second click turns it round.
    for order in ("descending", "ascending"):
        browser.evaluate("document.querySelector('#runs thead button[data-column=\"2\"]').click()")
        assert browser.evaluate("document.querySelectorAll('#runs th')[2].ariaSort") == order
    browser.evaluate(
        "{ const e = document.getElementById('name'); e.value = 'family3 1';"
        " e.dispatchEvent(new Event('input')); }"
    )
    shown = names(browser)
    assert shown and all("family3" in name and "1" in name for name in shown)
    assert browser.evaluate("document.getElementById('shown').textContent") == (
        f"{len(shown)} of 1000 models"
    )
    browser.evaluate("document.querySelectorAll('.outcomes input').forEach(box => box.click())")
    assert names(browser) == []
    assert browser.evaluate("document.getElementById('none').hidden") is False


def test_outcomes_differ_in_shape_and_not_in_colour_alone(
    browser: Browser, pages: dict[int, Path]
) -> None:
    browser.open(pages[50], width=1280)
    looks = browser.evaluate(
        "[...new Set([...document.querySelectorAll('#runs .sign')].map(sign =>"
        " sign.textContent + ' ' + getComputedStyle(sign).borderRadius + ' '"
        " + getComputedStyle(sign).borderStyle))]"
    )
    signs = [look.split()[0] for look in looks]
    assert len(signs) == len(set(signs)) == len(set(OUTCOMES))


def test_only_its_own_script_runs(browser: Browser, pages: dict[int, Path], tmp_path: Path) -> None:
    text = pages[50].read_text(encoding="utf-8")
    hole = "<script>document.title = 'ran'</script><p onclick='x'></p>"
    (tmp_path / "hole.html").write_text(text.replace("</main>", f"{hole}</main>"))
    browser.open(tmp_path / "hole.html", width=1280)
    assert browser.evaluate("document.title") != "ran"
    assert any("Content Security Policy" in message for message in browser.messages)
