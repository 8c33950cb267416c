"""Many models through the stages of the default toolchain, in one process a stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `runner` is not installed

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment
from runner.toolchains.load import load_image

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("torch", "onnx-tf", "tflite")
CONSUMES = {"torch": "model.pt", "onnx-tf": "model.onnx", "tflite": "model.pb"}
HERE = ROOT / "benchmarks"
DOCS = ROOT / "docs"
# Models of one process, after which a new one gets the memory back.
BATCH = 40


def prepare() -> None:
    """Make the stages' environments ready."""
    ProcessEngine().prepare([load_image(stage) for stage in STAGES], Observer())


def run_batch(stage: str, folder: Path, volumes: list[str]) -> None:
    """Run a stage on models; one that ends the process costs none of the others."""
    script = ROOT / "tests" / "support" / "batch.py"
    waiting = [volume for volume in volumes if (folder / volume / CONSUMES[stage]).exists()]
    while waiting and run(stage, script, stage, folder, "all", *waiting):
        done = [(folder / volume / "reports" / f"{stage}.json").exists() for volume in waiting]
        # The first without a report has ended the process.
        waiting = waiting[done.index(False) + 1 :] if False in done else []


def run(image: str, *arguments: object) -> int:
    """Run Python in an image's environment and return its exit status."""
    python = locate_environment(load_image(image)) / "bin" / "python"
    paths = os.pathsep.join([str(ROOT), str(HERE)])
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [str(python), "-s", *map(str, arguments)]
    return subprocess.run(command, env=given, check=False).returncode
