"""--embed-preprocessing: models that take pixels, checked against PyTorch on prepared images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from harness import BAD_INPUT, PASSED, Run, run_cli, run_here

# Its numbers depend on every channel's mean and scale, at the borders too, which it pads with 0.
NET = """
import sys, torch
from torch import nn

torch.manual_seed(0)
layers = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
net = nn.Sequential(*layers, nn.Linear(8, 5)).eval()
torch.jit.trace(net, torch.zeros(1, 3, 16, 16)).save(sys.argv[1])
"""
TOML = """
[[input]]
name = "image"
shape = [1, 3, 16, 16]
kind = "image"
mean = [0.485, 0.456, 0.2]
std = [0.229, 0.224, 0.4]
color = "bgr"
pixels = {dtype = "uint8"}
"""
# Runs a .tflite file on an array of pixels, and prints the outputs.
OUTPUTS = """
import json, sys
import numpy as np
import tensorflow as tf

interpreter = tf.lite.Interpreter(sys.argv[1])
interpreter.allocate_tensors()
(given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
for sample in np.load(sys.argv[2]):
    interpreter.set_tensor(given["index"], sample.astype(given["dtype"]))
    interpreter.invoke()
    print(given["dtype"].__name__, *interpreter.get_tensor(made["index"])[0])
"""
RunIn = Callable[..., Any]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory, in_environment: RunIn) -> Path:
    """A folder with the net under the names of several .toml files, and folders of images."""
    folder = tmp_path_factory.mktemp("embedded")
    made = in_environment("torch", "-c", NET, folder / "net.pt")
    assert made.returncode == 0, made.stderr
    (folder / "net.toml").write_text(TOML)
    for name, text in (
        ("floats", TOML.replace("uint8", "float32")),
        ("mean", TOML.replace("0.485, 0.456", "0.456, 0.485")),
        ("color", TOML.replace('"bgr"', '"rgb"')),
    ):
        shutil.copy(folder / "net.pt", folder / f"{name}.pt")
        (folder / f"{name}.toml").write_text(text)
    generator = np.random.default_rng(0)
    for name, count in (("seen", 30), ("held", 12)):
        (folder / name).mkdir()
        for number in range(count):
            coarse = PIL.Image.fromarray(generator.integers(0, 256, (4, 4, 3)).astype(np.uint8))
            coarse.resize((16, 16)).save(folder / name / f"{number:02d}.png")
    return folder


def convert(nets: Path, net: str, *options: str | Path, embed: bool = True) -> Run:
    folder = nets / f"run-{len(list(nets.glob('run-*')))}"
    done = run_cli(
        *("convert", "--model", nets / f"{net}.pt", "--engine", "process", "--cache"),
        *(("--embed-preprocessing",) if embed else ()),
        *("--output", folder, *options),
        cwd=nets,
    )
    return Run(done.returncode, done.stdout, done.stderr, folder)


def read_outputs(in_environment: RunIn, model: Path, pixels: Path) -> tuple[str, np.ndarray]:
    done = in_environment("tflite", "-c", OUTPUTS, model, pixels)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return rows[0][0], np.array([row[1:] for row in rows], float)


def test_pixels_give_what_prepared_images_gave(nets: Path, in_environment: RunIn) -> None:
    """Images in, as pixels or prepared by the runner: the same outputs, quantised ones near them.

    With another mean, or the channels swapped, they are others: the check would not pass.
    """
    held = ("--inputs", nets / "held")
    more = ("--quantize", "int8", "--calibration", nets / "seen")
    plain = convert(nets, "net", *held, embed=False)
    whole = convert(nets, "net", *held, *more)
    assert (plain.code, whole.code) == (PASSED, PASSED), whole.stdout + whole.stderr
    pixels = np.load(whole.folder / "inputs.npy")
    assert pixels.dtype == np.uint8 and pixels.max() > 200
    image = np.asarray(PIL.Image.open(nets / "held/00.png"))
    assert np.array_equal(pixels[0, 0], image.transpose(2, 0, 1))  # in the user's own order, RGB
    _, expected = read_outputs(
        in_environment, plain.folder / "model.tflite", plain.folder / "inputs.npy"
    )
    kind, found = read_outputs(
        in_environment, whole.folder / "model.tflite", whole.folder / "inputs.npy"
    )
    assert kind == "uint8"
    assert np.abs(found - expected).mean() < 1e-6 < 1e-2 < expected.std()
    (record,) = whole.report["quantized"]
    assert record["report"]["check"]["outputs"][0]["rms_rel"] < 10 ** (-30 / 20)
    for wrong in ("mean", "color"):
        other = convert(nets, wrong, *held)
        assert other.code == PASSED
        _, made = read_outputs(
            in_environment, other.folder / "model.tflite", whole.folder / "inputs.npy"
        )
        assert np.abs(made - expected).mean() > 1e-3, wrong


def test_pixels_are_drawn_and_a_record_repeats_them(nets: Path, in_environment: RunIn) -> None:
    run = convert(nets, "floats", "--samples", "20")
    assert run.code == PASSED, run.stdout + run.stderr
    (tensor,) = run.report["stages"][0]["report"]["signature"]["inputs"]
    assert (tensor["dtype"], tensor["low"], tensor["high"]) == ("float32", 0, 255)
    again = run_cli(
        *("reproduce", run.folder, "--engine", "process", "--output", nets / "again"), cwd=nets
    )
    assert again.returncode == PASSED, again.stdout + again.stderr
    given = run_cli(
        *("convert", "--from-onnx", run.folder / "model.onnx", "--engine", "process", "--cache"),
        *("--input", "image=1x3x16x16", "--samples", "20", "--embed-preprocessing"),
        cwd=nets,
    )
    assert given.returncode == BAD_INPUT and "no input is of images" in given.stderr


@pytest.mark.parametrize(
    ("net", "change", "said"),
    [
        ("mean", ("numbers", "dtype"), "pixels of 0 to 255"),
        ("net", ("--toolchain", "2026"), "has no stage that does it"),
        ("net", ("--input", "1x3x16x16"), "no input is of images"),
    ],
)
def test_what_is_not_of_pixels_is_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    nets: Path,
    net: str,
    change: tuple[str, ...],
    said: str,
) -> None:
    options: tuple[str | Path, ...] = change
    if change[0] == "numbers":
        net, options = "floats", ("--inputs", tmp_path / "prepared.npy", "--engine", "process")
        np.save(tmp_path / "prepared.npy", np.random.default_rng(0).normal(size=(4, 1, 3, 16, 16)))
    where = ("--output", tmp_path / "run")
    model = nets / f"{net}.pt"
    done = run_here(
        *(capsys, "convert", "--model", model, "--embed-preprocessing", *options, *where),
        cwd=tmp_path,
    )
    assert done.returncode == BAD_INPUT
    assert said in " ".join((done.stdout + done.stderr).split())
