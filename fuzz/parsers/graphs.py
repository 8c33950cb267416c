"""Graph files: their summaries, and the copies of them without weights for bug reports."""

from __future__ import annotations

from pathlib import Path

from fuzz import seeds
from fuzz.harness import Harness
from fuzz.parsers.models import read
from runner.formats.blank import BLANK, Unreadable

_FIELDS = (
    b"\x0a",
    b"\x12",
    b"\x2a",
    b"\x3a",
    b"\x42",
    b"\x08",
    b"\xff\xff\xff\xff\x0f",
    b"\x3a\x80",
)


def _blanked(suffix: str, data: bytes) -> bool:
    made = bytearray(data)
    try:
        BLANK[suffix](made)
    except Unreadable:
        return False
    assert len(made) == len(data), "a copy without weights has another size"
    return True


def _onnx(data: bytes, folder: Path) -> bool:
    return bool(_blanked(".onnx", data) & read(data, folder))


def _graph(data: bytes, folder: Path) -> bool:
    return bool(_blanked(".pb", data) & read(data, folder))


def _tflite(data: bytes, folder: Path) -> bool:
    return bool(_blanked(".tflite", data) & read(data[:4] + b"TFL3" + data[8:], folder))


HARNESSES = [
    Harness("onnx", lambda: [seeds.onnx_model()], _onnx, _FIELDS),
    Harness("frozen-graph", lambda: [seeds.graph_def(), seeds.saved_model()], _graph, _FIELDS),
    Harness("tflite", lambda: [seeds.tflite()], _tflite, (b"\x04\0\0\0", b"\xfc\xff\xff\xff")),
]
