"""Graph files with their weights blanked: same structure, same size, zeros where numbers were.

A conversion's failure hardly ever depends on the weights' values, so such a file still shows it, and
says nothing of what was learned. Bytes are overwritten in place, so no length in the file changes,
and nothing has to be understood but where constants lie.

What is kept is what shapes are made of: constants of at most 16 elements whose values are small whole
numbers or simple fractions. Everything unknown in a constant is blanked, not kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_ELEMENTS = 16
_LARGEST = 1 << 20
# A text attribute longer than this is data.
_LONGEST_TEXT = 256
_DEEPEST = 64


class Unreadable(Exception):
    """The file is not what it should be; nothing of it is handed on."""


@dataclass(frozen=True)
class _Message:
    """A protocol buffer's fields by number: messages to go into, and texts and tensors to blank.

    `numbers` are repeated numbers that are blanked if there are many; every other field is kept,
    unless `only` is set: then what is not named is blanked.
    """

    inner: Mapping[int, str] = field(default_factory=dict)
    texts: frozenset[int] = frozenset()
    documents: frozenset[int] = frozenset()
    numbers: frozenset[int] = frozenset()


# onnx.proto. Documents hold whatever an exporter put there: file names, often.
_ONNX: Mapping[str, _Message] = {
    "Model": _Message(
        {7: "Graph", 14: "Property", 20: "Training", 25: "Function"}, documents=frozenset({6})
    ),
    "Property": _Message(documents=frozenset({2})),
    "Training": _Message({1: "Graph", 2: "Graph"}),
    "Function": _Message({7: "Node"}, documents=frozenset({8})),
    "Graph": _Message(
        {1: "Node", 5: "Tensor", 11: "Value", 12: "Value", 13: "Value", 15: "Sparse"},
        documents=frozenset({10}),
    ),
    "Value": _Message(documents=frozenset({3})),
    "Node": _Message({5: "Attribute"}, documents=frozenset({6})),
    "Attribute": _Message(
        {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
        texts=frozenset({4, 9}),
        documents=frozenset({13}),
        numbers=frozenset({7}),
    ),
    "Sparse": _Message({1: "Tensor", 2: "Tensor"}),
}
# graph.proto, node_def.proto, attr_value.proto, function.proto
_TENSORFLOW: Mapping[str, _Message] = {
    "Model": _Message({1: "Node", 2: "Library"}),
    "Library": _Message({1: "Function"}),
    "Function": _Message({3: "Node", 5: "Entry", 7: "ArgumentEntry"}),
    "ArgumentEntry": _Message({2: "ArgumentAttributes"}),
    "ArgumentAttributes": _Message({1: "Entry"}),
    "Node": _Message({5: "Entry"}),
    "Entry": _Message({2: "Value"}),
    "Value": _Message({1: "List", 8: "Tensor", 10: "Named"}, texts=frozenset({2})),
    "List": _Message({8: "Tensor", 9: "Named"}, texts=frozenset({2}), numbers=frozenset({4})),
    "Named": _Message({2: "Entry"}),
}


@dataclass(frozen=True)
class _Tensor:
    """A constant's message: what describes it is kept, the rest is its data.

    `raw` is the field of its bytes as they are in memory, `type` that of its element type; `sizes`
    gives bytes an element and how to read them, by that type.
    """

    kept: frozenset[int]
    raw: int
    type: int
    floats: int
    doubles: int
    whole: frozenset[int]
    formats: Mapping[int, str]


_ONNX_TENSOR = _Tensor(
    frozenset({1, 2, 3, 8, 14}),  # dims, data_type, segment, name, data_location
    raw=9,
    type=2,
    floats=4,
    doubles=10,
    whole=frozenset({7, 11}),  # int64_data, uint64_data
    formats={1: "f", 6: "i", 7: "q", 9: "?", 11: "d", 12: "I", 13: "Q"},
)
_TENSORFLOW_TENSOR = _Tensor(
    frozenset({1, 2, 3}),  # dtype, tensor_shape, version_number
    raw=4,
    type=1,
    floats=5,
    doubles=6,
    whole=frozenset({7, 10, 11, 16, 17}),  # int, int64, bool, uint32, uint64
    formats={1: "f", 2: "d", 3: "i", 9: "q", 10: "?", 22: "I", 23: "Q"},
)


def blank_onnx(data: bytearray) -> None:
    """Blank an ONNX model in place. Raises `Unreadable`."""
    _blank(data, 0, len(data), "Model", _ONNX, _ONNX_TENSOR, 0)


def blank_frozen_graph(data: bytearray) -> None:
    """Blank a frozen graph in place. Raises `Unreadable`."""
    _blank(data, 0, len(data), "Model", _TENSORFLOW, _TENSORFLOW_TENSOR, 0)


def blank_tflite(data: bytearray) -> None:
    """Blank a TensorFlow Lite model in place: the buffers of its tensors. Raises `Unreadable`."""
    try:
        _blank_tflite(data)
    except (struct.error, IndexError) as error:
        raise Unreadable("it is not a TensorFlow Lite model") from error


BLANK: Mapping[str, Callable[[bytearray], None]] = {
    ".onnx": blank_onnx,
    ".pb": blank_frozen_graph,
    ".tflite": blank_tflite,
}


def _blank(
    data: bytearray,
    start: int,
    end: int,
    kind: str,
    schema: Mapping[str, _Message],
    tensor: _Tensor,
    depth: int,
) -> None:
    if depth > _DEEPEST:
        raise Unreadable("it is nested too deeply")
    message = schema[kind]
    for number, wire, begin, stop in _fields(data, start, end):
        inner = message.inner.get(number)
        if wire != _BYTES:
            continue
        if inner == "Tensor":
            _blank_tensor(data, begin, stop, tensor)
        elif inner is not None:
            _blank(data, begin, stop, inner, schema, tensor, depth + 1)
        elif number in message.documents:
            data[begin:stop] = b" " * (stop - begin)
        elif number in message.texts and stop - begin > _LONGEST_TEXT:
            data[begin:stop] = bytes(stop - begin)
        elif number in message.numbers and not _plain(data[begin:stop], "f"):
            data[begin:stop] = bytes(stop - begin)


def _blank_tensor(data: bytearray, start: int, end: int, tensor: _Tensor) -> None:
    fields = [f for f in _fields(data, start, end) if f[0] not in tensor.kept]
    element = next(
        (
            _varint(data, begin, end)[0]
            for number, wire, begin, _ in _fields(data, start, end)
            if number == tensor.type and wire == _VARINT
        ),
        0,
    )
    # A list that is not packed is a field an element.
    alone = len(fields) <= 1
    for number, wire, begin, stop in fields:
        content = bytes(data[begin:stop])
        if wire == _VARINT or (wire == _BYTES and number in tensor.whole):
            if not (alone and number in tensor.whole and _plain_varints(content)):
                # As many numbers as before, each of them 0.
                data[begin:stop] = bytes(byte & 0x80 for byte in content)
            continue
        form = {
            tensor.floats: "f",
            tensor.doubles: "d",
            tensor.raw: tensor.formats.get(element, ""),
        }
        if not (alone and _plain(content, form.get(number, ""))):
            data[begin:stop] = bytes(stop - begin)


def _plain(content: bytes | bytearray, form: str) -> bool:
    """Whether these few numbers are such as shapes, axes, scales and bounds have."""
    size = struct.calcsize(form) if form else 0
    if not size or len(content) % size or len(content) > _MOST_ELEMENTS * size:
        return not content
    values = struct.unpack(f"<{len(content) // size}{form}", content)
    return all(abs(v) < _LARGEST and v * 16 == int(v * 16) for v in values if v == v) and all(
        v == v for v in values
    )


def _plain_varints(content: bytes) -> bool:
    values, position = [], 0
    while position < len(content):
        value, position = _varint(content, position, len(content))
        values.append(value - (1 << 64) if value >> 63 else value)
    return len(values) <= _MOST_ELEMENTS and all(abs(value) < _LARGEST for value in values)


def _fields(data: bytearray, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, and where the content begins and ends."""
    position = start
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            stop = _varint(data, position, end)[1]
        elif wire == _BYTES:
            length, position = _varint(data, position, end)
            stop = position + length
        elif wire in (_FIXED32, _FIXED64):
            stop = position + (4 if wire == _FIXED32 else 8)
        else:
            raise Unreadable("it is not a protocol buffer of this kind")
        if not number or stop > end:
            raise Unreadable("it is cut off or damaged")
        yield number, wire, position, stop
        position = stop


def _varint(data: bytes | bytearray, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise Unreadable("it is cut off or damaged")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Unreadable("it is not a protocol buffer of this kind")


# tensorflow/lite/schema/schema.fbs: the places of fields in their tables, and element types.
_MODEL_SUBGRAPHS, _MODEL_BUFFERS, _SUBGRAPH_TENSORS, _TENSOR_TYPE, _TENSOR_BUFFER = 2, 4, 0, 1, 2
_BUFFER_DATA, _BUFFER_OFFSET = 0, 1
_TFLITE_FORMATS = {0: "f", 2: "i", 4: "q", 6: "?", 10: "d"}


def _blank_tflite(data: bytearray) -> None:
    if data[4:8] != b"TFL3":
        raise Unreadable("it is not a TensorFlow Lite model")
    model = _u32(data, 0)
    forms: dict[int, str] = {}
    for graph in _vector(data, model, _MODEL_SUBGRAPHS):
        for tensor in _vector(data, graph, _SUBGRAPH_TENSORS):
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
        if stop > len(data):
            raise Unreadable("it is cut off or damaged")
        if not _plain(data[begin:stop], forms.get(index, "")):
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
