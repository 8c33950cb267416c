"""Quantised models beside the float one: made, judged, and refused, as a user asks for them."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from blobs import draw_blobs
from harness import BAD_INPUT, ENGINES, OUT_OF_TOLERANCE, PASSED, ROOT, Run, run_cli, run_here

EXAMPLE = ROOT / "examples/mbv2.pt"
MODES = "float16,dynamic,int8,int16x8"
Quantize = Callable[..., Run]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples to calibrate on and others to check with."""
    folder = tmp_path_factory.mktemp("samples")
    np.savez(folder / "seen.npz", image=draw_blobs(1, 100))
    np.savez(folder / "held.npz", image=draw_blobs(2, 40))
    np.savez(folder / "dim.npz", image=0.02 * draw_blobs(1, 100))
    (folder / "one.txt").write_text("1")
    (folder / "images").mkdir()
    PIL.Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "images/black.png")
    return folder


@pytest.fixture(scope="module")
def quantize(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantize:
    """Convert the example, or another file, and check with the samples that are held back."""
    done: dict[tuple[Any, ...], Run] = {}

    def run(*options: str | Path, engine: str = "process", given: tuple[Any, ...] = ()) -> Run:
        key = (options, engine, given)
        if key not in done:
            folder = tmp_path_factory.mktemp("runs") / "run"
            source = given or ("--model", EXAMPLE)
            # One blob of forty may well look like either of two digits.
            arguments = (*source, "--inputs", samples / "held.npz", "--min-top1", "0.95")
            cache = () if "--no-cache" in options else ("--cache",)  # of the float stages
            where = ("--output", folder, "--engine", engine, *cache)
            finished = run_cli("convert", *arguments, *options, *where, cwd=samples)
            done[key] = Run(finished.returncode, finished.stdout, finished.stderr, folder)
        return done[key]

    return run


def list_quantized(run: Run) -> dict[str, dict[str, Any]]:
    return {record["name"]: record for record in run.report["quantized"]}


@pytest.mark.parametrize("engine", ENGINES)
def test_all_modes_are_made_and_near_pytorch(
    quantize: Quantize, samples: Path, engine: str
) -> None:
    options = ("--quantize", MODES, "--calibration", samples / "seen.npz")
    run = quantize(*options, engine=engine)
    assert run.code == PASSED, run.stderr
    made = list_quantized(run)
    assert list(made) == MODES.split(",")
    whole = (run.folder / "model.tflite").stat().st_size
    for mode, record in made.items():
        artifact = run.folder / f"model.{mode}.tflite"
        (output,) = record["report"]["check"]["outputs"]
        assert artifact.stat().st_size < 0.55 * whole
        assert record["report"]["check"]["samples"] == 40
        assert output["top1_agreement"] >= 0.95
        # Real errors: none at all would mean that nothing was quantised.
        assert 0 < output["rms_rel"] < 10 ** (-25 / 20), mode
        latency = record["report"]["latency"]
        assert latency["runtime"] == record["report"]["check"]["framework"]
        for model in ("float_model", "quantized"):
            assert latency[model]["turns"] == latency["quantized"]["turns"] >= 1
            assert 0 < latency[model]["least"] <= latency[model]["median"]
    errors = {mode: made[mode]["report"]["check"]["outputs"][0]["rms_rel"] for mode in made}
    assert errors["float16"] < errors["int16x8"] < errors["int8"]
    page = html.unescape((run.folder / "report.html").read_text())
    assert "Latency, float and quantised" in page
    assert "Quantised models" in page and all(f"model.{mode}.tflite" in page for mode in made)
    assert "signal to noise" in run.stdout and "int16x8" in run.stdout


@pytest.mark.docker
def test_both_engines_write_the_same_bytes(quantize: Quantize, samples: Path) -> None:
    """float16 too, whose operators TensorFlow writes in an order that differs from run to run."""
    options = ("--quantize", MODES, "--calibration", samples / "seen.npz")
    hashes = [
        {
            mode: record["report"]["artifact"]["sha256"]
            for mode, record in list_quantized(run).items()
        }
        for run in (
            quantize(*options),
            quantize(*options, engine="docker"),
            quantize(*options, "--no-cache"),
        )
    ]
    assert hashes[0] == hashes[1] == hashes[2] and len(set(hashes[0].values())) == 4


def test_the_wrong_calibration_is_below_the_gate(quantize: Quantize, samples: Path) -> None:
    """Calibrated on images 50 times as dark, int8 cuts off nearly everything it is checked with."""
    options = ("--quantize", "float16,int8", "--calibration", samples / "dim.npz")
    run = quantize(*options)
    assert run.code == OUT_OF_TOLERANCE
    made = list_quantized(run)
    verdicts = {mode: record["report"]["check"]["verdict"] for mode, record in made.items()}
    assert verdicts == {"float16": "passed", "int8": "exceeded"}
    assert any("outside of" in note and "normalised" in note for note in run.report["notes"])
    assert "a quantised model is below its gate" in " ".join(run.stdout.split())
    assert run.report["gate"]["verdict"] in ("passed", "rounding")  # the float model's own
    page = html.unescape((run.folder / "report.html").read_text())
    assert "a quantised model is below its gate" in page


def test_noise_is_said_to_be_noise(quantize: Quantize, samples: Path) -> None:
    run = quantize("--quantize", "int8", "--calibrate-on-noise")
    assert run.code in (PASSED, OUT_OF_TOLERANCE)
    assert any("noise" in note and "do not ship it" in note for note in run.report["notes"])


def test_the_ends_may_be_integers(quantize: Quantize, samples: Path) -> None:
    calibration = ("--calibration", samples / "seen.npz")
    for ends in ("int8", "uint8"):
        options = ("--quantize", "int8", "--quantize-io", ends, *calibration)
        run = quantize(*options)
        assert run.code == PASSED, run.stderr
        shown = run_cli("inspect", run.folder / "model.int8.tflite", "--json", cwd=run.folder)
        found = json.loads(shown.stdout)
        assert {t["dtype"] for t in (*found["inputs"], *found["outputs"])} == {ends}


def test_images_are_samples_and_labels_give_the_accuracy(tmp_path: Path) -> None:
    """Folders of images give the model that arrays of the same pixels give."""
    model = tmp_path / "mbv2.pt"
    model.write_bytes(EXAMPLE.read_bytes())
    (tmp_path / "mbv2.toml").write_text(
        '[[input]]\nname = "image"\nshape = [1, 3, 32, 32]\nkind = "image"\nmean=0.31\nstd=0.35\n'
    )
    for name, seed, count in (("seen", 1, 30), ("held", 2, 20)):
        (tmp_path / name).mkdir()
        pixels = np.round((draw_blobs(seed, count)[:, 0] * 0.35 + 0.31) * 255).astype(np.uint8)
        scaled = pixels[:, None] * np.float32(1 / 255)
        arrays = (scaled - np.float32(0.31)) / np.float32(0.35)
        np.save(tmp_path / f"{name}.npy", np.repeat(arrays, 3, axis=1))
        for number, image in enumerate(pixels):
            PIL.Image.fromarray(image).save(tmp_path / name / f"{number:02d}.png")
    (tmp_path / "labels.txt").write_text("\n".join(str(n % 10) for n in range(20)))
    hashes = []
    for ending in ("", ".npy"):
        run = tmp_path / f"run{ending}"
        done = run_cli(
            *("convert", "--model", model, "--quantize", "int8", "--min-top1", "0.8"),
            *("--calibration", tmp_path / f"seen{ending}", "--labels", tmp_path / "labels.txt"),
            *("--inputs", tmp_path / "held", "--output", run, "--engine", "process", "--cache"),
            cwd=tmp_path,
        )
        assert done.returncode == PASSED, done.stderr
        made = Run(done.returncode, done.stdout, done.stderr, run)
        hashes.append(list_quantized(made)["int8"]["report"]["artifact"]["sha256"])
        assert any("Calibrated on 30 samples; 100" in note for note in made.report["notes"])
        final = made.report["stages"][-1]["report"]["check"]["outputs"][0]
        assert final["accuracy"] == final["reference_accuracy"] is not None
        assert f"of the float model: {final['accuracy']:.2%}" in " ".join(done.stdout.split())
        assert "data:image/png;base64," in (run / "report.html").read_text()
    assert hashes[0] == hashes[1]
    kept = np.load(tmp_path / "run/inputs.npy")
    assert np.array_equal(kept[:, 0], np.load(tmp_path / "held.npy"))


@pytest.mark.parametrize("option", ["--from-onnx", "--from-pb"])
def test_models_made_elsewhere_are_quantised(
    quantize: Quantize, samples: Path, option: str
) -> None:
    options = ("--quantize", "int8", "--calibration", samples / "seen.npz")
    own = quantize(*options)
    given = own.folder / {"--from-onnx": "model.onnx", "--from-pb": "model.pb"}[option]
    run = quantize(*options, given=(option, given))
    assert run.code == PASSED, run.stderr
    assert list_quantized(run)["int8"]["report"]["check"]["outputs"][0]["rms_rel"] < 0.1


def test_channels_last_and_the_tools_alone(quantize: Quantize, samples: Path) -> None:
    """The 5,600 operators of a faithful model are quantised one by one, which costs 10 dB."""
    options = ("--quantize", "int8", "--calibration", samples / "seen.npz", "--min-sqnr", "15")
    for option in (("--io-layout", "nhwc"), ("--faithful",)):
        run = quantize(*options, *option)
        assert list_quantized(run)["int8"]["report"]["check"]["verdict"] == "passed", option


def test_samples_of_the_check_are_none_of_the_calibration(
    quantize: Quantize, samples: Path
) -> None:
    both = samples / "both.npz"
    np.savez(both, image=np.concatenate([draw_blobs(1, 99), draw_blobs(2, 40)[:1]]))
    run = quantize("--quantize", "int8", "--calibration", both)
    assert run.code == BAD_INPUT
    (record,) = run.report["quantized"]
    assert "1 of the 40 samples of the check" in record["failure"]
    assert (run.folder / "model.tflite").is_file()  # what was good is kept


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--quantize", "int8"), "needs samples"),
        (("--quantize", "int4"), "Known: float16, dynamic, int8, int16x8"),
        (("--quantize", "int8", "--calibration", "seen.npz", "--no-held"), "Hold some samples"),
        (("--quantize", "float16", "--calibration", "seen.npz"), "anything to calibrate"),
        (("--quantize", "int8", "--calibration", "none.npz"), "There is no file"),
        (("--quantize", "float16", "--quantize-io", "int8"), "other ends than float"),
        (("--calibration", "seen.npz"), "nothing is to be quantised"),
        (("--min-sqnr", "30"), "nothing is to be quantised"),
        (("--labels", "seen.npz"), "no class numbers"),
        (("--labels", "one.txt"), "1 labels, and the check 40 samples"),
        (("--labels", "one.txt", "--no-held"), "the check draws noise"),
        (("--quantize", "int8", "--calibration", "images"), "nothing says how the model takes"),
        (("--quantize", "int8", "--toolchain", "2019"), "Known: float16, dynamic"),
        (("--quantize", "int8", "--toolchain", "2020-09,2022"), "Name one --toolchain"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    samples: Path,
    options: tuple[str, ...],
    said: str,
) -> None:
    files = ("seen.npz", "none.npz", "one.txt", "images")
    given = [samples / o if o in files else o for o in options if o != "--no-held"]
    held = () if "--no-held" in options else ("--inputs", samples / "held.npz")
    done = run_here(capsys, "convert", "--model", EXAMPLE, *held, *given, cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert said in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())
