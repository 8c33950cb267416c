"""The page."""

from __future__ import annotations

from pathlib import Path

from runner.suite.results import ResultSet


def write_page(results: ResultSet, base: ResultSet | None) -> Path:
    return results.folder / "index.html"
