"""What a notebook shows of a report: all of it escaped, and the link to the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_reports import report as make_report
from sample_reports import validated

from runner.errors import BadInput
from runner.notebook import ShownReport, is_notebook, make_shown
from runner.report.html.notebook import Step, render_progress


def test_a_report_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    report = validated(make_report())
    shown = make_shown(report, Path("runs/a b"))
    assert isinstance(shown, ShownReport) and shown.to_json() == report.to_json()
    assert '<a href="runs/a%20b/report.html"' in shown._repr_html_()


def test_what_a_file_says_is_text() -> None:
    report = validated(make_report())
    report.stages[0].status = "failed"
    report.stages[0].failure = "<script>alert(1)</script>"
    html = make_shown(report, Path("run"))._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "<b>" not in render_progress(["<b>"], [Step("<b>", "running")])


def test_an_error_is_shown_with_its_remedy_and_without_a_traceback() -> None:
    assert BadInput("No.", "Do it.")._render_traceback_() == ["error: No.", "→ Do it."]
    assert BadInput("No.")._render_traceback_() == ["error: No."]


def test_this_is_no_notebook() -> None:
    assert not is_notebook()
