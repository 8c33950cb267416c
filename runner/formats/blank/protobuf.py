"""Blanking the weights of ONNX models and frozen graphs, which are protocol buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from runner.formats.blank.values import MOST_ELEMENTS, Unreadable, is_plain

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# A text attribute longer than this is data.
_LONGEST_TEXT = 256
_DEEPEST = 64
# Of one tensor: lists that are not packed have a field for each number.
_MOST_FIELDS = 1_000_000
_LARGEST = 1 << 20
# Of each byte of a varint, whether another one follows: the same number of zeros.
_ZEROS = bytes(byte & 0x80 for byte in range(256))


@dataclass(frozen=True)
class _Message:
    """A message's fields by number: messages to go into, and what in it may have to be blanked.

    `texts` are blanked if they are long, `documents` always (exporters put file names there),
    `numbers` unless they are plain. Every other field says how the graph is built, and is kept.
    """

    inner: Mapping[int, str] = field(default_factory=dict)
    texts: frozenset[int] = frozenset()
    documents: frozenset[int] = frozenset()
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Tensor:
    """A constant's message: what describes it is kept, the rest is its data.

    `raw` is the field of its bytes as they are in memory, `type` that of its element type, and
    `forms` says how to read them, by that type. `floats`, `doubles` and `whole` are lists.
    """

    kept: frozenset[int]
    raw: int
    type: int
    floats: int
    doubles: int
    whole: frozenset[int]
    forms: Mapping[int, str]


@dataclass(frozen=True)
class _Format:
    """A kind of file: its messages by name ('Model' is the whole), and that of constants."""

    messages: Mapping[str, _Message]
    tensor: _Tensor


_ONNX = _Format(  # onnx.proto
    {
        "Model": _Message(
            {7: "Graph", 14: "Property", 20: "Training", 25: "Function"},
            documents=frozenset({6}),
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
    },
    _Tensor(
        # dims, data_type, segment, name, external_data, data_location
        frozenset({1, 2, 3, 8, 13, 14}),
        raw=9,
        type=2,
        floats=4,
        doubles=10,
        whole=frozenset({7, 11}),  # int64_data, uint64_data
        forms={1: "f", 6: "i", 7: "q", 9: "?", 11: "d", 12: "I", 13: "Q"},
    ),
)
_GRAPH_DEF = _Format(  # graph.proto, node_def.proto, attr_value.proto, function.proto
    {
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
    },
    _Tensor(
        frozenset({1, 2, 3}),  # dtype, tensor_shape, version_number
        raw=4,
        type=1,
        floats=5,
        doubles=6,
        whole=frozenset({7, 10, 11, 16, 17}),  # int, int64, bool, uint32, uint64
        forms={1: "f", 2: "d", 3: "i", 9: "q", 10: "?", 22: "I", 23: "Q"},
    ),
)


def blank_onnx(data: bytearray) -> None:
    """Blank an ONNX model's weights in place. Raises `Unreadable`."""
    _blank(data, 0, len(data), "Model", _ONNX)


def blank_frozen_graph(data: bytearray) -> None:
    """Blank a frozen graph's weights in place. Raises `Unreadable`."""
    _blank(data, 0, len(data), "Model", _GRAPH_DEF)


def _blank(data: bytearray, start: int, end: int, kind: str, form: _Format, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise Unreadable("it is nested too deeply")
    message = form.messages[kind]
    numbers = []
    for number, wire, begin, stop in _fields(data, start, end):
        inner = message.inner.get(number)
        if number in message.numbers:
            numbers.append((begin, stop))
        elif wire != _BYTES:
            continue
        elif inner == "Tensor":
            _blank_tensor(data, begin, stop, form.tensor)
        elif inner is not None:
            _blank(data, begin, stop, inner, form, depth + 1)
        elif number in message.documents:
            data[begin:stop] = b" " * (stop - begin)
        elif number in message.texts and stop - begin > _LONGEST_TEXT:
            data[begin:stop] = bytes(stop - begin)
    # A list that is not packed is a field an element.
    few = len(numbers) <= MOST_ELEMENTS
    for begin, stop in numbers:
        if not few or not is_plain(data, begin, stop, "f"):
            data[begin:stop] = bytes(stop - begin)


def _blank_tensor(data: bytearray, start: int, end: int, tensor: _Tensor) -> None:
    every = []
    for found in _fields(data, start, end):
        every.append(found)
        if len(every) > _MOST_FIELDS:
            raise Unreadable("a tensor in it has more fields than any has")
    element = next(
        (_varint(data, f[2], end)[0] for f in every if f[0] == tensor.type and f[1] == _VARINT), 0
    )
    contents = [f for f in every if f[0] not in tensor.kept]
    forms = {tensor.floats: "f", tensor.doubles: "d", tensor.raw: tensor.forms.get(element, "")}
    for number, wire, begin, stop in contents:
        varints = wire == _VARINT or number in tensor.whole
        plain = (
            number in tensor.whole and _is_plain_varints(data, begin, stop)
            if varints
            else is_plain(data, begin, stop, forms.get(number, ""))
        )
        # More than one field is a long list that is not packed, or a mixture that none should be.
        if len(contents) > 1 or not plain:
            data[begin:stop] = (
                data[begin:stop].translate(_ZEROS) if varints else bytes(stop - begin)
            )


def _is_plain_varints(data: bytearray, start: int, end: int) -> bool:
    if end - start > MOST_ELEMENTS * 10:  # bytes of the longest varint
        return False
    values = []
    while start < end:
        value, start = _varint(data, start, end)
        values.append(value - (1 << 64) if value >> 63 else value)
    return len(values) <= MOST_ELEMENTS and all(abs(value) < _LARGEST for value in values)


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


def _varint(data: bytearray, position: int, end: int) -> tuple[int, int]:
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
