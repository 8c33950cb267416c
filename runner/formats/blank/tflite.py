"""Blanking the weights of TensorFlow Lite models, which are FlatBuffers."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

from runner.formats.blank.values import Unreadable, is_plain

# tensorflow/lite/schema/schema.fbs: the places of fields in their tables, and element types.
_MODEL_SUBGRAPHS, _MODEL_BUFFERS, _SUBGRAPH_TENSORS, _TENSOR_TYPE, _TENSOR_BUFFER = 2, 4, 0, 1, 2
_BUFFER_DATA, _BUFFER_OFFSET = 0, 1
# Offsets may point to one place from a million others; the largest models have some 10,000 tables.
_MOST_TABLES = 500_000
_TFLITE_FORMATS = {0: "f", 2: "i", 4: "q", 6: "?", 10: "d"}


def blank_tflite(data: bytearray) -> None:
    """Blank a TensorFlow Lite model's weights in place: the buffers of its tensors.

    Raises `Unreadable`.
    """
    try:
        _blank(data)
    except (struct.error, IndexError) as error:
        raise Unreadable("it is not a TensorFlow Lite model") from error


def _blank(data: bytearray) -> None:
    if data[4:8] != b"TFL3":
        raise Unreadable("it is not a TensorFlow Lite model")
    model = _u32(data, 0)
    forms: dict[int, str] = {}
    tables = itertools.count()
    left = len(data)
    for graph in itertools.islice(_vector(data, model, _MODEL_SUBGRAPHS), _MOST_TABLES):
        for tensor in _vector(data, graph, _SUBGRAPH_TENSORS):
            if next(tables) > _MOST_TABLES:
                raise Unreadable("it has more tables than any model")
            kind = _entry(data, tensor, _TENSOR_TYPE)
            buffer = _entry(data, tensor, _TENSOR_BUFFER)
            forms[_u32(data, buffer) if buffer else 0] = _TFLITE_FORMATS.get(
                data[kind] if kind else 0, ""
            )
    for index, buffer in enumerate(_vector(data, model, _MODEL_BUFFERS)):
        if _entry(data, buffer, _BUFFER_OFFSET):
            raise Unreadable("its buffers lie outside of the model, as in files above 2 GB")
        place = _entry(data, buffer, _BUFFER_DATA)
        if not place:
            continue
        begin = place + _u32(data, place) + 4
        stop = begin + _u32(data, begin - 4)
        left -= stop - begin  # buffers do not overlap, so together they are within the file
        if stop > len(data) or left < 0 or next(tables) > _MOST_TABLES:
            raise Unreadable("it is cut off or damaged")
        if not is_plain(data, begin, stop, forms.get(index, "")):
            data[begin:stop] = bytes(stop - begin)


def _u32(data: bytearray, place: int) -> int:
    if place < 0:
        raise IndexError(place)
    return int(struct.unpack_from("<I", data, place)[0])


def _entry(data: bytearray, table: int, number: int) -> int:
    """Where a table's field lies; 0 if it is not there."""
    vtable = table - int(struct.unpack_from("<i", data, table)[0])
    if vtable < 0:
        raise IndexError(vtable)
    size = int(struct.unpack_from("<H", data, vtable)[0])
    slot = 4 + 2 * number
    offset = int(struct.unpack_from("<H", data, vtable + slot)[0]) if slot + 2 <= size else 0
    return table + offset if offset else 0


def _vector(data: bytearray, table: int, number: int) -> Iterator[int]:
    """The tables of a table's field that is a vector of them."""
    place = _entry(data, table, number)
    if not place:
        return
    begin = place + _u32(data, place)
    count = _u32(data, begin)
    if begin + 4 + 4 * count > len(data):
        raise IndexError(count)
    for index in range(count):
        element = begin + 4 + 4 * index
        yield element + _u32(data, element)
