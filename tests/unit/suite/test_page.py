"""The page of a suite: one file, everything escaped, every cell and change in it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from html_checks import check
from suites import record, results

from runner.suite.compare import compare_results
from runner.suite.output.page import render_page, write_html, write_page
from runner.suite.results import ResultSet, Timing


def make_results(folder: Path) -> ResultSet:
    records = [
        record("a", "2020-09"),
        record("a", "2022", outcome="rounding", error=2e-6),
        record("b/<i>", "2020-09", outcome="failed", error=None, bytes=None, operators=None,
               flex=None, artifact="", reason="<b>no</b>", metric="", run="runs/b/2020-09/default",
               log="runs/b/2020-09/default/logs/torch.log"),
        record("b/<i>", "2022", outcome="refused", error=None, bytes=None, operators=None,
               flex=None, artifact="", run="", metric=""),
    ]  # fmt: skip
    timing = Timing(sessions=[2e-3], yardstick=[1e-4])
    return results(records, folder, {records[0].artifact: timing})


def test_every_cell_is_there_with_its_sign_and_link(tmp_path: Path) -> None:
    html = render_page(make_results(tmp_path), tmp_path)
    # As every page of the runner, but for the one script and what it listens to.
    own = r"<script>.*?</script>|<input[^>]*>|; script-src '[^']*'"
    words = check(re.sub(own, "", html, flags=re.DOTALL)).text
    for said in ("✓", "≈", "✕", "–", "at rounding", "failed", "refused", "2.00", "ms", "70"):
        assert said in words
    links = re.findall(r'href="([^"#]+)"', html)
    assert links == [
        "runs/a/2020-09/default/report.html",
        "runs/a/2022/default/report.html",
        "runs/b/2020-09/default/logs/torch.log",
    ]
    assert "b/&lt;i&gt;" in html and "<i>" not in html
    assert "<b>no</b>" not in html


def test_the_policy_allows_this_script_alone(tmp_path: Path) -> None:
    html = render_page(make_results(tmp_path), tmp_path)
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None and html.count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_changes_are_on_the_second_tab(tmp_path: Path) -> None:
    before = make_results(tmp_path / "before")
    after = make_results(tmp_path / "after")
    after.records[0].bytes = 2_000_000
    comparison = compare_results(before, after)
    html = render_page(after, after.folder, comparison)
    assert "Against before: 1 worse, 0 better" in html
    assert "+100.0%" in html
    # Written elsewhere, its links still lead to the runs.
    write_html(after, tmp_path / "page.html", comparison, open_comparison=True)
    text = (tmp_path / "page.html").read_text()
    assert 'href="after/runs/a/2020-09/default/report.html"' in text
    after.folder.mkdir()
    assert write_page(after, before) == after.folder / "index.html"
