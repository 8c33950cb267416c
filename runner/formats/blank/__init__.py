"""Graph files with their weights blanked: same structure, same size, zeros where numbers were.

A conversion's failure hardly ever depends on the weights' values, so such a file still shows it,
and says nothing of what was learned. Bytes are overwritten in place, so no length in the file
changes, and nothing has to be understood but where constants lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runner.formats.blank.protobuf import blank_frozen_graph, blank_onnx
from runner.formats.blank.tflite import blank_tflite
from runner.formats.blank.values import Unreadable

BLANK: Mapping[str, Callable[[bytearray], None]] = {
    ".onnx": blank_onnx,
    ".pb": blank_frozen_graph,
    ".tflite": blank_tflite,
}

__all__ = ["BLANK", "Unreadable"]
