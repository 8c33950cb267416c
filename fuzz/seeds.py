"""Small valid files of every format, written by hand: what the fuzzer starts from."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: tuple[int, int | bytes | str]) -> bytes:
    """A protocol buffer."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def onnx_model() -> bytes:
    """y = Gemm(x, w), and an If with a graph in it."""
    shape = message((1, message((1, 1))), (1, message((2, "batch"))))
    info = message((1, "x"), (2, message((1, message((1, 1), (2, shape))))), (3, "a note"))
    weight = message((1, 4), (1, 3), (2, 1), (8, "w"), (9, bytes(range(48))))
    listed = message((1, 2), (2, 7), (8, "s"), (7, b"\x01\x02"))
    inner = message((1, message((1, "a"), (2, "b"), (4, "Relu"))), (2, "inner"))
    chosen = message((1, "then_branch"), (6, inner), (20, 5))
    floats = message((1, "alpha"), (7, struct.pack("<2f", 1, 2)), (20, 6))
    nodes = [
        message((1, "x"), (1, "w"), (2, "y"), (3, "n"), (4, "Gemm"), (5, floats), (6, "doc")),
        message((1, "c"), (2, "z"), (4, "If"), (5, chosen), (7, "ai.onnx")),
        message((1, "c"), (2, "q"), (4, "Own"), (7, "com.example")),
    ]
    graph = message(
        *[(1, node) for node in nodes],
        *((2, "g"), (5, weight), (5, listed), (11, info), (12, info)),
    )
    head = message((1, 6), (2, "pytorch"), (3, "1.5"))
    return head + message((7, graph), (8, message((2, 11))), (14, message((1, "k"), (2, "v"))))


def graph_def() -> bytes:
    """A placeholder, a constant, a convolution and a function."""

    def attribute(key: str, value: bytes) -> tuple[int, bytes]:
        return 5, message((1, key), (2, value))

    sizes = message((2, message((1, 1))), (2, message((1, 8))), (2, message((1, -1))))
    tensor = message((1, 1), (2, sizes), (4, bytes(range(32))))
    nodes = [
        message(
            *((1, "image"), (2, "Placeholder"), attribute("dtype", message((6, 1)))),
            attribute("shape", message((7, sizes))),
        ),
        message((1, "w"), (2, "Const"), attribute("value", message((8, tensor)))),
        message(
            *((1, "c"), (2, "Conv2D"), (3, "image"), (3, "w:0")),
            attribute("data_format", message((2, "NHWC"))),
            attribute("list", message((1, message((3, 1), (4, struct.pack("<f", 0.5)))))),
        ),
    ]
    function = message((1, message((1, "f"))), (3, nodes[2]))
    library = message((1, function))
    versions = message((1, 561), (2, 12))
    return message(*[(1, node) for node in nodes], (2, library), (4, versions))


def saved_model() -> bytes:
    end = message((1, "x"), (2, message((1, "x:0"), (2, 1), (3, message((2, message((1, 1))))))))
    signature = message((1, "serving_default"), (2, message((1, end), (2, end))))
    info = message((4, "serve"), (5, "2.4.0"))
    meta = message((1, info), (2, graph_def()), (5, signature), (7, b"\x0a\x00"))
    return message((1, 1), (2, meta))


@dataclass(frozen=True)
class Table:
    """A FlatBuffers table: each field a number as (form, value), a part, or None."""

    fields: Sequence[Any]


def flatbuffer(root: Table, identifier: bytes = b"TFL3") -> bytes:
    """Tables, vectors of tables (lists), of numbers (form, values) and strings (bytes)."""
    out = bytearray(8)
    out[4:8] = identifier
    out[0:4] = struct.pack("<I", _emit(root, out))
    return bytes(out)


def _emit(part: Any, out: bytearray) -> int:
    out += bytes(-len(out) % 8)
    if isinstance(part, Table):
        return _emit_table(part, out)
    at = len(out)
    if isinstance(part, bytes):
        out += struct.pack("<I", len(part)) + part + b"\0"
    elif isinstance(part, tuple):
        out += struct.pack(f"<I{len(part[1])}{part[0]}", len(part[1]), *part[1])
    else:
        out += struct.pack("<I", len(part)) + bytes(4 * len(part))
        for index, item in enumerate(part):
            place = at + 4 + 4 * index
            out[place : place + 4] = struct.pack("<I", _emit(item, out) - place)
    return at


def _emit_table(table: Table, out: bytearray) -> int:
    size = 4 + 2 * len(table.fields)
    vtable = len(out)
    out += bytes(size + -size % 8)
    at = len(out)
    out += struct.pack("<i", at - vtable) + bytes(4 + 8 * len(table.fields))
    struct.pack_into("<HH", out, vtable, size, len(out) - at)
    for index, value in enumerate(table.fields):
        if value is None:
            continue
        place = at + 8 + 8 * index
        struct.pack_into("<H", out, vtable + 4 + 2 * index, place - at)
        if isinstance(value, tuple) and isinstance(value[1], int | float):
            struct.pack_into(f"<{value[0]}", out, place, value[1])
        else:
            struct.pack_into("<I", out, place, _emit(value, out) - place)
    return at


def tflite() -> bytes:
    """A transposed input, a convolution and an operator of one's own."""
    scale = Table([None, None, ("f", [0.5]), ("q", [3])])
    image = Table([("i", [1, 3, 8, 8]), ("b", 0), ("I", 0), b"image", scale, None, None, ("i", [])])
    order = Table([("i", [4]), ("b", 2), ("I", 1), b"order"])
    weights = Table([("i", [1, 2]), ("b", 0), ("I", 2), b"weights", scale])
    operators = [
        Table([("I", 0), ("i", [0, 1]), ("i", [2])]),
        Table([("I", 1), ("i", [0, 2]), ("i", [2])]),
        Table([("I", 2), ("i", [0, 2]), ("i", [2])]),
    ]
    graph = Table([[image, order, weights], ("i", [0]), ("i", [2]), operators, b"main"])
    codes = [
        Table([("b", 39), None, ("i", 1), ("i", 39)]),
        Table([("b", 3), None, ("i", 2)]),
        Table([("b", 32), b"FlexErf", ("i", 1)]),
    ]
    buffers = [
        Table([]),
        Table([("B", list(struct.pack("<4i", 0, 2, 3, 1)))]),
        Table([("B", list(range(8)))]),
        Table([("B", list(b"1.5.0\0"))]),
    ]
    metadata = [Table([b"min_runtime_version", ("I", 3)])]
    signatures = [Table([None, None, b"serving_default"])]
    root = [("I", 3), codes, [graph], b"MLIR Converted.", buffers, None, metadata, signatures]
    return flatbuffer(Table(root))


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _tensor(key: str) -> bytes:
    storage = b"(" + _text("storage") + _name("torch", "FloatStorage") + _text(key) + _text("cpu")
    storage += b"K\x0ctQ"
    ordered = _name("collections", "OrderedDict") + b")R"
    sizes = b"K\x00(K\x04K\x03t(K\x03K\x01t\x89"
    return _name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + sizes + ordered + b"tR"


def state_dict(protocol: int = 2) -> bytes:
    items = b"(" + _text("weight") + _tensor("0") + _text("bias") + _tensor("1") + b"u"
    return (
        b"\x80"
        + bytes([protocol])
        + _name("collections", "OrderedDict")
        + b")Rq\x00"
        + items
        + b"."
    )


def checkpoint() -> bytes:
    inner = state_dict()[2:-1]
    return b"\x80\x02}q\x01(" + _text("epoch") + b"K\x07" + _text("state_dict") + inner + b"u."


def module() -> bytes:
    """A pickled module with a submodule, of which one is of the user's own class."""
    state = b"}(" + _text("_modules") + b"}(" + _text("0") + _name("mine", "Block") + b")\x81}b"
    state += b"u" + _text("_parameters") + b"}(" + _text("w")
    state += _name("torch._utils", "_rebuild_parameter") + b"(" + _tensor("0") + b"\x88)tRuu"
    return (
        b"\x80\x02" + _name("torch.nn.modules.container", "Sequential") + b")\x81" + state + b"b."
    )


def legacy(pickled: bytes) -> bytes:
    """A file of torch.save's first format around a pickled object."""
    head = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    head += b"\x80\x02M\xe9\x03." + b"\x80\x02}(" + _text("little_endian") + b"\x88u."
    keys = b"\x80\x02](" + _text("0") + _text("1") + b"e."
    return head + pickled + keys + (struct.pack("<q", 12) + bytes(48)) * 2


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
        return file.getvalue()


def torch_zip(pickled: bytes, version: bytes = b"2\n", script: bool = False) -> bytes:
    members = {"m/data.pkl": pickled, "m/version": version, "m/data/0": bytes(48)}
    if script:
        members |= {"m/constants.pkl": b"\x80\x02).", "m/code/a.py": b"def forward(self): pass\n"}
    return zipped(members)
