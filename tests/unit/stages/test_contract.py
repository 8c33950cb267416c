"""What a stage leaves behind, whatever happens to it: always a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def overflow(job):
    job.output.write_bytes(b"made")
    job.report["noise_floor"] = {"mean": float("inf")}
    return contract.Signature((), ())


stage = contract.Stage(
    name="some", summary="s", consumes="in", produces="out", packages=(),
    convert=globals()[sys.argv.pop(1)], check=lambda job: {"mean_abs": float("nan")},
)
contract.run_as_program(stage)
"""


def run(volume: Path, function: str) -> tuple[dict[str, Any], str]:
    """Run a stage whose `convert` is a function of PROGRAM; return its report and its log."""
    (volume / "in").touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, function, "--volume", str(volume)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return json.loads((volume / "reports" / "some.json").read_text()), done.stderr


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
