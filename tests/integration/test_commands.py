"""The commands besides `convert`, and what is shown of a run."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from harness import ENVIRONMENT, STAGES, Convert, run_cli
from rich.console import Console

import runner
from runner.cli.summary import render_summary
from runner.schemas.report import Report
from runner.toolchains.load import load_all_images

DEAD = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


def test_version_and_help(tmp_path: Path) -> None:
    assert run_cli("--version", cwd=tmp_path).stdout.strip() == runner.__version__
    shown = run_cli("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for command in ("convert", "lock", "stages", "doctor", "images"):
        assert command in shown.stdout
    shown = run_cli("convert", "--help", cwd=tmp_path)
    for option in ("--model", "--input", "--tolerance", "--wheel", "--engine"):
        assert option in shown.stdout


def test_stages(tmp_path: Path) -> None:
    listed = json.loads(run_cli("stages", "--json", cwd=tmp_path).stdout)
    assert tuple(row["stage"] for row in listed) == STAGES
    # Each consumes what the one before it makes.
    products = [row["produces"] for row in listed]
    assert [row["consumes"] for row in listed] == ["model.pt", *products[:-1]]
    shown = run_cli("stages", cwd=tmp_path)
    assert shown.returncode == 0 and all(stage in shown.stdout for stage in STAGES)


def test_images_list(tmp_path: Path, convert: Convert) -> None:
    convert("cnn")  # so that the environments are there
    finished = run_cli("images", "list", "--json", cwd=tmp_path, environment=DEAD)
    assert finished.returncode == 0, finished.stderr
    rows = {row["image"]: row for row in json.loads(finished.stdout)}
    assert set(rows) == {image.title for image in load_all_images()}
    for image in load_all_images():
        row = rows[image.title]
        assert row["lock"] == image.lock_sha256[:12]
        assert row["docker"] == "no engine"
        # A run of the default toolchain installs its own environments and no other's.
        if image.title in STAGES:
            assert row["process"] == "installed"
    shown = run_cli("images", "list", cwd=tmp_path, environment=DEAD).stdout
    assert "tf-nightly==2.4.0.dev20200923" in " ".join(shown.split())
    assert "…" not in shown


@pytest.mark.docker
def test_images_list_names_what_is_built(tmp_path: Path, convert: Convert) -> None:
    identity = convert("cnn", engine="docker").stage("tflite")["environment"]["identity"]
    rows = json.loads(run_cli("images", "list", "--json", cwd=tmp_path).stdout)
    (row,) = (row for row in rows if row["image"] == "tflite")
    assert identity.removeprefix("sha256:").startswith(row["docker"])


@pytest.mark.parametrize("engine", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_images_build_of_what_is_there(tmp_path: Path, convert: Convert, engine: str) -> None:
    identity = convert("cnn", engine=engine).stage("tflite")["environment"]["identity"]
    finished = run_cli("images", "build", "tflite", "--engine", engine, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["tflite:", identity]
    unknown = run_cli("images", "build", "jax", "--engine", engine, cwd=tmp_path)
    assert (
        unknown.returncode == 2
        and "Known images: ai-edge-quantizer-0.10, litert, " in unknown.stderr
    )


@pytest.mark.docker
def test_doctor(tmp_path: Path) -> None:
    finished = run_cli("doctor", "--json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout
    findings = {finding["topic"]: finding for finding in json.loads(finished.stdout)}
    assert findings["docker"]["level"] == "ok"
    assert "takes docker" in findings["engine"]["message"]
    assert "CPython 3.8" in findings["process engine"]["message"]


def test_doctor_without_docker(tmp_path: Path) -> None:
    finished = run_cli("doctor", "--json", cwd=tmp_path, environment=DEAD)
    assert finished.returncode == 0, finished.stdout
    findings = {finding["topic"]: finding for finding in json.loads(finished.stdout)}
    assert findings["docker"]["level"] == "warning" and findings["docker"]["remedy"]
    assert "takes process" in findings["engine"]["message"]


def test_doctor_without_anything(tmp_path: Path) -> None:
    nothing = {
        **DEAD,
        "PATH": "/nowhere",
        "PYENV_ROOT": str(tmp_path),
        "RUNNER_CACHE_DIR": str(tmp_path / "cache"),
        "UV_PYTHON_INSTALL_DIR": str(tmp_path / "pythons"),
        "UV_PYTHON_INSTALL_MIRROR": "http://127.0.0.1:9",
        "UV_HTTP_RETRIES": "0",
    }
    finished = run_cli("doctor", cwd=tmp_path, environment=nothing)
    assert finished.returncode == ENVIRONMENT, finished.stdout
    assert "Neither engine can serve" in finished.stdout and "→" in finished.stdout


def shown(report: Report, width: int = 80) -> str:
    """The summary of a run as a terminal of this width shows it."""
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(render_summary(report, Path("runs/x")))
    return console.export_text()


# The model, and what a person must be able to read off a terminal of 80 columns.
SUMMARIES = {
    "cnn": ("passed", "Converted, within tolerance", "mean_abs = ", "model.tflite", "stand-in for"),
    "vacuous": ("vacuous", "proves nothing", "check the weights"),
    "nan": ("NaN", "PyTorch's own outputs hold NaN", "model.tflite"),
    "branches": ("exceeded", "out of tolerance", "times PyTorch's own float32 rounding"),
    "inverse": ("failed", "skipped", "Not converted", "logs/torch.log", "inverse"),
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_summary(convert: Convert, name: str) -> None:
    run = convert(name)
    report = Report.model_validate_json((run.folder / "report.json").read_text())
    text = shown(report)
    for words in SUMMARIES[name]:
        assert words in " ".join(text.split())
    assert "…" not in text, text
    assert max(map(len, text.splitlines())) <= 80
    table = re.findall(r"^ ?(torch|onnx-tf|tflite) .*$", text, re.MULTILINE)
    assert table[:3] == list(STAGES)


def test_report_reads_back_as_it_was_written(convert: Convert) -> None:
    text = (convert("cnn").folder / "report.json").read_text()
    assert Report.model_validate_json(text).to_json() == text
