"""`runner compare`: any two formats on the same inputs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    BAD_INPUT,
    DOCKER,
    ENVIRONMENT,
    OUT_OF_TOLERANCE,
    PASSED,
    USER_CODE,
    VACUOUS,
    Convert,
    Run,
    docker_leftovers,
    leftovers,
    run_cli,
    run_here,
)

from runner.schemas.report import Report

# A .pt is its own example; the rest are the artifacts of its conversion.
ENDS = ("cnn.pt", "model.onnx", "model.pb", "model.tflite")


def compare(
    folder: Path, first: Path, second: Path, *options: str | Path, engine: str = "process"
) -> Run:
    samples = () if {"--samples", "--inputs"} & set(options) else ("--samples", "6")
    done = run_cli(
        *("compare", first, second, "--output", folder / "run", "--engine", engine),
        *samples,
        *options,
        cwd=folder,
    )
    assert "Traceback" not in done.stderr
    return Run(done.returncode, done.stdout, done.stderr, folder / "run")


def check_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.report["stages"][1]["report"]["check"]
    return found


@pytest.mark.parametrize(
    ("first", "second", "engine"),
    [
        (0, 1, "process"),
        (1, 2, "process"),
        (2, 3, "process"),
        (3, 0, "process"),
        pytest.param(0, 3, "docker", marks=DOCKER.marks),
    ],
)
def test_formats_agree_with_what_they_were_made_of(
    convert: Convert, models: Path, tmp_path: Path, first: int, second: int, engine: str
) -> None:
    made = convert("cnn").folder
    files = [models / "cnn.pt", *(made / name for name in ENDS[1:])]
    run = compare(tmp_path, files[first], files[second], engine=engine)
    assert run.code == PASSED, run.stdout + run.stderr
    report = Report.model_validate_json((run.folder / "report.json").read_text())
    assert [stage.name for stage in report.stages] == ["reference", "compared"]
    assert (report.model.name, report.reference) == (ENDS[first], ENDS[first])
    assert report.options["compared_with"] == ENDS[second]
    (output,) = check_of(run)["outputs"]
    assert output["samples"] == 6
    assert output["mean_abs"] < 1e-6 and output["reference_sample_std"] > 0.01
    assert report.gate.value == output["mean_abs"]
    assert "agree within tolerance" in run.stdout and "Converted" not in run.stdout
    assert (run.folder / "logs/compared.log").exists()
    assert not leftovers(run.folder)
    if engine == "docker":
        assert not docker_leftovers(report.run)


def test_channels_are_moved_where_the_shapes_say_so(
    newer: Path, models: Path, tmp_path: Path
) -> None:
    """onnx2tf's models are given NHWC; a .pt has no shape of its own, and takes the other's."""
    run = compare(tmp_path, newer / "cnn.onnx", newer / "cnn.onnx2tf.tflite")
    assert run.code == PASSED, run.stdout + run.stderr
    (note,) = (n for n in run.report["notes"] if "transposed" in n)
    assert "(1x3x32x32)" in note and "(1x32x32x3)" in note
    assert check_of(run)["outputs"][0]["mean_abs"] < 1e-6
    pair = json.loads((run.folder / "comparison.json").read_text())["inputs"][0]
    assert (pair["axes"], pair["by_name"]) == ([0, 2, 3, 1], True)
    other = tmp_path / "other"
    other.mkdir()
    back = compare(other, newer / "cnn.onnx2tf.tflite", models / "script.pt")
    assert back.code == PASSED, back.stdout + back.stderr
    assert any("transposed" in note for note in back.report["notes"])


def test_a_graph_of_a_gpu_against_one_of_a_cpu(foreign: Path, tmp_path: Path) -> None:
    """NCHW, which no CPU runs, on both sides; the outputs are turned as well."""
    for first, second in (("NCHW", "NHWC"), ("NHWC", "NCHW")):
        folder = tmp_path / first
        folder.mkdir()
        run = compare(folder, foreign / f"{first}.pb", foreign / f"{second}.pb")
        assert run.code == PASSED, run.stdout + run.stderr
        assert any("Grappler" in note for note in run.report["notes"])
        assert sum("transposed" in note for note in run.report["notes"]) == 2
        (output,) = check_of(run)["outputs"]
        assert output["max_abs"] < 1e-5 and output["reference_sample_std"] > 1
        # NHWC runs on a CPU, and so in float64 too.
        assert (output["noise_floor"] is not None) is (first == "NHWC")


def test_the_other_models_shape_is_taken_where_the_file_has_none(
    newer: Path, models: Path, tmp_path: Path
) -> None:
    run = compare(tmp_path, models / "cnn.pt", newer / "cnn.onnx2tf.tflite")
    assert run.code == PASSED, run.stdout + run.stderr
    assert "Inputs as the other model has them: input 1x3x32x32." in run.report["notes"]


def test_models_that_differ(foreign: Path, tmp_path: Path) -> None:
    """int8 against float32: out of tolerance, within a wider one, with the quantising told."""
    run = compare(tmp_path, foreign / "keras.tflite", foreign / "int8.tflite")
    assert run.code == OUT_OF_TOLERANCE, run.stdout + run.stderr
    (output,) = check_of(run)["outputs"]
    assert output["verdict"] == "exceeded"
    assert 1e-4 < output["mean_abs"] < 0.1 * output["reference_std"]
    assert any("quantised" in note for note in run.report["notes"])
    assert "differ by more than the tolerance" in run.stdout
    wider = tmp_path / "wider"
    wider.mkdir()
    tolerance = str(output["reference_sample_std"] / 11)
    assert compare(
        wider, foreign / "keras.pb", foreign / "int8.tflite", "--tolerance", tolerance
    ).code == (PASSED)


def test_outputs_go_by_name_and_then_by_place(foreign: Path, tmp_path: Path) -> None:
    for number, (other, told) in enumerate({"ba": 0, "cd": 2}.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = compare(folder, foreign / "ab.onnx", foreign / f"{other}.onnx")
        assert run.code == PASSED, run.stdout + run.stderr
        assert [output["name"] for output in check_of(run)["outputs"]] == ["a", "b"]
        assert sum("by its place" in note for note in run.report["notes"]) == told


def test_an_output_that_only_one_model_has_is_named(foreign: Path, tmp_path: Path) -> None:
    for number, (first, second) in enumerate((("ab", "a"), ("a", "ab"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = compare(folder, foreign / f"{first}.onnx", foreign / f"{second}.onnx")
        assert run.code == PASSED, run.stdout + run.stderr
        assert [output["name"] for output in check_of(run)["outputs"]] == ["a"]
        assert any("NOT compared" in n and "'b' (1x5)" in n for n in run.report["notes"])


def test_no_common_outputs_is_an_error(foreign: Path, tmp_path: Path) -> None:
    run = compare(tmp_path, foreign / "ab.onnx", foreign / "others.onnx")
    assert run.code == BAD_INPUT
    failure = run.report["stages"][1]["failure"]
    assert "no common outputs" in failure and "'a' (1x4)" in failure and "'t' (1x9)" in failure
    assert run.report["gate"]["verdict"] is None


def test_an_output_of_another_shape_never_passes(foreign: Path, tmp_path: Path) -> None:
    run = compare(tmp_path, foreign / "a.onnx", foreign / "wide.onnx")
    assert run.code == OUT_OF_TOLERANCE
    assert check_of(run)["verdict"] == "shape"


def test_inputs_that_do_not_match_are_an_error(foreign: Path, tmp_path: Path) -> None:
    run = compare(tmp_path, foreign / "keras.pb", foreign / "a.onnx")
    assert run.code == BAD_INPUT
    assert "matches none of the first model's" in run.report["stages"][1]["failure"]


def test_a_reference_that_hardly_varies_proves_nothing(models: Path, tmp_path: Path) -> None:
    run = compare(tmp_path, models / "vacuous.pt", models / "vacuous.pt")
    assert run.code == VACUOUS, run.stdout + run.stderr
    assert "proves nothing" in run.stdout


def test_the_users_own_samples(foreign: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(size=(3, 8)).astype("float32"))
    run = compare(
        tmp_path, foreign / "a.onnx", foreign / "ab.onnx", "--inputs", tmp_path / "own.npy"
    )
    assert run.code == PASSED, run.stdout + run.stderr
    assert check_of(run)["samples"] == 3


def test_a_model_that_needs_its_code(models: Path, tmp_path: Path) -> None:
    arguments = ("--arch", f"{USER_CODE}:OwnNet", "--arch-args", '{"classes": 7}')
    run = compare(tmp_path, models / "weights.pt", models / "weights.pt", *arguments)
    assert run.code == PASSED, run.stdout + run.stderr


def test_a_file_of_a_newer_runtime(newer: Path, tmp_path: Path) -> None:
    run = compare(tmp_path, newer / "gelu.onnx2tf.tflite", newer / "gelu.onnx2tf.tflite")
    assert run.code == BAD_INPUT
    record = run.report["stages"][0]
    assert "does not know the operator of code 150" in record["failure"]
    assert "newer runtime" in record["remedy"]
    assert run.report["stages"][1]["status"] == "skipped"


BAD = {
    "newest.onnx": "operator set 24",
    "keras.h5": "Keras model",
    "saved": "SavedModel",
    "calls.pt": "posix.system",
    "nothing": "There is no file",
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_run_is_refused_at_once(
    newer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for files in ((name, "a.onnx"), ("a.onnx", name)):
        arguments = [newer / file for file in files]
        done = run_here(capsys, "compare", *arguments, cwd=tmp_path)
        assert done.returncode == BAD_INPUT
        assert BAD[name] in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_an_environment(foreign: Path, tmp_path: Path) -> None:
    done = run_cli(
        *("compare", foreign / "a.onnx", foreign / "ab.onnx", "--engine", "docker"),
        cwd=tmp_path,
        environment={"DOCKER_HOST": f"unix://{tmp_path}/nothing.sock"},
    )
    assert done.returncode == ENVIRONMENT
    assert isinstance(done, subprocess.CompletedProcess) and "No Docker engine" in done.stderr
