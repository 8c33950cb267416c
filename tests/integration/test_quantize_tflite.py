"""`runner quantize`: a float .tflite file of any tool, quantised and judged against itself."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import pytest
from blobs import draw_blobs
from harness import BAD_INPUT, OUT_OF_TOLERANCE, PASSED, ROOT, Run, run_cli, run_here

MODES = ("float16", "dynamic", "int8", "int16x8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a float model that has no SignatureDef, and samples for it."""
    folder = tmp_path_factory.mktemp("quantize")
    np.savez(folder / "seen.npz", image=draw_blobs(1, 100))
    np.savez(folder / "held.npz", image=draw_blobs(2, 40))
    np.savez(folder / "dim.npz", image=0.02 * draw_blobs(1, 100))
    source = ("--model", ROOT / "examples/mbv2.pt", "--inputs", folder / "held.npz")
    where = ("--engine", "process", "--cache", "--output", folder / "float")
    done = run_cli("convert", *source, *where, cwd=folder)
    assert done.returncode == PASSED, done.stderr
    return folder


def quantize(folder: Path, name: str, *options: str | Path) -> Run:
    given = (folder / "float/model.tflite", "--inputs", folder / "held.npz", "--min-top1", "0.95")
    where = ("--engine", "process", "--output", folder / name)
    done = run_cli("quantize", *given, *options, *where, cwd=folder)
    return Run(done.returncode, done.stdout, done.stderr, folder / name)


def test_all_modes_are_made_and_tried_in_an_older_interpreter(folder: Path) -> None:
    """TensorFlow 2.4 is known to refuse what ai-edge-quantizer writes, and the report says so."""
    calibration = ("--calibration", folder / "seen.npz")
    run = quantize(folder, "all", "--to", ",".join(MODES), *calibration, "--runtimes", "tflite")
    assert run.code == PASSED, run.stderr
    made = {record["name"]: record["report"] for record in run.report["quantized"]}
    assert tuple(made) == MODES
    whole = (folder / "float/model.tflite").stat().st_size
    ratios = {}
    for mode, report in made.items():
        (output,) = report["check"]["outputs"]
        ratios[mode] = -20 * np.log10(output["rms_rel"])
        assert (run.folder / f"model.{mode}.tflite").stat().st_size < 0.55 * whole
        assert report["check"]["framework"].startswith("LiteRT")
    # With the tool's own moving average instead of all samples' ranges, both have 14 dB.
    assert ratios["int8"] > 25 and ratios["int16x8"] > ratios["int8"] + 3
    assert ratios["float16"] > 60
    (place,) = run.report["elsewhere"]
    assert place["image"] == "tflite" and place["runtime"].startswith("TensorFlow Lite 2.4")
    assert [row["mode"] for row in place["files"]] == list(MODES)
    assert all(row["failure"] for row in place["files"])
    assert any("int8: TensorFlow Lite 2.4.0 does not run it" in n for n in run.report["notes"])
    page = html.unescape((run.folder / "report.html").read_text())
    assert "In other interpreters" in page and "was quantised, within the gate" in page
    assert "Quantised, within the gate." in " ".join(run.stdout.split())
    shown = run_cli("inspect", run.folder / "model.int8.tflite", "--summary", "--json", cwd=folder)
    found = json.loads(shown.stdout)
    assert {t["name"] for t in found["inputs"]} == {"image"}


def test_the_wrong_calibration_is_below_the_gate(folder: Path) -> None:
    options = ("--to", "int8", "--calibration", folder / "dim.npz", "--quantize-io", "int8")
    run = quantize(folder, "dim", *options, "--runtimes", "none")
    assert run.code == OUT_OF_TOLERANCE
    assert run.report["elsewhere"] == [] and run.report["diagnosis"] is None
    assert "Quantised, but a quantised model is below its gate" in " ".join(run.stdout.split())
    shown = run_cli("inspect", run.folder / "model.int8.tflite", "--summary", "--json", cwd=folder)
    found = json.loads(shown.stdout)
    assert {t["dtype"] for t in (*found["inputs"], *found["outputs"])} == {"int8"}
    # What is quantised already has lost what another tool would need.
    again = run_cli(
        *("quantize", run.folder / "model.int8.tflite", "--to", "float16"),
        *("--engine", "process", "--output", folder / "again"),
        cwd=folder,
    )
    assert again.returncode == BAD_INPUT and "is quantised already" in again.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--to", "int8"), "needs samples"),
        (("--to", "int4"), "Known: float16, dynamic, int8, int16x8"),
        (("--to", ","), "No mode is named"),
        (("--to", "float16", "--runtimes", "torch"), "runs .tflite files"),
        (("--to", "float16", "--runtimes", "nothing"), "no image 'nothing'"),
    ],
)
def test_what_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    folder: Path,
    options: tuple[str, ...],
    said: str,
) -> None:
    given = (folder / "float/model.tflite", *options)
    done = run_here(capsys, "quantize", *given, cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert said in " ".join(done.stderr.split())
    other = run_here(capsys, "quantize", ROOT / "examples/mbv2.pt", "--to", "float16", cwd=tmp_path)
    assert other.returncode == BAD_INPUT and "is no TensorFlow Lite model" in other.stderr
    assert not list(tmp_path.iterdir())
