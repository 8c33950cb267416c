"""--embed-preprocessing: models that take pixels, checked against PyTorch on prepared images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from harness import BAD_INPUT, PASSED, Run, run_cli, run_here

from runner.planning.check import Check
from runner.planning.inputs import resolve_inputs

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
# PyTorch's own outputs for images that are prepared here: BGR, (pixel / 255 - mean) / std.
PREPARED = """
import sys
import numpy as np
import torch

net = torch.jit.load(sys.argv[1])
mean, std = np.float32([0.485, 0.456, 0.2]), np.float32([0.229, 0.224, 0.4])
for sample in np.load(sys.argv[2]):
    bgr = sample[:, [2, 1, 0]].transpose(0, 2, 3, 1).astype("f4")
    values = ((bgr / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    print(*net(torch.from_numpy(values.copy()))[0].tolist())
"""
# The stage `torch` with a fault planted in what it puts into the model.
PLANTED = """
import sys
from dataclasses import replace
from stages.convert.torch_to_onnx import STAGE
from stages.frameworks import onnx_pixels
from stages.kit.contract import main

embed = onnx_pixels._embed
onnx_pixels._embed = lambda model, name, pixels: embed(model, name, replace(pixels, CHANGE))
main(STAGE, ["--volume", sys.argv[1]])
"""
RunIn = Callable[..., Any]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory, in_environment: RunIn) -> Path:
    """A folder with the net under two names, by the type of the pixels, and folders of images."""
    folder = tmp_path_factory.mktemp("embedded")
    made = in_environment("torch", "-c", NET, folder / "net.pt")
    assert made.returncode == 0, made.stderr
    (folder / "net.toml").write_text(TOML)
    shutil.copy(folder / "net.pt", folder / "floats.pt")
    (folder / "floats.toml").write_text(TOML.replace("uint8", "float32"))
    generator = np.random.default_rng(0)
    for name, count in (("seen", 30), ("held", 12)):
        (folder / name).mkdir()
        for number in range(count):
            coarse = PIL.Image.fromarray(generator.integers(0, 256, (4, 4, 3)).astype(np.uint8))
            coarse.resize((16, 16)).save(folder / name / f"{number:02d}.png")
    return folder


def convert(nets: Path, net: str, *options: str | Path) -> Run:
    folder = nets / f"run-{len(list(nets.glob('run-*')))}"
    done = run_cli(
        *("convert", "--model", nets / f"{net}.pt", "--engine", "process", "--cache"),
        *("--embed-preprocessing", "--output", folder, *options),
        cwd=nets,
    )
    return Run(done.returncode, done.stdout, done.stderr, folder)


def read_outputs(in_environment: RunIn, model: Path, pixels: Path) -> tuple[str, np.ndarray]:
    done = in_environment("tflite", "-c", OUTPUTS, model, pixels)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return rows[0][0], np.array([row[1:] for row in rows], float)


def test_pixels_give_what_pytorch_makes_of_prepared_images(
    nets: Path, in_environment: RunIn
) -> None:
    run = convert(
        *(nets, "net", "--inputs", nets / "held"),
        *("--quantize", "int8", "--calibration", nets / "seen"),
    )
    assert run.code == PASSED, run.stdout + run.stderr
    pixels = np.load(run.folder / "inputs.npy")
    image = np.asarray(PIL.Image.open(nets / "held/00.png"))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[0, 0], image.transpose(2, 0, 1))  # in the caller's order, RGB
    done = in_environment("torch", "-c", PREPARED, nets / "net.pt", run.folder / "inputs.npy")
    assert done.returncode == 0, done.stderr
    expected = np.array([line.split() for line in done.stdout.splitlines()], float)
    kind, found = read_outputs(
        in_environment, run.folder / "model.tflite", run.folder / "inputs.npy"
    )
    assert kind == "uint8"
    assert np.abs(found - expected).mean() < 1e-6 < 1e-3 < expected.std(0).min()
    (record,) = run.report["quantized"]
    assert record["report"]["check"]["outputs"][0]["rms_rel"] < 10 ** (-30 / 20)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ("", "passed"),
        ("mean=(0.456, 0.485, 0.2)", "exceeded"),
        ("swapped=False", "exceeded"),
    ],
)
def test_the_check_sees_wrong_preprocessing(
    nets: Path, tmp_path: Path, in_environment: RunIn, change: str, verdict: str
) -> None:
    """An artifact with another mean, or with the channels swapped, is out of tolerance."""
    shutil.copy(nets / "net.pt", tmp_path / "model.pt")
    (spec,) = resolve_inputs(nets / "net.pt", (), None, embed=True)[0]
    assert spec.embedded is not None
    request = {
        "inputs": [spec.as_request()],
        "options": {"preprocessing": json.dumps({spec.name: spec.embedded.as_option()})},
        "check": Check(samples=20).as_request(),
    }
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests/torch.json").write_text(json.dumps(request))
    done = in_environment("torch", "-c", PLANTED.replace("CHANGE", change), tmp_path)
    report = json.loads((tmp_path / "reports/torch.json").read_text())
    assert report["status"] == "ok", done.stdout + done.stderr
    assert report["check"]["verdict"] == verdict


def test_pixels_are_drawn_and_a_record_repeats_them(nets: Path) -> None:
    run = convert(nets, "floats", "--samples", "20")
    assert run.code == PASSED, run.stdout + run.stderr
    (tensor,) = run.report["stages"][0]["report"]["signature"]["inputs"]
    assert (tensor["dtype"], tensor["low"], tensor["high"]) == ("float32", 0, 255)
    again = run_cli(
        *("reproduce", run.folder, "--engine", "process", "--output", nets / "again"), cwd=nets
    )
    assert again.returncode == PASSED, again.stdout + again.stderr


@pytest.mark.parametrize(
    ("net", "change", "said"),
    [
        ("floats", ("--inputs", "prepared.npy", "--engine", "process"), "pixels of 0 to 255"),
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
    np.save(tmp_path / "prepared.npy", np.random.default_rng(0).normal(size=(4, 1, 3, 16, 16)))
    arguments = ("--model", nets / f"{net}.pt", "--embed-preprocessing", *change)
    done = run_here(capsys, "convert", *arguments, "--output", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == BAD_INPUT
    assert said in " ".join((done.stdout + done.stderr).split())
