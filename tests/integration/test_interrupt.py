"""Ctrl-C and SIGTERM, in the middle of a stage: everything stops, and nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty import processes
from harness import DOCKER, INTERRUPTED, STAGES, docker_leftovers, leftovers
from html_checks import check

from runner.toolchains.load import load_image


def start(model: Path, folder: Path, engine: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "runner", "convert", "--model", str(model)),
            *("--output", str(folder), "--engine", engine, "--samples", "3000"),
        ],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder.parent,
        # A shell's background jobs ignore it, and their children would.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def interrupt(
    process: subprocess.Popen[str], stage: str, number: int, delay: float = 0.3
) -> tuple[int, str, str]:
    """Signal the runner soon after a stage began; its exit status, output and errors."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(f"{stage}: "):
            break
    else:
        pytest.fail("the stage never began:\n" + "".join(seen))
    # Every stage takes longer than this for its samples, if not for its imports.
    time.sleep(delay)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize(
    ("engine", "stage"),
    [
        ("process", "torch"),
        ("process", "tflite"),
        pytest.param("docker", "onnx-tf", marks=DOCKER.marks),
    ],
)
def test_in_a_stage(models: Path, tmp_path: Path, engine: str, stage: str, number: int) -> None:
    folder = tmp_path / "out"
    code, output, errors = interrupt(start(models / "cnn.pt", folder, engine), stage, number)
    assert code == INTERRUPTED, output + errors
    report = json.loads((folder / "report.json").read_text())
    assert (report["outcome"], report["exit_code"]) == ("interrupted", INTERRUPTED)
    position = STAGES.index(stage)
    expected = ["ok"] * position + ["interrupted"] + ["skipped"] * (2 - position)
    assert [record["status"] for record in report["stages"]] == expected
    page = check((folder / "report.html").read_text(encoding="utf-8"))
    assert f"was interrupted during the stage {stage}" in page.all("h1")[0].words
    # What was finished is kept whole; the log of what was not is kept too.
    artifacts = {path.name for path in folder.glob("model.*")}
    assert artifacts == {file["path"] for file in report["artifacts"]}
    assert len(artifacts) == position
    assert (folder / f"logs/{stage}.log").exists()
    assert leftovers(tmp_path) == []
    assert processes(str(folder)) == []
    assert "Traceback" not in errors and "Interrupted" in output + errors
    if engine == "docker":
        assert docker_leftovers(report["run"]) == ""


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.4])
def test_in_the_set_up(models: Path, tmp_path: Path, delay: float) -> None:
    """While environments are being installed, no half of one stays, and no other is begun."""
    folder, cache = tmp_path / "out", tmp_path / "cache"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "runner", "convert", "--model", str(models / "cnn.pt")),
            *("--output", str(folder), "--engine", "process"),
        ],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "RUNNER_CACHE_DIR": str(cache)},
    )
    code, output, errors = interrupt(process, "Setting up", signal.SIGTERM, delay)
    assert code == INTERRUPTED, output + errors
    assert not folder.exists()
    assert processes(str(cache)) == []
    left = [path for path in cache.glob("environments/*") if path.suffix != ".lock"]
    # None is half there. Some may be whole: unpacking the smallest takes less than a second.
    assert [path.name for path in left if not is_whole(path)] == []


def is_whole(folder: Path) -> bool:
    """Tell whether every package of its image's lock is in an environment's folder."""
    image = load_image(folder.name.rsplit("-", 2)[0])
    pins = re.findall(r"^\S+(?===| @ )", image.render_requirements(), re.MULTILINE)
    return len(list(folder.glob("lib/*/site-packages/*.dist-info"))) == len(pins)
