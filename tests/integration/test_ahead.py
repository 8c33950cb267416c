"""The next stage is started while one works: it has done its imports when its turn comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty import docker, processes
from harness import ENGINES, Convert, docker_leftovers, leftovers, run_cli

# A file of `--arch` whose model takes long to build, and then is there or is not.
SLOW = """
import time
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        time.sleep(5)
        {end}
        super().__init__(8, 4)
"""
WEIGHTS = """
import sys, torch
torch.save(torch.nn.Linear(8, 4).state_dict(), sys.argv[1])
"""


@pytest.fixture
def start(in_environment: Any, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Begin to convert a model that is slow to build; `end` is what it does then."""
    made = in_environment("torch", "-c", WEIGHTS, tmp_path / "net.pt")
    assert made.returncode == 0, made.stderr

    def run(engine: str, end: str = "") -> subprocess.Popen[str]:
        (tmp_path / "slow.py").write_text(SLOW.format(end=end))
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "runner", "convert", "--model", "net.pt"),
                *("--arch", "slow.py:Net", "--input", "1x8", "--output", "out"),
                *("--samples", "8", "--engine", engine, "--trust-model"),
            ],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )

    return run


def is_of(runner: subprocess.Popen[str], container: str) -> bool:
    owner = docker("inspect", "--format", '{{index .Config.Labels "org.runner.owner"}}', container)
    return owner.split()[1] == str(runner.pid)


def find_waiting(runner: subprocess.Popen[str], folder: Path, engine: str) -> str:
    """Wait until a stage that waits is there; return the id of its process or container."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if engine == "docker":
            waiting = docker("ps", "--quiet", "--filter", "label=org.runner.stage=onnx-tf").split()
            found = [number for number in waiting if is_of(runner, number)]
        else:
            # The sandbox's command line has both.
            word = set(processes(" --wait-for .start-"))
            found = [str(number) for number in processes(str(folder)) if number in word]
        if found:
            return found[0]
        time.sleep(0.05)
    pytest.fail("no stage was started ahead")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_started_ahead_does_the_same(convert: Convert, engine: str) -> None:
    run = convert("cnn", engine=engine)
    ahead = [record["report"]["phases"].get("ahead", 0) for record in run.report["stages"]]
    assert ahead[0] == 0 and min(ahead[1:]) > 0
    assert run.hashes == convert("cnn").hashes
    for record in run.report["stages"][1:]:
        # Its turn is no part of the time that it waited.
        assert record["report"]["seconds"] <= record["seconds"]


def test_with_one_core_none_is_started_ahead(
    convert: Convert, models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    done = run_cli(
        *("convert", "--model", models / "cnn.pt", "--output", folder, "--samples", "8"),
        *("--engine", "process"),
        cwd=tmp_path,
        under=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))),
    )
    assert done.returncode == 0, done.stderr
    other = convert("cnn")
    assert "ahead" not in (folder / "report.json").read_text()
    assert {n: (folder / n).read_bytes() for n in other.hashes} == {
        n: (other.folder / n).read_bytes() for n in other.hashes
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failure_ends_what_waits(start: Any, tmp_path: Path, engine: str) -> None:
    runner = start(engine, 'raise ValueError("not today")')
    find_waiting(runner, tmp_path, engine)
    output, _ = runner.communicate(timeout=120)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [record["status"] for record in report["stages"]] == ["failed", "skipped", "skipped"]
    assert "not today" in output
    assert leftovers(tmp_path) == [] == processes(str(tmp_path))
    if engine == "docker":
        assert docker_leftovers(report["run"]) == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_one_that_ends_while_it_waits_is_started_again(
    start: Any, tmp_path: Path, engine: str
) -> None:
    runner = start(engine)
    waiting = find_waiting(runner, tmp_path, engine)
    if engine == "docker":
        docker("kill", waiting)
    else:
        os.kill(int(waiting), signal.SIGKILL)
    output, _ = runner.communicate(timeout=120)
    assert runner.returncode == 0, output
    report = json.loads((tmp_path / "out/report.json").read_text())
    ahead = ["ahead" in record["report"]["phases"] for record in report["stages"]]
    assert ahead == [False, False, True]
    if engine == "docker":
        assert docker_leftovers(report["run"]) == ""


def test_a_runner_that_is_killed_leaves_none_waiting(start: Any, tmp_path: Path) -> None:
    runner = start("process")
    find_waiting(runner, tmp_path, "process")
    runner.kill()
    runner.communicate(timeout=60)
    end = time.monotonic() + 20
    while processes(str(tmp_path)):
        assert time.monotonic() < end
        time.sleep(0.1)
