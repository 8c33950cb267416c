"""What a stage leaves behind, whatever happens to it: always a report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT

PROGRAM = """
import sys, threading
from stages.kit import contract, progress
progress._PERIOD, progress._MOST_IDLE = 0.1, 5
progress._LEAST_CPU = 0.05


def wait(job):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def compute(job):
    for _ in range(15):
        sum(range(4_000_000))
    raise contract.StageError("computed")


def look(job):
    job.note("fractions" if "fractions" in sys.modules else "nothing")
    raise contract.StageError("looked")


def overflow(job):
    job.output.write_bytes(b"made")
    job.report["noise_floor"] = {"mean": float("inf")}
    return contract.Signature((), ())


stage = contract.Stage(
    name="some", summary="s", consumes="in", produces="out", packages=(),
    convert=globals()[sys.argv.pop(1)], check=lambda job: {"mean_abs": float("nan")},
    imports=("fractions", "no_such_module"),
)
contract.run_as_program(stage)
"""


def start(volume: Path, *arguments: str, output: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    (volume / "in").touch()
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments, "--volume", str(volume)],
        cwd=ROOT,
        text=True,
        stdout=output,
        stderr=subprocess.PIPE,
    )


def run(volume: Path, function: str) -> tuple[dict[str, Any], str]:
    """Run a stage whose `convert` is a function of PROGRAM; return its report and its log."""
    process = start(volume, function)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    return json.loads((volume / "reports" / "some.json").read_text()), errors


def test_a_stage_that_hangs_ends_with_a_report(volume: Path) -> None:
    report, log = run(volume, "wait")
    assert "made no progress" in report["error"]["message"]
    assert report["error"]["phase"] == "convert" and report["status"] == "failed"
    assert "in wait" in log
    assert sorted(path.name for path in volume.iterdir()) == ["in", "reports"]


def test_a_stage_that_computes_is_left_alone(volume: Path) -> None:
    report, _ = run(volume, "compute")
    assert report["error"]["message"] == "StageError: computed"


def test_numbers_that_json_does_not_have(volume: Path) -> None:
    report, log = run(volume, "overflow")
    assert report["status"] == "failed" and report["check"] is None
    assert "not JSON compliant" in report["error"]["message"]
    assert (volume / "out").read_bytes() == b"made" and "Traceback" in log


def test_a_stage_that_waits_for_its_turn_has_done_its_imports(volume: Path) -> None:
    process = start(volume, "look", "--wait-for", ".start")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    assert [path.name for path in volume.iterdir()] == ["in"]
    # What it is to do is only said now.
    (volume / "requests").mkdir()
    (volume / "requests/some.json").write_text('{"output": "other"}')
    turn = time.time()
    (volume / ".start").touch()
    process.communicate(timeout=60)
    report = json.loads((volume / "reports/some.json").read_text())
    assert report["notes"] == ["fractions"] and report["error"]["message"] == "StageError: looked"
    # The wait is in none of its times.
    started = datetime.fromisoformat(report["started"]).timestamp()
    assert int(turn) <= started and 0 < report["phases"]["ahead"] < 1.5 > report["seconds"]
    # Whoever writes it may not be done with it: Docker sets its owner once it is there.
    assert (volume / ".start").exists()


def test_a_stage_that_nobody_reads_waits_no_longer(volume: Path) -> None:
    process = start(volume, "look", "--wait-for", ".start", output=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) != 0
    assert [path.name for path in volume.iterdir()] == ["in"]


def test_a_stage_by_itself_imports_nothing_early(volume: Path) -> None:
    report, _ = run(volume, "look")
    assert report["notes"] == ["nothing"] and "ahead" not in report["phases"]
