"""Blanking of the weights in ONNX models and frozen graphs, which are protocol buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.formats.blank.values import MOST_ELEMENTS, Unreadable, is_plain
from runner.formats.protobuf import (
    BYTES,
    VARINT,
    Budget,
    Malformed,
    Message,
    TooMuch,
    decode_signed,
    read_varint,
)

# A text attribute longer than this is data.
_LONGEST_TEXT = 256
_DEEPEST = 64
# Lists that are not packed have a field for each number.
_MOST_FIELDS = 1_000_000
_LARGEST = 1 << 20
# Keeps the continuation bit of each byte: a varint of zeros with the same length.
_ZEROS = bytes(byte & 0x80 for byte in range(256))


@dataclass(frozen=True)
class _Message:
    """A message's fields by number: messages to descend into, and what may have to be blanked.

    `texts` are blanked if they are long, `documents` always (exporters put file names there),
    `numbers` unless they are plain. All other fields describe the graph's structure, and are kept.
    """

    inner: Mapping[int, str] = field(default_factory=dict)
    texts: frozenset[int] = frozenset()
    documents: frozenset[int] = frozenset()
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Tensor:
    """The message of a constant: what describes it is kept, the rest is its data.

    `raw` is the field with its bytes as they are in memory, `type` the one with its element type,
    and `forms` maps that type to the `struct` format of the bytes. `floats`, `doubles` and `whole`
    are lists.
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
    """A file format: its messages by name ('Model' is the whole file), and that of constants."""

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
    _blank_file(data, _ONNX)


def blank_frozen_graph(data: bytearray) -> None:
    """Blank a frozen graph's weights in place. Raises `Unreadable`."""
    _blank_file(data, _GRAPH_DEF)


def _blank_file(data: bytearray, form: _Format) -> None:
    try:
        _blank(Message(data, 0, len(data), Budget(_MOST_FIELDS)), "Model", form)
    except Malformed:
        raise Unreadable("it is cut off or damaged") from None
    except TooMuch:
        raise Unreadable("it has more fields than any model") from None


def _blank(message: Message, kind: str, form: _Format, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise Unreadable("it is nested too deeply")
    data, known = message.data, form.messages[kind]
    assert isinstance(data, bytearray)
    numbers = []
    for span in message.spans():
        inner = known.inner.get(span.number)
        part = Message(data, span.start, span.end, message.budget)
        if span.number in known.numbers:
            numbers.append(span)
        elif span.wire != BYTES:
            continue
        elif inner == "Tensor":
            _blank_tensor(part, form.tensor)
        elif inner is not None:
            _blank(part, inner, form, depth + 1)
        elif span.number in known.documents:
            data[span.start : span.end] = b" " * (span.end - span.start)
        elif span.number in known.texts and span.end - span.start > _LONGEST_TEXT:
            data[span.start : span.end] = bytes(span.end - span.start)
    # A list that is not packed has a field for each element.
    few = len(numbers) <= MOST_ELEMENTS
    for span in numbers:
        if not few or not is_plain(data, span.start, span.end, "f"):
            data[span.start : span.end] = bytes(span.end - span.start)


def _blank_tensor(message: Message, tensor: _Tensor) -> None:
    data = message.data
    assert isinstance(data, bytearray)
    element = message.number(tensor.type)
    contents = [span for span in message.spans() if span.number not in tensor.kept]
    forms = {tensor.floats: "f", tensor.doubles: "d", tensor.raw: tensor.forms.get(element, "")}
    for span in contents:
        varints = span.wire == VARINT or span.number in tensor.whole
        plain = (
            span.number in tensor.whole and _is_plain_varints(data, span.start, span.end)
            if varints
            else is_plain(data, span.start, span.end, forms.get(span.number, ""))
        )
        # Several fields are a long list that is not packed, or a mixture that should not exist.
        if len(contents) > 1 or not plain:
            data[span.start : span.end] = (
                data[span.start : span.end].translate(_ZEROS)
                if varints
                else bytes(span.end - span.start)
            )


def _is_plain_varints(data: bytearray, start: int, end: int) -> bool:
    if end - start > MOST_ELEMENTS * 10:  # bytes of the longest varint
        return False
    values = []
    while start < end:
        value, start = read_varint(data, start, end)
        values.append(decode_signed(value))
    return len(values) <= MOST_ELEMENTS and all(abs(value) < _LARGEST for value in values)
