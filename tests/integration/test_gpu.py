"""The frozen graph is the CPU's whatever the machine shows, and the CUDA image is built."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, SHOW_A_GPU

# One convolution, small enough to need no other stage.
MAKE_ONNX = """
import sys
import torch
torch.manual_seed(0)
torch.onnx.export(torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8), sys.argv[1],
                  input_names=["input"], output_names=["output"], opset_version=11)
"""
RunIn = Callable[..., "subprocess.CompletedProcess[str]"]


def convolution(in_environment: RunIn, folder: Path, *arguments: str, gpu: bool) -> str:
    """Convert on a machine that shows a GPU or none; the graph's sha256."""
    folder.mkdir()
    made = in_environment("torch", "-c", MAKE_ONNX, folder / "model.onnx")
    assert made.returncode == 0, made.stderr
    start = ("-c", SHOW_A_GPU) if gpu else ("-m", "stages.convert.onnx_to_graph")
    done = in_environment("onnx-tf", *start, "--volume", folder, *arguments)
    assert done.returncode == 0, done.stderr
    return hashlib.sha256((folder / "model.pb").read_bytes()).hexdigest()


def test_the_graph_does_not_depend_on_a_gpu(in_environment: RunIn, tmp_path: Path) -> None:
    plain = convolution(in_environment, tmp_path / "plain", *FAITHFUL, gpu=False)
    shown = convolution(in_environment, tmp_path / "shown", *FAITHFUL, gpu=True)
    assert shown == plain
    asked = ("--prepare-sees-gpu", "true", *FAITHFUL)
    seen = convolution(in_environment, tmp_path / "seen", *asked, gpu=True)
    assert seen != plain, "the GPU was not seen, so this test would not notice it"
    assert b"NCHW" in (tmp_path / "seen" / "model.pb").read_bytes()


FAITHFUL = ("--fixes", "none")


@pytest.mark.docker
def test_the_cuda_image_builds_and_says_which_libraries_open() -> None:
    """With CUDA's libraries all must open; without a source for them, none may seem to."""
    from docker import from_env

    from runner.engines.docker.images import build_image, choose_base, choose_cuda
    from runner.errors import EnvironmentUnavailable
    from runner.toolchains.load import load_image

    client = from_env(timeout=300)
    try:
        cuda = choose_cuda(client, print)
    except EnvironmentUnavailable as error:
        print(f"built without CUDA's libraries: {error.message}")
        cuda = "scratch"
    image = load_image("onnx-tf", "cuda")
    base = choose_base(client, image.python, print)
    record = build_image(client, image, base, print, cuda=cuda)
    run = ["docker", "run", "--rm", "-i", "--network", "none", "--entrypoint", "python", record.id]
    script = (ROOT / "images/onnx-tf/open_cuda_libraries.py").read_text()
    opened: Any = subprocess.run([*run, "-"], input=script, text=True, capture_output=True)
    print(opened.stdout, opened.stderr)
    if cuda == "scratch":
        assert opened.returncode == 1
        assert "Missing: CudaRuntime" in opened.stdout + opened.stderr
    else:
        assert opened.returncode == 0
    program = "import tensorflow as tf; print(tf.__version__, tf.test.is_built_with_cuda())"
    built = subprocess.run([*run, "-c", program], text=True, capture_output=True)
    assert built.stdout.split() == ["2.2.0", "True"], built.stderr
