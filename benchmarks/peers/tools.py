"""The converters that are compared: what each starts from, and how it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import runner
from peers.environments import Environment

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Work:
    """The files of one network: weights.pt, inputs.npy, reference.npy, and what tools make."""

    name: str
    shape: Sequence[int]
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "weights.pt"

    @property
    def onnx(self) -> Path:
        """The export of torch 1.5.1 without any fix, which is what peers that read ONNX get."""
        return self.folder / "faithful" / "model.onnx"


@dataclass(frozen=True)
class Tool:
    """A converter. `environment` is None for this project's own command.

    `toolchain` is the one that this takes, `only` the networks that it is for (none: all).
    """

    name: str
    title: str
    starts_from: str
    environment: Environment | None = None
    options: tuple[str, ...] = ()
    toolchain: str = ""
    artifact: str = "model.tflite"
    only: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        return self.environment is None

    def result(self, work: Work) -> Path:
        """Where the tool's .tflite of a network is."""
        if self.ours:
            return work.folder / self.name / self.artifact
        return work.folder / f"{self.name}.tflite"

    def command(self, work: Work) -> list[str]:
        if self.environment is None:
            shape = "x".join(map(str, work.shape))
            folder = self.result(work).parent
            script = [sys.executable, HERE / "ours.py", work.weights, folder]
            year = ("--toolchain", self.toolchain) if self.toolchain else ()
            return [*map(str, script), work.name, shape, *self.options, *year]
        source = work.onnx if self.starts_from == "ONNX" else work.weights
        script = [self.environment.python, HERE / self.name / "convert.py"]
        return [*map(str, script), str(source), str(self.result(work)), work.name]


_ONNX2TF, _LITERT = Environment("onnx2tf"), Environment("litert_torch")

# The order matters: the first one leaves the ONNX file that others read.
TOOLS = (
    Tool("faithful", f"runner {runner.__version__} --faithful", "PyTorch", options=("--faithful",)),
    Tool("runner", f"runner {runner.__version__}", "PyTorch"),
    Tool(
        "runner_nhwc",
        f"runner {runner.__version__} --io-layout nhwc",
        "PyTorch",
        options=("--io-layout", "nhwc"),
    ),
    Tool(
        "runner_litert",
        f"runner {runner.__version__} --target litert",
        "PyTorch",
        toolchain="2020-09+litert",
        artifact="model.litert.tflite",
        only=("resnext50_32x4d",),
    ),
    *(
        Tool(
            f"runner_{year}",
            f"runner {runner.__version__} --toolchain {year}",
            "PyTorch",
            toolchain=year,
        )
        for year in ("2022", "2024-onnx2tf", "2026-onnx2tf", "2026")
    ),
    Tool("onnx2tf", f"onnx2tf {_ONNX2TF.version_of('onnx2tf')}", "ONNX", _ONNX2TF),
    Tool("litert_torch", f"litert-torch {_LITERT.version_of('litert-torch')}", "PyTorch", _LITERT),
)


def list_tools(network: str) -> list[Tool]:
    """List the tools that are measured with a network."""
    return [tool for tool in TOOLS if not tool.only or network in tool.only]
