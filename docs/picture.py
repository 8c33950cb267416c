"""Draw a finished run for README.md: python docs/picture.py runs/mbv2-...

docs/report.svg is its table on the console, docs/report.png its page, down to the histograms, as
Chromium shows it (.ci/browser installs one). Of a folder of several toolchains' runs,
docs/side-by-side.png is its page.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from runner.cli.summary import render_summary
from runner.report.html.render import render_run
from runner.schemas.report import Report

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "tests" / "support"))

from browser import Browser, find_chromium  # noqa: E402

MOST_BYTES = 300_000


def draw_table(report: Report, name: str) -> None:
    console = Console(record=True, width=86, file=io.StringIO(), force_terminal=True)
    console.print("$ runner convert --model examples/mbv2.pt", highlight=False)
    console.print(f"Engine: {report.engine.name} ({report.engine.reason})", highlight=False)
    console.print(render_summary(report, Path("runs") / name))
    picture = DOCS / "report.svg"
    console.save_svg(str(picture), title="runner", unique_id="report")
    # The theme names fonts on a host of their own; a viewer's monospace serves.
    lines = picture.read_text().splitlines(keepends=True)
    picture.write_text("".join(line for line in lines if "https://" not in line or "xmlns" in line))


def draw_page(report: Report, name: str) -> None:
    program = find_chromium()
    if program is None:
        sys.exit("There is no Chromium: .ci/browser installs one.")
    picture = DOCS / "report.png"
    with tempfile.TemporaryDirectory() as folder, Browser(program) as browser:
        page = Path(folder) / "report.html"
        page.write_text(render_run(report, f"runs/{name}"), encoding="utf-8")
        browser.open(page, width=940)
        end = browser.evaluate("document.getElementById('worst').getBoundingClientRect().top")
        browser.screenshot(picture, height=int(end), scale=0.8)
    if picture.stat().st_size > MOST_BYTES:
        sys.exit(f"{picture} has {picture.stat().st_size} bytes, more than {MOST_BYTES}.")


def draw_comparison(folder: Path) -> None:
    program = find_chromium()
    if program is None:
        sys.exit("There is no Chromium: .ci/browser installs one.")
    with Browser(program) as browser:
        browser.open(folder.resolve() / "comparison.html", width=1180)
        end = browser.evaluate("document.documentElement.scrollHeight")
        browser.screenshot(DOCS / "side-by-side.png", height=min(int(end), 1500), scale=0.8)


def main() -> None:
    folder = Path(sys.argv[1])
    if (folder / "comparison.html").exists():
        draw_comparison(folder)
        return
    report = Report.model_validate_json((folder / "report.json").read_text())
    draw_table(report, folder.name)
    draw_page(report, folder.name)


if __name__ == "__main__":
    main()
