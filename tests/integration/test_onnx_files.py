"""ONNX files as other tools write them: every operator, of old and of today's operator sets."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import PASSED, ROOT, run_cli

SUPPORT = ROOT / "tests" / "support"
# float16's own rounding is in today's outputs.
TOLERANCES = {"float16": 2e-3}


def convert_volumes(folder: Path, in_environment: Any, *stages: str) -> None:
    """Run stages on every volume in a folder."""
    names = sorted(path.name for path in folder.iterdir())
    images = {"onnx": "torch"}
    for stage in stages:
        done = in_environment(
            images.get(stage, stage), SUPPORT / "batch.py", stage, folder, "all", *names
        )
        assert done.returncode == 0, done.stderr


def read_report(volume: Path, stage: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((volume / "reports" / f"{stage}.json").read_text())
    assert report["status"] == "ok", (volume.name, stage, report["error"])
    return report


def compare_with_today(volume: Path) -> dict[str, float]:
    """Return the largest errors of the reference by output, beyond what is allowed."""
    expected = np.load(volume / "expected.npz")
    allowed = next((v for k, v in TOLERANCES.items() if k in volume.name), 1e-5)
    wrong = {}
    for index, output in enumerate(read_report(volume, "onnx")["signature"]["outputs"]):
        found = np.load(volume / "samples" / f"output-{index}.npy").astype(np.float64)
        wanted = expected[output["name"]].astype(np.float64)
        assert found.shape == wanted.shape, output["name"]
        error = float(np.abs(found - wanted).max(initial=0))
        if not error < allowed:
            wrong[output["name"]] = error
    return wrong


def find_wrong(volume: Path, stage: str) -> dict[str, float]:
    report = read_report(volume, stage)
    assert not [note for note in report["notes"] if "failed" in note], volume.name
    wrong = {}
    for index, output in enumerate(report["check"]["outputs"]):
        largest = np.abs(
            np.load(volume / "samples" / f"output-{index}.npy").astype(np.float64)
        ).max()
        if output["max_abs"] is None or not output["max_abs"] < 1e-5 * (1 + largest):
            wrong[output["name"]] = output["max_abs"]
    return wrong


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> list[Path]:
    """All of onnx_cases.py, converted."""

    from benchmarks.peers import environments

    folder = tmp_path_factory.mktemp("operators")
    environment = environments.install(environments.Environment("onnx2tf"))
    subprocess.run([environment.python, SUPPORT / "onnx_cases.py", folder], check=True)
    convert_volumes(folder, in_environment, "onnx", "onnx-tf", "tflite")
    return sorted(folder.iterdir())


def test_what_is_rewritten_means_the_same(volumes: list[Path]) -> None:
    """By today's ONNX Runtime, which runs the files as they were."""
    assert len(volumes) > 12
    wrong = {name: e for volume in volumes for name, e in compare_with_today(volume).items()}
    assert wrong == {}
    for volume in volumes:
        version = int(volume.name[3:5])
        fixes = read_report(volume, "onnx")["fixes"]
        assert ("older-opset" in fixes) == (version > 12), volume.name
        assert "single-precision" in fixes or "float" not in volume.name


@pytest.mark.parametrize("stage", ["onnx-tf", "tflite"])
def test_every_operator_converts(volumes: list[Path], stage: str) -> None:
    wrong = {name: e for volume in volumes for name, e in find_wrong(volume, stage).items()}
    assert wrong == {}


def test_no_operator_needs_flex(volumes: list[Path]) -> None:
    for volume in volumes:
        operators = read_report(volume, "tflite")["operators"]
        assert [name for name in operators if name.startswith("Flex")] == [], volume.name


def test_the_table_of_operators_is_whole(in_environment: Any) -> None:
    """Each operator of set 12 is either converted, by a fix or by onnx-tf, or refused."""
    script = """
import json, sys
from onnx import defs, helper
from onnx_tf.backend import TensorflowBackend
from stages.fixes.onnx_tf import emitter
from stages.fixes.onnx_tf.handlers import register_all
from stages.fixes.onnx_file import refusal

register_all()
own = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
theirs = TensorflowBackend._get_handlers([helper.make_opsetid("", 12)])[""]
handled = {*emitter._HANDLERS, *theirs, "Constant", "Shape", "Size", "Loop", "If"}
refused = {name for name in own if refusal.explain_operator(name)[0]}
print(json.dumps([sorted(own - refused - handled), sorted(refusal.CONVERTED - own)]))
"""
    done = in_environment("onnx-tf", "-c", script)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], []]


@pytest.fixture(scope="module")
def newer(in_environment: Any) -> Any:
    """What onnx_newer.py prints."""
    done = in_environment("torch", SUPPORT / "onnx_newer.py")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


REFUSALS = {
    "volume": "samples volumes",
    "cubic": "bicubically",
    "training": "each batch's own statistics",
    "scatter": "(reduction 'add')",
    "dilated": "a dilated window",
    "rounded": "(ceil_mode)",
    "wrapped": "wraps around by more than",
    "emptied": "without elements",
    "blocks": "in blocks",
    "eighths": "casts to a type",
    "aspect": "keeps the aspect ratio",
    "smoothed": "(antialias)",
    "capped": "(softcap)",
    "moving": "depend on the model's inputs",
    "open": "the shape of 'x0' is not known",
    "unknown": "no such operator",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_rewritten_is_refused(newer: Any, case: str) -> None:
    assert set(newer["refused"]) == set(REFUSALS)
    assert newer["refused"][case].startswith("The node 'node' (ONNX operator ")
    assert REFUSALS[case] in newer["refused"][case]


def test_open_sizes_are_set_before_a_file_is_rewritten(newer: Any) -> None:
    """Shapes become masks and sizes of the nodes that replace newer ones."""
    assert newer["compared"] == {"trilu": True, "relu-trilu": True}


def test_a_chain_is_run_once_to_learn_its_types(newer: Any) -> None:
    assert newer["run"] <= 60


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    folder = tmp_path_factory.mktemp("shuffled")
    made = in_environment("torch", SUPPORT / "shuffled_files.py", folder)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.parametrize(
    ("name", "folded", "options"),
    [
        ("names_taken", True, ()),
        ("equal_parts", True, ()),
        ("opset_9", True, ()),
        ("first_two", False, ("--input", "x=Nx4x6x6", "--fixes=-open-graph")),
        ("batch_of_channels", False, ("--input", "x=1x4x6x6")),
    ],
)
def test_shuffles_of_files_made_elsewhere(
    shuffled: Path, tmp_path: Path, name: str, folded: bool, options: tuple[str, ...]
) -> None:
    done = run_cli(
        *("convert", "--from-onnx", shuffled / f"{name}.onnx", "--samples", "8", *options),
        *("--engine", "process", "--output", "run"),
        cwd=tmp_path,
    )
    assert done.returncode == PASSED, done.stdout + done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert not any("failed" in note for note in report["notes"]), report["notes"]
    stage = next(record for record in report["stages"] if record["name"] == "onnx-tf")
    assert ("channel-shuffle" in stage["report"]["fixes"]) == folded


def test_random_graphs(tmp_path: Path, in_environment: Any) -> None:
    """A short, repeatable run of onnx_fuzz.py, which takes any seed."""
    made = in_environment("torch", SUPPORT / "onnx_fuzz.py", tmp_path, "1", "50")
    assert made.returncode == 0, made.stderr
    convert_volumes(tmp_path, in_environment, "onnx", "onnx-tf", "tflite")
    for volume in sorted(tmp_path.iterdir()):
        assert find_wrong(volume, "onnx-tf") == {}
        assert find_wrong(volume, "tflite") == {}
