"""How runs end other than well: each exit code, what is kept, and what is said."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from harness import (
    ENGINES,
    ENVIRONMENT,
    OUT_OF_TOLERANCE,
    PASSED,
    RECORD,
    STAGE_FAILED,
    VACUOUS,
    Convert,
    docker_leftovers,
    leftovers,
    run_cli,
    sha256,
)

DEAD = "unix:///nowhere/docker.sock"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestStageFailed:
    @pytest.mark.parametrize("engine", ENGINES)
    def test_first_stage(self, convert: Convert, engine: str) -> None:
        run = convert("inverse", engine=engine)
        assert run.code == STAGE_FAILED, run.stdout
        assert [s["status"] for s in run.report["stages"]] == ["failed", "skipped", "skipped"]
        assert "inverse" in run.stage("torch")["failure"]
        assert run.stage("torch")["report"]["error"]["blame"] == "stage"
        assert files(run.folder) == RECORD | {"logs/torch.log"}
        assert "Traceback" in (run.folder / "logs/torch.log").read_text()
        assert run.report["artifacts"] == []
        assert run.report["gate"]["verdict"] is None
        assert "logs/torch.log" in run.stdout and "Not converted" in run.stdout
        assert leftovers(run.folder) == []
        if engine == "docker":
            assert docker_leftovers(run.report["run"]) == ""

    def test_later_stage_keeps_what_was_made(self, convert: Convert) -> None:
        """RoiAlign is no operator of onnx-tf's."""
        run = convert("roi")
        assert run.code == STAGE_FAILED, run.stdout
        assert [s["status"] for s in run.report["stages"]] == ["ok", "failed", "skipped"]
        assert "RoiAlign" in run.stage("onnx-tf")["failure"]
        kept = RECORD | {"logs/torch.log", "logs/onnx-tf.log", "model.onnx"}
        assert files(run.folder) == kept
        (artifact,) = run.report["artifacts"]
        assert artifact["sha256"] == sha256(run.folder / "model.onnx")
        assert run.outputs("torch")[0]["verdict"] == "passed"

    @pytest.mark.parametrize("engine", ENGINES)
    def test_stage_that_is_killed(self, convert: Convert, engine: str) -> None:
        run = convert("dies", engine=engine)
        assert run.code == STAGE_FAILED
        stage = run.stage("torch")
        assert re.search("ended by (SIGKILL|signal 9)", stage["failure"])
        assert stage["report"] is None and stage["exit_status"] in (-9, 137)
        assert leftovers(run.folder) == []
        if engine == "docker":
            assert docker_leftovers(run.report["run"]) == ""

    def test_quiet_says_why(self, convert: Convert) -> None:
        run = convert("inverse", "--quiet")
        assert run.stdout == "" and "torch: " in run.stderr and "inverse" in run.stderr


class TestOutOfTolerance:
    @pytest.mark.parametrize("engine", ENGINES)
    def test_a_tolerance_below_rounding(self, convert: Convert, engine: str) -> None:
        run = convert("cnn", "--tolerance", "1e-12", "--strict", engine=engine)
        assert run.code == OUT_OF_TOLERANCE
        assert run.report["outcome"] == "out-of-tolerance"
        assert run.report["gate"]["verdict"] == "exceeded"
        assert run.report["gate"]["value"] > 1e-12
        # The model is there all the same, and is the same.
        assert run.hashes == convert("cnn").hashes
        assert "float32 rounding" in " ".join(run.stdout.split())
        (output,) = run.outputs("tflite")
        assert output["mean_abs"] < output["passing_tolerance"] < 1.0001 * output["mean_abs"]

    def test_a_conversion_that_is_wrong(self, convert: Convert) -> None:
        """Tracing kept one of two branches: a real fault, which is never to pass."""
        run = convert("branches", "--samples", "40")
        assert run.code == OUT_OF_TOLERANCE, run.stdout
        assert [run.outputs(s)[0]["verdict"] for s in ("torch", "onnx-tf", "tflite")] == (
            ["exceeded"] * 3
        )
        assert run.report["gate"]["value"] > 0.01
        assert "times PyTorch's own float32 rounding" in " ".join(run.stdout.split())
        worst = run.outputs("tflite")[0]["worst_samples"]
        assert len(worst) == 5 and worst[0]["max_abs"] >= worst[4]["max_abs"] > 0.1

    def test_the_tolerance_that_would_have_passed_does(self, convert: Convert) -> None:
        (output,) = convert("cnn").outputs("tflite")
        enough = repr(output["passing_tolerance"])
        assert convert("cnn", "--tolerance", enough).code == PASSED

    def test_nan(self, convert: Convert) -> None:
        run = convert("nan")
        assert run.code == OUT_OF_TOLERANCE
        assert run.report["gate"]["verdict"] == "nonfinite"
        assert run.outputs("tflite")[0]["reference_nonfinite"] == 8 * 8
        assert "PyTorch's own outputs hold NaN" in " ".join(run.stdout.split())


def test_infinities_that_pytorch_has_too_are_equal(convert: Convert) -> None:
    run = convert("masked")
    assert run.code == PASSED, run.stdout
    for stage in ("torch", "onnx-tf", "tflite"):
        (output,) = run.outputs(stage)
        assert 0 < output["equal_infinities"] < 8 * 8
        assert output["nonfinite"] == output["reference_nonfinite"] == 0
        assert output["mean_abs"] < 1e-6


class TestStress:
    """Inputs of other magnitudes, which no gate judges."""

    def test_a_formula_that_overflows_is_warned_of(self, convert: Convert) -> None:
        run = convert("log_sigmoid", "--fixes=-stable-formulas")
        assert run.code == PASSED, run.stdout
        warnings = [note for note in run.report["notes"] if note.startswith("Warning: ")]
        assert len(warnings) == 1, run.report["notes"]
        assert warnings[0].startswith("Warning: with inputs 10000 times as large, the output")
        assert "holds NaN or infinity where PyTorch's does not" in warnings[0]
        assert warnings[0] in " ".join(run.stdout.split())

    @pytest.mark.parametrize("name", ["log_sigmoid", "cnn", "lstm", "two"])
    def test_a_model_that_is_right_is_not(self, convert: Convert, name: str) -> None:
        run = convert(name)
        assert run.code == PASSED, run.stdout
        assert not any("Warning" in note for note in run.report["notes"])
        for stage in ("torch", "onnx-tf", "tflite"):
            check = run.stage(stage)["report"]["check"]
            found = {stress["magnitude"] for stress in check["stress"]}
            assert found == {1e-3, 1e2, 1e4}

    def test_only_inputs_of_any_size_are_scaled(self, convert: Convert) -> None:
        stages = convert("ids").report["stages"]
        assert all(not stage["report"]["check"]["stress"] for stage in stages)


@pytest.mark.parametrize("name", ["vacuous", "ignores"])
def test_vacuous(convert: Convert, name: str) -> None:
    run = convert(name)
    assert run.code == VACUOUS
    assert run.report["outcome"] == "vacuous"
    assert "proves nothing" in run.stdout
    assert "check the weights" in " ".join(run.stdout.split())
    assert run.hashes["model.tflite"]


class TestEnvironment:
    """Exit code 6, or another engine."""

    def test_no_docker_engine(self, models: Path, tmp_path: Path) -> None:
        finished = run_cli(
            *("convert", "--model", models / "cnn.pt", "--engine", "docker"),
            cwd=tmp_path,
            environment={"DOCKER_HOST": DEAD},
        )
        assert finished.returncode == ENVIRONMENT
        assert "No Docker engine answers" in finished.stderr
        assert "→" in finished.stderr and "--engine process" in finished.stderr
        assert list(tmp_path.iterdir()) == []

    def test_auto_falls_back_and_says_why(self, convert: Convert) -> None:
        run = convert("cnn", engine="auto", environment={"DOCKER_HOST": DEAD})
        assert run.code == PASSED, run.stderr
        assert run.report["engine"]["name"] == "process"
        assert "No Docker engine answers" in run.report["engine"]["reason"]
        assert "Engine: process (No Docker engine answers" in run.stdout

    @pytest.mark.docker
    def test_auto_takes_docker(self, convert: Convert) -> None:
        convert("cnn", engine="docker")  # builds what is missing
        run = convert("cnn", engine="auto")
        assert run.code == PASSED
        assert run.report["engine"]["name"] == "docker"
        assert "a Docker engine answers" in run.report["engine"]["reason"]

    @pytest.fixture
    def cold(self, tmp_path: Path) -> dict[str, str]:
        """A machine that has nothing yet, and no package index."""
        return {
            "RUNNER_CACHE_DIR": str(tmp_path / "cache"),
            "UV_CACHE_DIR": str(tmp_path / "uv"),
            "UV_HTTP_RETRIES": "0",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_FIND_LINKS": "",
            "PIP_EXTRA_INDEX_URL": "",
            "DOCKER_HOST": DEAD,
        }

    @pytest.mark.parametrize("engine", ["process", "auto"])
    def test_no_package_index(
        self, models: Path, tmp_path: Path, cold: dict[str, str], engine: str
    ) -> None:
        finished = run_cli(
            *("convert", "--model", models / "cnn.pt", "--engine", engine),
            *("--output", tmp_path / "out"),
            cwd=tmp_path,
            environment=cold,
        )
        assert finished.returncode == ENVIRONMENT, finished.stderr
        assert "could not be installed" in finished.stderr
        assert "→ Check the network and the package index" in finished.stderr
        assert "Traceback" not in finished.stderr
        assert not (tmp_path / "out").exists()
        left = {path.name for path in (tmp_path / "cache" / "environments").iterdir()}
        assert not [name for name in left if not name.endswith(".lock")]

    def test_no_interpreter(self, tmp_path: Path, cold: dict[str, str], models: Path) -> None:
        """Neither on PATH, nor pyenv's, nor uv's, which cannot download one either."""
        nowhere = {
            "PATH": "/nowhere",
            "PYENV_ROOT": str(tmp_path / "pyenv"),
            "UV_PYTHON_INSTALL_DIR": str(tmp_path / "pythons"),
            "UV_PYTHON_INSTALL_MIRROR": "http://127.0.0.1:9",
        }
        finished = run_cli(
            *("convert", "--model", models / "cnn.pt", "--engine", "process"),
            cwd=tmp_path,
            environment={**cold, **nowhere},
        )
        assert finished.returncode == ENVIRONMENT, finished.stderr
        assert "CPython 3.8 is not on this machine" in finished.stderr
        assert "→ Install it" in finished.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
    def test_disk_full(self, models: Path, tmp_path: Path) -> None:
        """Not simulated: the samples fit on the disk, and the artifacts do not."""
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=88k", "tmpfs", str(disk)], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("this machine mounts nothing")
        try:
            finished = run_cli(
                *("convert", "--model", models / "cnn.pt", "--engine", "process"),
                *("--output", disk / "out", "--samples", "2"),
                cwd=tmp_path,
            )
            left = list(disk.rglob("*.part"))
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        assert finished.returncode in (STAGE_FAILED, ENVIRONMENT), finished.stdout
        said = finished.stdout + finished.stderr
        assert "No space left on device" in " ".join(said.split())
        assert "This is a defect" not in said
        assert left == []


@pytest.mark.docker
def test_both_engines_say_the_same_of_a_failure(convert: Convert) -> None:
    ours, theirs = convert("inverse"), convert("inverse", engine="docker")
    assert ours.stage("torch")["failure"] == theirs.stage("torch")["failure"]
