"""All kinds of files in one map, by the name that an inspection gives each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.schemas.inspection import Format


@dataclass(frozen=True)
class Kind:
    """A kind of file; `start` is the key in STARTS for toolchains that accept it, '' if none does.

    `suffixes` are the usual suffixes of such files.
    """

    title: str
    start: str = ""
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """What a toolchain can start from, and the command-line option for it."""

    title: str
    option: str


STARTS: Mapping[str, Start] = {
    "pytorch": Start("a PyTorch model", "--model"),
    "onnx": Start("an ONNX model", "--from-onnx"),
    "frozen-graph": Start("a frozen graph", "--from-pb"),
}

_TORCH = (".pt", ".pth")
KINDS: Mapping[Format, Kind] = {
    "torchscript": Kind("TorchScript archive", "pytorch", _TORCH),
    "torch-module": Kind("pickled module", "pytorch", _TORCH),
    "state-dict": Kind("state_dict", "pytorch", (*_TORCH, ".safetensors")),
    "checkpoint": Kind("checkpoint with a state_dict", "pytorch", _TORCH),
    "torch-export": Kind("program of torch.export", "pytorch", (*_TORCH, ".pt2")),
    "torch-other": Kind("file of torch.save", "pytorch", _TORCH),
    "onnx": Kind("ONNX model", "onnx", (".onnx", ".pb")),
    "frozen-graph": Kind("frozen graph", "frozen-graph", (".pb",)),
    "graph": Kind("graph with variables", "frozen-graph", (".pb",)),
    "saved-model": Kind("SavedModel", suffixes=(".pb",)),
    "meta-graph": Kind("MetaGraph", suffixes=(".meta",)),
    "tflite": Kind("TensorFlow Lite model", suffixes=(".tflite", ".lite")),
    "keras": Kind("Keras model", suffixes=(".h5", ".keras")),
    "other": Kind("file", suffixes=(".h5",)),
}
# The formats of artifacts, which are told apart by name: each has its own suffix.
_ARTIFACTS: Mapping[str, Format] = {
    ".onnx": "onnx",
    ".pb": "frozen-graph",
    ".tflite": "tflite",
}


def list_usual_formats(path: Path) -> set[Format]:
    """Return the formats whose files usually have this suffix; none if it tells nothing."""
    suffix = path.suffix.lower()
    return {name for name, kind in KINDS.items() if suffix in kind.suffixes}


def get_artifact_format(path: Path) -> Format:
    """Return the format that an artifact is loaded as; an unknown one counts as a program."""
    return _ARTIFACTS.get(path.suffix, "torch-module")


def add_article(noun: str) -> str:
    """Return a noun with its article: 'an ONNX model', 'a frozen graph'."""
    return f"{'an' if noun[:1] in 'AEIOaeio' else 'a'} {noun}"
