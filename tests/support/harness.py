"""Run the command line as a user does, and look at what it leaves."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.cli.app import main
from runner.toolchains.load import load_toolchain

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
USER_CODE = SUPPORT / "user_code.py"
# Exit codes, as README.md documents them.
PASSED, BAD_INPUT, STAGE_FAILED, OUT_OF_TOLERANCE, VACUOUS, ENVIRONMENT = 0, 2, 3, 4, 5, 6
INTERRUPTED = 130
STAGES = tuple(stage.name for stage in load_toolchain().stages)
MODULES = {stage.name: stage.module for stage in load_toolchain().stages}
ARTIFACTS = ("model.onnx", "model.pb", "model.tflite")
# What every run that began leaves, however it ended.
RECORD = {"report.json", "report.html", "provenance.json", "test-result.json"}
DOCKER = pytest.param("docker", marks=pytest.mark.docker)
ENGINES = ("process", DOCKER)
# To run the command line under: its stages are forked from warm processes, as in a suite.
WITH_KEEPER = (sys.executable, str(SUPPORT / "warm_cli.py"))


# A machine that shows a GPU, as onnx-tf asks for it: through TensorFlow's list of local devices.
SHOW_A_GPU = """
import sys
from tensorflow.python.client import device_lib
real = device_lib.list_local_devices

def with_gpu(config=None):
    from tensorflow.core.framework import device_attributes_pb2
    gpu = device_attributes_pb2.DeviceAttributes(name="/device:GPU:0", device_type="GPU")
    return [*real(config), gpu]

device_lib.list_local_devices = with_gpu
from stages.convert import onnx_to_graph
from stages.kit import contract
sys.exit(contract.main(onnx_to_graph.STAGE, sys.argv[1:]))
"""
# What each model needs on the command line, besides its file.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "weights": ("--arch", f"{USER_CODE}:OwnNet", "--arch-args", '{"classes": 7}'),
    "checkpoint": ("--arch", f"{USER_CODE}:OwnNet", "--input", "1x3x16x16"),
    "zip_weights": ("--arch", f"{USER_CODE}:OwnNet", "--input", "1x3x16x16"),
    "own": ("--arch", f"{USER_CODE}", "--input", "1x3x16x16"),
    "main": ("--arch", f"{USER_CODE}", "--input", "1x3x16x16"),
    "branches": ("--arch", f"{USER_CODE}", "--input", "1x8"),
    "dies": ("--arch", f"{USER_CODE}", "--input", "1x8"),
    "pictures": ("--input", "image=1x3x10x7", "--input", "weights=1x6"),
    "two": ("--arch", f"{USER_CODE}", "--input", "right=1x6", "--input", "left=1x4"),
}
# What lies beside a model, where its inputs need more than a shape.
TOML = {
    "ids": '[[input]]\nname = "ids"\nshape = [1, 6]\ndtype = "int64"\nrange = [3, 9]\n',
    # The first column of a box is the image's index in the batch, of which there is one.
    "roi": "[[input]]\nshape = [1, 3, 16, 16]\n[[input]]\nshape = [2, 5]\nrange = [0.0, 0.9]\n",
}


@dataclass(frozen=True)
class Run:
    """A finished `runner convert`."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return loaded

    def stage(self, name: str) -> dict[str, Any]:
        """The runner's record of a stage."""
        found: dict[str, Any] = self.report["stages"][STAGES.index(name)]
        return found

    def outputs(self, stage: str) -> list[dict[str, Any]]:
        """The statistics of each output, as a stage reports them."""
        found: list[dict[str, Any]] = self.stage(stage)["report"]["check"]["outputs"]
        return found

    @property
    def hashes(self) -> dict[str, str]:
        return {name: sha256(self.folder / name) for name in ARTIFACTS}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_cli(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    under: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, under another program if one is given."""
    return subprocess.run(
        [*under, sys.executable, "-m", "runner", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        text=True,
        capture_output=True,
        timeout=900,
        check=False,
    )


def run_here(
    capture: pytest.CaptureFixture[str], *arguments: str | Path, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process: for the many cases that end before anything starts."""
    before = Path.cwd()
    os.chdir(cwd)
    try:
        code = main([str(argument) for argument in arguments])
    finally:
        os.chdir(before)
    said = capture.readouterr()
    return subprocess.CompletedProcess(arguments, code, said.out, said.err)


def leftovers(folder: Path) -> list[str]:
    """What no run may leave behind, finished or not."""
    names = ("*.part", ".volume", ".*.part")
    return sorted({str(path) for name in names for path in folder.rglob(name)})


def in_order(folder: Path, kind: str) -> list[Path]:
    """The arrays KIND-0.npy, KIND-1.npy ... of a folder."""
    return sorted(folder.glob(f"{kind}-*.npy"))


def docker_leftovers(run: str) -> str:
    """The ids of containers and volumes of a run that are still there."""
    only = f"label=org.runner.run={run}"
    commands = (["docker", "ps", "-aq"], ["docker", "volume", "ls", "-q"])
    return "".join(
        subprocess.run(
            [*command, "--filter", only], check=True, capture_output=True, text=True
        ).stdout
        for command in commands
    )


@functools.cache
def docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


Convert = Callable[..., Run]


def copy(sources: Mapping[str, Path], folder: Path) -> None:
    """Put files into a folder under the given names."""
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
