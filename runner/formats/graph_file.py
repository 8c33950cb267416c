"""ONNX models and frozen graphs, told from other files on the host, which has neither framework.

Both are protocol buffers, whose wire format says where each field begins and ends, and nothing of
what it means. That is enough: an ONNX model has a graph (field 7) with nodes that name operators,
a frozen graph is a row of such nodes (field 1). Only the fields' heads are read.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.errors import BadInput
from runner.formats.model_file import Kind, ModelFile, identify, other_format
from runner.formats.protobuf import Budget, TooMuch
from runner.host.files import sha256_of

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_OPERATOR = re.compile(rb"[A-Za-z_][A-Za-z0-9_.>/-]*")
_HDF5_REMEDY = "Load it with Keras and export it: --from-onnx and --from-pb read the result."

# The fields of a file's outermost message that are looked at, by number.
_MODEL_GRAPH, _GRAPH_NODE, _NODE_OP_TYPE = 7, 1, 4  # onnx.proto
_GRAPH_DEF_NODE, _NODE_DEF_OP = 1, 2  # graph.proto, node_def.proto
_SAVED_MODEL_VERSION, _SAVED_MODEL_GRAPHS = 1, 2  # saved_model.proto


def identify_onnx(path: Path) -> ModelFile:
    """Tell whether a file is an ONNX model. Raises `BadInput`, with a remedy, if it is not."""
    return _identified(path, Kind.ONNX)


def identify_graph(path: Path) -> ModelFile:
    """Tell whether a file is a frozen graph. Raises `BadInput`, with a remedy, if it is not."""
    return _identified(path, Kind.FROZEN_GRAPH)


def identify_source(accepts: str, path: Path, arch: str = "") -> ModelFile:
    """Identify a file as what a toolchain accepts: 'pytorch', 'onnx' or 'frozen-graph'."""
    if accepts == "pytorch":
        return identify(path, arch)
    try:
        return _IDENTIFY[accepts](path)
    except KeyError:
        raise BadInput(
            f"The toolchain accepts '{accepts}', which nothing here identifies.",
            f"Known: pytorch, {', '.join(_IDENTIFY)}.",
        ) from None


_IDENTIFY: Mapping[str, Callable[[Path], ModelFile]] = {
    "onnx": identify_onnx,
    "frozen-graph": identify_graph,
}


def _identified(path: Path, wanted: Kind) -> ModelFile:
    if not path.exists():
        raise BadInput(f"There is no file {path}.")
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            raise BadInput(f"{path} is a SavedModel, not {_a(wanted)}.", _FREEZE)
        raise BadInput(f"{path} is a folder.", f"Name the file of {_a(wanted)}.")
    size = path.stat().st_size
    if not size:
        raise BadInput(f"{path} is empty.", "It was probably cut off when it was saved or copied.")
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            problem = _problem(data, size, wanted)
        if problem is not None:
            raise BadInput(f"{path} is {problem[0]}", problem[1])
        return ModelFile(path, wanted, sha256_of(path), size)
    except PermissionError:
        raise BadInput(f"{path} cannot be read: permission denied.") from None


_FREEZE = (
    "Freeze it: convert_variables_to_constants_v2 of the model's function (TensorFlow 2), or "
    "tf.compat.v1.graph_util.convert_variables_to_constants, written with SerializeToString()."
)


def _problem(data: mmap.mmap, size: int, wanted: Kind) -> tuple[str, str] | None:
    """What the file is instead of what is wanted, and what to do; None if it is that."""
    shape = _Shape.of(data, size)
    if shape.found is wanted and not shape.damaged:
        return None
    if shape.found is not None and shape.damaged:
        return (
            f"truncated or damaged: it begins as {_a(shape.found)} and ends too early.",
            "Copy or download it again.",
        )
    if shape.found is not None:
        option = "--from-onnx" if shape.found is Kind.ONNX else "--from-pb"
        return f"{_a(shape.found)}, not {_a(wanted)}.", f"Convert it with {option}."
    if shape.saved_model:
        return f"a SavedModel's file, not {_a(wanted)}.", _FREEZE
    if shape.meta_graph:
        return (
            "a MetaGraph (a checkpoint's .meta file), which has no weights in it.",
            "Freeze the graph with the checkpoint's weights first: "
            "tf.compat.v1.graph_util.convert_variables_to_constants.",
        )
    what, remedy = _otherwise(bytes(data[:512]), size)
    return f"{what}, not {_a(wanted)}.", remedy


def _otherwise(head: bytes, size: int) -> tuple[str, str]:
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a PyTorch file or another archive", "Convert a PyTorch model with --model."
    if head.startswith(b"\x89HDF\r\n"):
        return "an HDF5 file (Keras)", _HDF5_REMEDY
    if re.match(rb"\s*(#[^\n]*\n\s*)*(node|versions|library)\s*\{", head):
        return (
            "a graph as text (.pbtxt)",
            "Write it as binary: text_format.Parse(text, graph_def), then "
            "graph_def.SerializeToString().",
        )
    what, remedy = other_format(head, size)
    if what.startswith("in no format"):
        return what, "Name an ONNX model (--from-onnx) or a frozen graph (--from-pb)."
    return what, remedy


def _a(kind: Kind) -> str:
    return f"{'an' if kind is Kind.ONNX else 'a'} {kind.value}"


@dataclass(frozen=True)
class _Shape:
    """What a file's outermost message looks like."""

    found: Kind | None = None
    damaged: bool = False
    saved_model: bool = False
    meta_graph: bool = False

    @classmethod
    def of(cls, data: mmap.mmap, size: int) -> _Shape:
        """Reads no more fields than any model has: a file of more is told to be damaged."""
        budget = Budget()
        found: Kind | None = None
        first: dict[int, int] = {}  # the wire type of each field's first occurrence
        try:
            for number, kind, start, end in _fields(data, 0, size, budget):
                first.setdefault(number, kind)
                if found is None and kind == _BYTES:
                    found = _kind_of_part(data, number, start, min(end, size), budget)
                if end > size:
                    raise _Malformed
        except (_Malformed, TooMuch):
            return cls(found, damaged=True)
        versioned = first.get(_SAVED_MODEL_VERSION) == _VARINT
        saved_model = versioned and first.get(_SAVED_MODEL_GRAPHS) == _BYTES and len(first) == 2
        # A MetaGraph: its description (1) and a graph (2).
        meta_graph = {1: _BYTES, 2: _BYTES}.items() <= first.items()
        return cls(found, False, saved_model, meta_graph)


def _kind_of_part(
    data: mmap.mmap, number: int, start: int, end: int, budget: Budget
) -> Kind | None:
    """What a file is that has this field in its outermost message, if that tells."""
    if number == _MODEL_GRAPH:
        graph = _fields_within(data, start, end, _GRAPH_NODE, budget)
        if any(_names_operator(data, *node, _NODE_OP_TYPE, budget) for node in graph):
            return Kind.ONNX
    if number == _GRAPH_DEF_NODE and _names_operator(data, start, end, _NODE_DEF_OP, budget):
        return Kind.FROZEN_GRAPH
    return None


def _names_operator(data: mmap.mmap, start: int, end: int, number: int, budget: Budget) -> bool:
    field = next(_fields_within(data, start, end, number, budget), None)
    return field is not None and _OPERATOR.fullmatch(data[slice(*field)]) is not None


def _fields_within(
    data: mmap.mmap, start: int, end: int, wanted: int, budget: Budget
) -> Iterator[tuple[int, int]]:
    """Where the length-delimited fields of this number lie in a message that may be no message."""
    try:
        for number, kind, first, last in _fields(data, start, end, budget):
            if last > end:
                return
            if number == wanted and kind == _BYTES:
                yield first, last
    except _Malformed:
        return


class _Malformed(Exception):
    """The bytes are no message of the wire format."""


def _fields(
    data: mmap.mmap, start: int, end: int, budget: Budget
) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and end of each field of a message; the end may lie beyond it."""
    while start < end:
        budget.spend()
        key, start = _varint(data, start, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, stop = _varint(data, start, end)
        elif kind == _BYTES:
            length, start = _varint(data, start, end)
            stop = start + length
        elif kind in (_FIXED32, _FIXED64):
            stop = start + (4 if kind == _FIXED32 else 8)
        else:
            raise _Malformed
        if not number:
            raise _Malformed
        yield number, kind, start, stop
        start = stop


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, low ones first, and where it ends."""
    value = 0
    for index in range(start, min(end, start + 10)):
        value |= (data[index] & 0x7F) << 7 * (index - start)
        if data[index] < 0x80:
            return value, index + 1
    raise _Malformed
