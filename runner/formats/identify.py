"""Identification of a file by its content alone: its format, and what its reader finds."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from runner.errors import BadInput
from runner.formats import onnx, other, safetensors, tensorflow, tflite, torch
from runner.formats.facts import FileFacts
from runner.formats.kinds import list_usual_formats
from runner.formats.protobuf import BYTES, VARINT, Malformed, Message, TooMuch
from runner.formats.tensorflow import looks_like_operator
from runner.host.files import hash_file
from runner.schemas.inspection import Obstacle

_Reader = Callable[[Message, FileFacts], None]


def read_file(path: Path) -> FileFacts:
    """Read what a file or a SavedModel's folder says about itself.

    Nothing in it is run, and memory and time are bounded whatever it holds. Raises `BadInput` if
    there is nothing to read.
    """
    shown = os.fsencode(path).decode(errors="replace")
    if not path.exists():
        raise BadInput(f"There is no file {shown}.")
    if path.is_dir():
        return _read_folder(path, shown)
    if not path.is_file():
        raise BadInput(f"{shown} is no regular file.", "Name a file.")
    size = path.stat().st_size
    if not size:
        raise BadInput(f"{shown} is empty.", "It was probably cut off when it was saved or copied.")
    found = FileFacts(path=shown, bytes=size, sha256=None, format="other", what="")
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            try:
                _read(file, data, size, found)
            except TooMuch:
                found.damaged = True
                found.notes.append("It has more fields than any model: the rest was not read.")
        found.sha256 = hash_file(path)
    except PermissionError:
        raise BadInput(f"{shown} cannot be read: permission denied.") from None
    usual = list_usual_formats(path)
    if usual and found.format not in usual:
        found.notes.append(f"Its name ends in {path.suffix}, and it is something else.")
    if found.damaged:
        found.problems.insert(
            0,
            Obstacle(
                reason="It is truncated or damaged: it begins as what it is and ends too early.",
                remedy="Copy or download it again, or save it again.",
                runs=False,
                refused=True,
            ),
        )
    return found


def _read_folder(path: Path, shown: str) -> FileFacts:
    inner = path / "saved_model.pb"
    if not inner.is_file():
        text = (
            " (saved_model.pbtxt is text: save it as binary)"
            if (path / "saved_model.pbtxt").is_file()
            else ""
        )
        raise BadInput(
            f"{shown} is a folder and no SavedModel{text}.", "Name a model's file in it."
        )
    found = read_file(inner)
    found.path = shown
    weights = sum(part.stat().st_size for part in (path / "variables").glob("variables.*"))
    found.details["weights in variables/"] = f"{weights:,} bytes"
    return found


def _read(file: IO[bytes], data: mmap.mmap, size: int, found: FileFacts) -> None:
    head = bytes(data[:512])
    if head.startswith(b"PK\x03\x04"):
        if not torch.read_zip(file, size, found):
            other.read_zip(file, found)
    elif head.startswith(torch.LEGACY_MAGIC):
        torch.read_legacy(file, size, found)
    elif head[4:8] == b"TFL3":
        tflite.read(data, found)
    elif head.startswith(b"\x89HDF\r\n"):
        other.read_hdf5(data, found)
    elif safetensors.begins_like_safetensors(head, size):
        safetensors.read(data, found)
    elif other.name_by_magic(head) or (reader := _find_reader(data)) is None:
        other.read_other(head, size, found)
    else:
        reader(Message.of(data), found)


def _find_reader(data: mmap.mmap) -> _Reader | None:
    """Find the reader for the kind of model whose outermost fields a message has, if any."""
    first: dict[int, int] = {}
    try:
        for number, kind, value in Message.of(data).fields():
            first.setdefault(number, kind)
            if kind == BYTES and isinstance(value, Message):
                reader = _choose_reader(first, number, value)
                if reader is not None:
                    return reader
    except (Malformed, TooMuch):
        pass
    return None


def _choose_reader(first: Mapping[int, int], number: int, value: Message) -> _Reader | None:
    """Choose the reader for a message that has this field after fields of these kinds, if any."""
    try:
        if number == 7 and _has_nodes(value, 1, 4):  # ModelProto.graph, whose nodes have an op_type
            return onnx.read
        if number == 1 and looks_like_operator(value, 2):  # GraphDef.node, with an op
            return tensorflow.read_graph
        if number == 2 and first.get(1) == VARINT:  # SavedModel.meta_graphs, after its version
            graph = value.part(2)
            if graph is not None and _has_nodes(graph, 1, 2):
                return tensorflow.read_saved_model
        if number == 2 and first.get(1) == BYTES and _has_nodes(value, 1, 2):  # MetaGraphDef
            return tensorflow.read_meta_graph
    except Malformed:
        pass
    return None


def _has_nodes(graph: Message, node: int, operator: int) -> bool:
    """Tell whether the first node of a graph names an operator."""
    first = graph.part(node)
    return first is not None and looks_like_operator(first, operator)
