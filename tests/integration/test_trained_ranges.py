"""A network that was trained for int8 enters, and its trained ranges become those of int8."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from harness import BAD_INPUT, PASSED, SUPPORT, Run, run_cli

NET = SUPPORT / "trained.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    done = in_environment("torch", NET, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def converted(trained: Path) -> Run:
    options = ("--arch", f"{NET}:build", "--labels", trained / "labels.npy")
    return convert(trained, "--model", trained / "trained.pt", *options)


def convert(folder: Path, *options: str | Path) -> Run:
    output = folder / f"run-{len(list(folder.iterdir()))}"
    if "--quantize" not in options:
        options = (*options, "--quantize", "int8", "--trained-ranges")
    done = run_cli(
        *("convert", *options, "--inputs", folder / "held.npz", "--output", output),
        *("--calibration", folder / "seen.npz"),
        *("--trust-model", "--engine", "process"),
        cwd=folder,
    )
    return Run(done.returncode, done.stdout, done.stderr, output)


def read_output(record: dict[str, Any]) -> dict[str, Any]:
    (output,) = record["report"]["check"]["outputs"]
    assert isinstance(output, dict)
    return output


def test_the_trained_ranges_become_those_of_int8(converted: Run) -> None:
    assert converted.code == PASSED, converted.stderr
    report = converted.report
    assert any("would observe" in note for note in report["notes"])
    for stage in report["stages"]:
        assert stage["report"]["check"]["verdict"] in ("passed", "rounding"), stage["name"]
        assert stage["report"]["check"]["outputs"][0]["rms_rel"] < 1e-2
    (made,) = report["quantized"]
    output = read_output(made)
    assert 0 < output["rms_rel"] < 10 ** (-28 / 20)
    assert output["top1_agreement"] >= 0.98 and output["reference_accuracy"] > 0.9
    operators = made["report"]["operators"]
    assert operators["DEQUANTIZE"] == 1  # integers throughout
    # A scale for each channel, which only a convolution has.
    assert "FULLY_CONNECTED" not in operators and operators["CONV_2D"] == 4


def test_onnx_files_with_quantisers_enter_the_same_way(trained: Path, converted: Run) -> None:
    run = convert(trained, "--from-onnx", converted.folder / "model.onnx", "--min-sqnr", "28")
    assert run.code == PASSED, run.stderr
    (made,) = run.report["quantized"]
    ratio = -20 * math.log10(read_output(made)["rms_rel"])
    (other,) = converted.report["quantized"]
    assert ratio == pytest.approx(-20 * math.log10(read_output(other)["rms_rel"]), abs=1)


def test_no_layer_is_blamed_for_the_ranges_that_it_was_trained_to(converted: Run) -> None:
    """What a range cuts off was cut off in training too: that is no noise of the int8 model."""
    done = run_cli(
        *("diagnose", converted.folder, "--engine", "process", "--json", "--trust-model"),
        cwd=converted.folder.parent,
    )
    (trace,) = json.loads(done.stdout)["quantized"]
    assert not trace["failure"] and not trace["faults"], trace
    inner = [p for p in trace["points"] if p["levels"] and p["operators"] != ["QUANTIZE"]]
    assert len(inner) >= 6 and all(point["own_sqnr"] > 25 for point in inner)


def test_what_was_trained_is_not_searched(trained: Path) -> None:
    options = ("--arch", f"{NET}:build", "--quantize", "auto")
    run = convert(trained, "--model", trained / "trained.pt", *options)
    (record,) = [r for r in run.report["quantized"] if r["name"] == "auto"]
    assert run.code == BAD_INPUT and "--quantize int8" in record["remedy"]


def test_the_noise_floor_is_a_step_here_and_there(converted: Run) -> None:
    """Of 200 samples one may change by chance; a move of 2^-20 of the ranges changed two."""
    (floor,) = converted.report["stages"][0]["report"]["noise_floor"]["outputs"]
    assert 0 <= floor["mean_abs"] < 2.5e-5 and floor["p99_abs"] == 0


@pytest.mark.parametrize("name", ["integers.pt", "integers-state.pt"])
def test_pytorchs_own_integers_are_refused_with_the_way(trained: Path, name: str) -> None:
    arch = ("--arch", f"{NET}:build") if "state" in name else ()
    run = convert(trained, "--model", trained / name, *arch)
    assert run.code == BAD_INPUT
    assert "PyTorch's own integers" in run.stderr + run.stdout
    assert "--trained-ranges" in json.dumps(run.report)
