"""Models as people keep them: wrapped, with prefixes and bookkeeping, with integer inputs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import BAD_INPUT, OUT_OF_TOLERANCE, PASSED, SUPPORT, Convert, run_cli

CODE = SUPPORT / "loading.py"
NET = ("--arch", f"{CODE}:make_net", "--input", "1x3x8x8")
# What is converted how, and what is said aloud of it.
KEPT: dict[str, tuple[tuple[str, ...], str]] = {
    "parallel": (("--input", "1x3x8x8"), ""),
    "parallel_parts": (("--input", "1x3x8x8"), ""),
    "plain": (NET, ""),
    "lightning": (NET, "Names of weights begin with 'model.', which is dropped"),
    "profiled": (NET, ""),
    "empty": (("--arch", f"{CODE}:make_empty", "--input", "1x3x8x8"), ""),
    "versions": (
        ("--arch", "torchvision.models:mnasnet0_5", "--arch-args", '{"num_classes": 5}')
        + ("--input", "1x3x32x32"),
        "",
    ),
    "bytes": (("--arch", str(CODE), "--input", "1x3x8x8:uint8"), "0 to 255 (all that uint8 holds)"),
    "words": (
        ("--arch", str(CODE), "--input", "word=1x3:int64", "--input", "place=1x3:int64"),
        "Values of 'place' are drawn from 0 to 6",
    ),
}


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory,
    in_environment: Callable[..., subprocess.CompletedProcess[str]],
) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    made = in_environment("torch", CODE, folder)
    assert made.returncode == 0, made.stderr
    return folder


def convert_kept(
    model: Path, run: Path, *options: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    arguments = ("--samples", "4", "--engine", "process", "--output", run)
    done = run_cli("convert", "--model", model, *arguments, *options, cwd=model.parent)
    report = run / "report.json"
    return done, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.parametrize("name", KEPT)
def test_it_converts(kept: Path, tmp_path: Path, name: str) -> None:
    options, said = KEPT[name]
    done, report = convert_kept(kept / f"{name}.pt", tmp_path / "run", *options)
    assert done.returncode == PASSED, done.stdout + done.stderr
    assert said in " ".join(report["notes"])
    if name == "words":
        assert "Values of 'word' are drawn from 0 to 49" in " ".join(report["notes"])


def test_all_forms_of_one_net_are_one_model(kept: Path, tmp_path: Path) -> None:
    hashes = set()
    for name in ("parallel", "plain", "lightning", "profiled"):
        _, report = convert_kept(kept / f"{name}.pt", tmp_path / name, *KEPT[name][0])
        hashes.add(report["artifacts"][-1]["sha256"])
    assert len(hashes) == 1


def test_a_missing_weight_is_named(kept: Path, tmp_path: Path) -> None:
    done, _ = convert_kept(kept / "missing.pt", tmp_path / "run", *NET)
    assert done.returncode == BAD_INPUT
    assert "3.bias" in done.stdout + done.stderr


def test_an_index_out_of_range_is_told(kept: Path, tmp_path: Path) -> None:
    model = tmp_path / "words.pt"
    model.write_bytes((kept / "words.pt").read_bytes())
    (tmp_path / "words.toml").write_text(
        '[[input]]\nname = "word"\nshape = [1, 3]\ndtype = "int64"\nrange = [0, 90]\n'
        '[[input]]\nname = "place"\nshape = [1, 3]\ndtype = "int64"\n'
    )
    done, _ = convert_kept(model, tmp_path / "run", "--arch", str(CODE))
    assert done.returncode == BAD_INPUT, done.stdout
    assert "range = [0, ROWS]" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("options", "code", "verdict"),
    [
        ((), PASSED, "rounding"),
        (("--strict",), OUT_OF_TOLERANCE, "exceeded"),
        (("--faithful",), OUT_OF_TOLERANCE, "exceeded"),
    ],
)
def test_above_the_tolerance_at_rounding(
    convert: Convert, options: tuple[str, ...], code: int, verdict: str
) -> None:
    run = convert("cnn", "--tolerance", "1e-9", *options)
    assert run.code == code, run.stdout
    assert run.report["gate"]["verdict"] == verdict
    text = " ".join(run.stdout.split())
    assert "times PyTorch's own float32 rounding" in text
    # A trace takes as long as the conversion, and would find nothing.
    assert (run.report["diagnosis"] is None) == (verdict == "rounding")
    if not options:
        assert "Converted, passed at rounding." in text
