"""What `runner bisect` says of what it found."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from suites import record

from runner.cli.bisection import show_bisection
from runner.cli.console import Console
from runner.suite.bisection.toolchains import Bisection, Step
from runner.suite.compare import Change

FAILED: dict[str, Any] = {"outcome": "failed", "error": None, "bytes": None, "operators": None}


def step(version: str, *, bad: bool = False, **more: Any) -> Step:
    made = record("net", f"2021-tool-{version}", **{"run": "", **(FAILED if bad else {}), **more})
    changes = [Change(made.cell, "outcome", True, "passed", "failed")] if bad else []
    return Step(made.toolchain, "2021-01-01", made, changes, version)


def show(steps: list[Step], **more: Any) -> str:
    text = io.StringIO()
    good = next((s for s in steps if s.record.outcome == "passed"), None)
    found = Bisection("net", Path("found"), steps, good, package="tool", **more)
    show_bisection(found, Console(file=text, width=200))
    return text.getvalue()


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (step("2.0", bad=True), "2.0 with the other packages of 1.1: bad too. It is tool itself."),
        (step("2.0"), "2.0 with the other packages of 1.1: good. It is what came with it"),
        (
            step("2.0", outcome="unavailable", reason="It needs numpy>=2."),
            "may be to blame too: It needs numpy>=2.",
        ),
    ],
)
def test_the_release_or_what_came_with_it(control: Step, said: str) -> None:
    steps = [step("1.0"), step("1.1"), step("2.0", bad=True)]
    changes = {"image": ["numpy 1.0 → 2.0"]}
    text = show(steps, lock_changes=changes, control=control, untried=["3.0"])
    assert "First bad: tool 2.0 (2021-01-01); last good: tool 1.1" in text
    assert "also differs in image: numpy 1.0 → 2.0" in text
    assert said in text
    assert "Not tried: 3.0." in text
    assert "\N{REPLACEMENT CHARACTER}" not in text  # in a size, whose space is a narrow one


def test_no_more_is_claimed_than_was_tried() -> None:
    ends = [step("1.0"), step("3.0")]
    text = show(ends, untried=["2.0"])
    assert "None is worse than tool 1.0." in text and "--every" in text
    assert "--every" not in show(ends)
    text = show([step("1.0", outcome="unavailable", reason="No file."), step("1.1", bad=True)])
    assert "tool 1.1 is failed already: name an older --from." in text
    assert "tool 1.0 skipped: No file." in text
