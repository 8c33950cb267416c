"""Blanking of the weights in graph files: same structure, same size, zeros instead of numbers.

Whether a conversion fails hardly ever depends on the values of weights, so a blanked file still
reproduces the failure, and reveals nothing that was learned. Bytes are overwritten in place, so no
length in the file changes, and only the locations of constants have to be known.
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
