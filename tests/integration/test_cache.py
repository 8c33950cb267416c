"""The cache of finished stages: what is unchanged is not made again, and what changed is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    ARTIFACTS,
    BAD_INPUT,
    DOCKER,
    PASSED,
    STAGES,
    USER_CODE,
    Run,
    docker_leftovers,
    run_cli,
)

from runner.host.paths import cache_folder
from runner.host.process_identity import get_process_id

Cached = Callable[..., Run]


@pytest.fixture
def cached(tmp_path: Path, models: Path, pythons: dict[str, Path]) -> Cached:
    """Convert with a cache of the test's own, and the environments that are there anyway."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "environments").symlink_to(cache_folder() / "environments")
    environment = {"RUNNER_CACHE_DIR": str(folder), "RUNNER_STAGE_CACHE": "1"}

    def run(
        *options: str | Path,
        model: Path = models / "cnn.pt",
        engine: str = "process",
        **more: str,
    ) -> Run:
        output = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        given = () if "--inputs" in options or "--samples" in options else ("--samples", "8")
        done = run_cli(
            *("convert", "--model", model, "--output", output, "--engine", engine),
            *(*given, *options),
            cwd=tmp_path,
            environment={**environment, **more},
        )
        return Run(done.returncode, done.stdout, done.stderr, output)

    return run


def taken(run: Run) -> list[str]:
    """The stages that a run took from the cache."""
    return [stage["name"] for stage in run.report["stages"] if stage["cached"]]


def statistics(run: Run) -> list[Any]:
    return [stage["report"]["check"]["outputs"] for stage in run.report["stages"]]


@pytest.mark.parametrize("engine", ["process", DOCKER])
def test_a_second_run_takes_every_stage(cached: Cached, engine: str) -> None:
    first, second = cached(engine=engine), cached(engine=engine)
    assert (first.code, second.code) == (PASSED, PASSED), second.stdout + second.stderr
    assert taken(first) == [] and taken(second) == list(STAGES)
    assert second.hashes == first.hashes
    assert statistics(second) == statistics(first)
    made_by = {stage["cached"] for stage in second.report["stages"]}
    assert made_by == {first.report["run"]}
    assert any("Taken from the cache" in note for note in second.report["notes"])
    for stage in STAGES:
        log = f"logs/{stage}.log"
        assert (second.folder / log).read_bytes() == (first.folder / log).read_bytes()
    # Engines do not take each other's: that they agree is for the tests to show.
    if engine == "docker":
        assert taken(cached(engine="process")) == []
        assert docker_leftovers(second.report["run"]) == ""


def test_a_run_that_failed_is_taken_up_where_it_failed(cached: Cached) -> None:
    failed = cached("--option", "tflite.flex=perhaps")
    assert failed.code == BAD_INPUT
    run, alone = cached(), cached("--no-cache")
    assert (run.code, alone.code) == (PASSED, PASSED), run.stdout + run.stderr
    assert taken(run) == ["torch", "onnx-tf"] and taken(alone) == []
    # The samples were made again, for the last stage alone: with them, the error is the same.
    assert run.hashes == alone.hashes
    assert statistics(run) == statistics(alone)


def test_with_samples_of_the_users_own(cached: Cached, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.npy"
    np.save(inputs, np.random.default_rng(0).standard_normal((5, 1, 3, 32, 32), dtype=np.float32))
    failed = cached("--inputs", inputs, "--option", "tflite.flex=perhaps")
    assert failed.code == BAD_INPUT
    run, alone = cached("--inputs", inputs), cached("--inputs", inputs, "--no-cache")
    assert taken(run) == ["torch", "onnx-tf"], run.stdout + run.stderr
    assert statistics(run) == statistics(alone)
    # Other values in a file of the same name are other samples.
    np.save(inputs, np.zeros((5, 1, 3, 32, 32), np.float32))
    assert taken(cached("--inputs", inputs)) == []


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (("--seed", "1"), []),
        (("--samples", "9"), []),
        (("--opset", "10"), []),
        (("--tolerance", "1e-5"), []),
        (("--faithful",), []),
        (("--io-layout", "nhwc"), ["torch"]),
        (("--option", "tflite.flex=false"), ["torch", "onnx-tf"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_changed_option_is_another_run(
    cached: Cached, change: tuple[str, ...], left: list[str]
) -> None:
    assert cached().code == PASSED
    assert taken(cached(*change)) == left


def test_a_changed_model_or_its_code_is_another_run(
    cached: Cached, models: Path, tmp_path: Path
) -> None:
    code, weights = tmp_path / "user_code.py", tmp_path / "model.pt"
    shutil.copyfile(USER_CODE, code)
    shutil.copyfile(models / "zip_weights.pt", weights)
    options = ("--arch", f"{code}:OwnNet", "--input", "1x3x16x16")
    assert cached(*options, model=weights).code == PASSED
    assert taken(cached(*options, model=weights)) == list(STAGES)
    code.write_text(code.read_text() + "\n# changed\n")
    assert taken(cached(*options, model=weights)) == []
    shutil.copyfile(models / "weights.pt", weights)
    arguments = ("--arch-args", '{"classes": 7}')
    assert taken(cached(*options, *arguments, model=weights)) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "index", "remove"])
def test_a_damaged_entry_is_made_anew(cached: Cached, tmp_path: Path, damage: str) -> None:
    first = cached()
    (artifact,) = (tmp_path / "cache" / "stages").glob("*/files/model.pb")
    if damage == "flip":
        content = bytearray(artifact.read_bytes())
        content[len(content) // 2] ^= 1
        artifact.write_bytes(content)
    elif damage == "cut":
        artifact.write_bytes(artifact.read_bytes()[:-1])
    elif damage == "remove":
        artifact.unlink()
    else:
        (artifact.parents[1] / "index.json").write_text('{"format": 1, "files"')
    second = cached()
    assert second.code == PASSED, second.stdout + second.stderr
    # The stage after it has the same input as before, so its entry holds.
    assert taken(second) == ["torch", "tflite"]
    assert second.hashes == first.hashes
    assert taken(cached()) == list(STAGES)


def test_the_cache_is_bounded(cached: Cached, tmp_path: Path) -> None:
    run = cached(RUNNER_CACHE_BYTES="1")
    assert run.code == PASSED
    assert list((tmp_path / "cache" / "stages").glob("[0-9a-f]*")) == []
    assert taken(cached(RUNNER_CACHE_BYTES="1")) == []


def test_it_is_listed_and_emptied(cached: Cached, tmp_path: Path) -> None:
    run = cached()
    environment = {"RUNNER_CACHE_DIR": str(tmp_path / "cache")}
    listed = run_cli("cache", "--json", cwd=tmp_path, environment=environment)
    rows = json.loads(listed.stdout)
    assert [row["stage"] for row in rows] == list(reversed(STAGES))
    assert {row["made by"] for row in rows} == {run.report["run"]}
    shown = run_cli("cache", cwd=tmp_path, environment=environment)
    assert shown.returncode == 0 and "at most" in shown.stdout
    cleaned = run_cli("clean", cwd=tmp_path, environment=environment)
    assert cleaned.returncode == 0 and "freed" in cleaned.stdout, cleaned.stderr
    assert (
        json.loads(run_cli("cache", "--json", cwd=tmp_path, environment=environment).stdout) == []
    )
    # The artifacts of runs are their own.
    assert all((run.folder / name).is_file() for name in ARTIFACTS)
    assert taken(cached()) == []


def test_only_what_is_the_runners_is_removed(tmp_path: Path) -> None:
    """The folder may be one that the user keeps other things in."""
    stages, environments = tmp_path / "stages", tmp_path / "environments"
    key = "0123456789abcdef"
    # Of a process that is none: no id is that large.
    draft = f".{key * 4}.9999999-1-{get_process_id().split('-')[2]}.part"
    gone = [
        *(stages / (key * 4), stages / draft),
        *(
            environments / f"torch-1-{key}",
            environments / f".tflite-1-{key}.part",
            environments / f".tflite-1-{key}.part.txt",
        ),
    ]
    stay = [stages / "torch", stages / ".mine.part", environments / "lab", environments / ".x.part"]
    for folder in gone + stay:
        folder.mkdir(parents=True)
        (folder / "a file").write_text("of somebody's")
    environment = {"RUNNER_CACHE_DIR": str(tmp_path)}
    kept = run_cli("clean", "--keep-cache", cwd=tmp_path, environment=environment)
    assert kept.returncode == 0, kept.stderr
    assert [folder.exists() for folder in gone] == [True, False, True, False, False]
    cleaned = run_cli("clean", "--environments", cwd=tmp_path, environment=environment)
    assert cleaned.returncode == 0, cleaned.stderr
    assert [folder for folder in gone if folder.exists()] == []
    assert [folder for folder in stay if not (folder / "a file").exists()] == []


def test_a_cache_that_cannot_be_written_is_no_failure(cached: Cached, tmp_path: Path) -> None:
    (tmp_path / "cache" / "stages").write_text("a file in the way")
    assert cached().code == PASSED


@pytest.mark.docker
def test_what_a_killed_runner_leaves_is_found(models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runner", "convert", "--model", str(models / "cnn.pt")]
    command += ["--output", str(tmp_path / "out"), "--engine", "docker"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("onnx-tf: "):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    listed = ["docker", "volume", "ls", "--quiet", "--filter", "label=org.runner.run"]
    time.sleep(0.2)
    before = subprocess.run(listed, text=True, capture_output=True, check=True).stdout.split()
    mine = [name for name in before if name.startswith("runner-cnn-")]
    assert mine
    cleaned = run_cli("clean", cwd=tmp_path, environment={"RUNNER_CACHE_DIR": str(tmp_path / "c")})
    assert cleaned.returncode == 0
    for name in mine:
        assert f"removed: volume {name}" in cleaned.stdout
        assert docker_leftovers(name.removeprefix("runner-")) == ""
