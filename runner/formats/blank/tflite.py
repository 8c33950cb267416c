"""Blanking of the weights in TensorFlow Lite models, which are FlatBuffers."""

from __future__ import annotations

from runner.formats.blank.values import Unreadable, is_plain
from runner.formats.flatbuffer import Buffer
from runner.formats.protobuf import Budget, Malformed, TooMuch

# tensorflow/lite/schema/schema.fbs: the indices of fields in their tables, and element types.
_MODEL_SUBGRAPHS, _MODEL_BUFFERS, _SUBGRAPH_TENSORS, _TENSOR_TYPE, _TENSOR_BUFFER = 2, 4, 0, 1, 2
_BUFFER_DATA, _BUFFER_OFFSET = 0, 1
# Offsets may point to one place from a million others; the largest models have some 10,000 tables.
_MOST_TABLES = 250_000
_FORMS = {0: "f", 2: "i", 4: "q", 6: "?", 10: "d"}


def blank_tflite(data: bytearray) -> None:
    """Blank a TensorFlow Lite model's tensor buffers in place. Raises `Unreadable`."""
    if data[4:8] != b"TFL3":
        raise Unreadable("it is not a TensorFlow Lite model")
    try:
        _blank(data)
    except (Malformed, TooMuch):
        raise Unreadable("it is cut off or damaged") from None


def _blank(data: bytearray) -> None:
    model = Buffer(data, Budget(_MOST_TABLES)).root()
    forms = {
        tensor.number(_TENSOR_BUFFER, "I"): _FORMS.get(tensor.number(_TENSOR_TYPE, "b"), "")
        for graph in model.tables(_MODEL_SUBGRAPHS)
        for tensor in graph.tables(_SUBGRAPH_TENSORS)
    }
    left = len(data)
    for index, buffer in enumerate(model.tables(_MODEL_BUFFERS)):
        if buffer.number(_BUFFER_OFFSET, "Q"):
            raise Unreadable("its buffers lie outside of the model, as in files above 2 GB")
        if not buffer.place(_BUFFER_DATA):
            continue
        begin = buffer.place(_BUFFER_DATA) + 4
        stop = begin + buffer.length(_BUFFER_DATA)
        left -= stop - begin  # buffers do not overlap, so together they are within the file
        if stop > len(data) or left < 0:
            raise Malformed
        if not is_plain(data, begin, stop, forms.get(index, "")):
            data[begin:stop] = bytes(stop - begin)
