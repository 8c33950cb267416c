"""Files that no toolchain starts from, identified as what they are."""

from __future__ import annotations

import codecs
import mmap
import re
import zipfile
from typing import IO

from runner.formats.facts import FileFacts
from runner.schemas.inspection import Obstacle

_KERAS = (
    "Load it with Keras and freeze it: convert_variables_to_constants_v2 of tf.function(model), "
    "then runner convert --from-pb; or export it to ONNX, then --from-onnx."
)
_MAGIC = (
    (b"\x7fELF", "ELF file (a program or a library)"),
    (b"MZ", "Windows program"),
    (b"\xca\xfe\xba\xbe", "Java class or a Mach-O program"),
    (b"\xcf\xfa\xed\xfe", "Mach-O program"),
    (b"\x89PNG\r\n", "PNG image"),
    (b"\xff\xd8\xff", "JPEG image"),
    (b"%PDF-", "PDF document"),
    (b"GGUF", "GGUF file (llama.cpp)"),
    (b"\x93NUMPY", "NumPy array"),
    (b"!<arch>", "static library or Debian package"),
    (b"SQLite format 3\x00", "SQLite database"),
    (b"Rar!", "RAR archive"),
)
_IN_ZIP = (
    ("model.weights.h5", "keras", "Keras 3 model", _KERAS),
    ("Manifest.json", "other", "Core ML package", ""),
    ("META-INF/MANIFEST.MF", "other", "Java archive", ""),
    ("AndroidManifest.xml", "other", "Android application", ""),
    ("[Content_Types].xml", "other", "Office document", ""),
)
# HDF5 files of Keras name their writer in no fixed place, so this much of them is searched.
_SEARCHED = 64 << 20


def name_by_magic(head: bytes) -> str:
    """Return what the first bytes alone tell about a file; '' if nothing."""
    return next((what for magic, what in _MAGIC if head.startswith(magic)), "")


def read_zip(file: IO[bytes], found: FileFacts) -> None:
    """Identify a zip archive that is not PyTorch's by its members."""
    names = zipfile.ZipFile(file).namelist()
    what, remedy = "zip archive", "If a model is in it, unpack it first."
    if names and all(name.endswith(".npy") for name in names):
        what, remedy = "NumPy archive (.npz)", ""
    for name, kind, title, how in _IN_ZIP:
        if name in names:
            what, remedy = title, how
            found.format = "keras" if kind == "keras" else "other"
            break
    found.what, found.remedy = what, remedy
    found.details["files"] = f"{len(names)}: {', '.join(name[:80] for name in names[:8])}"


def read_hdf5(data: mmap.mmap, found: FileFacts) -> None:
    """Identify an HDF5 file, such as a Keras model or its weights, by the names of attributes."""
    searched = bytes(data[:_SEARCHED])
    found.damaged = _find_hdf5_end(searched) > len(data)
    found.details["container"] = "HDF5"
    if b"model_config" in searched:
        found.format, found.what = "keras", "Keras model (HDF5)"
    elif b"layer_names" in searched or b"keras_version" in searched:
        found.format, found.what = "keras", "Keras weights, without the model (HDF5)"
    else:
        found.what = "HDF5 file"
    version = re.search(rb"(?<![\d.])\d{1,2}\.\d{1,2}\.\d{1,2}(-tf)?(?![\d.])", searched)
    if found.format == "keras":
        found.written_by = f"Keras {version[0].decode()}" if version else "Keras"
    found.remedy = _KERAS


def _find_hdf5_end(data: bytes) -> int:
    """Return where the file ends according to its superblock of version 0 to 3, or 0 if unknown."""
    place = {0: 40, 1: 44, 2: 28, 3: 28}.get(data[8] if len(data) > 8 else 9)
    return 0 if place is None else int.from_bytes(data[place : place + 8], "little")


def read_other(head: bytes, size: int, found: FileFacts) -> None:
    """Identify any other file as well as its first bytes allow."""
    if _TEXT_GRAPH.match(head):
        found.what = "TensorFlow graph as text (.pbtxt)"
        remedy = (
            "Write it as binary: text_format.Parse(text, graph_def), then "
            "graph_def.SerializeToString()."
        )
    elif what := name_by_magic(head):
        found.what, remedy = what, "Name a model's file."
    elif head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        found.what = "Python pickle, but none that torch.save wrote"
        remedy = "Save the model with torch.save(model, FILE) or torch.jit.save(traced, FILE)."
    else:
        found.what, remedy = _guess_kind(head, size)
    if not found.what:
        found.what = "file of a format that is not known here"
        found.problems.append(
            Obstacle(reason="It is in no format that is known here.", remedy=remedy, refused=True)
        )
    found.remedy = remedy


_TEXT_GRAPH = re.compile(rb"\s*(#[^\n]*\n\s*)*(node|versions|library)\s*\{")


def _guess_kind(head: bytes, size: int) -> tuple[str, str]:
    """Name a file by its first bytes ('' if they tell nothing), and say what to do with it."""
    if head.startswith(b"version https://git-lfs"):
        return "Git LFS pointer", "Fetch the real file: git lfs pull."
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")):
        return "compressed file", "Unpack it first."
    if head[257:262] == b"ustar":
        return "tar archive", "Unpack it first; torch files of this form predate version 0.4."
    if _is_safetensors(head, size):
        return (
            "safetensors file",
            "Load it into the model and save that: torch.save(model.state_dict(), FILE).",
        )
    if head[:1] == b"\x08" and b"pytorch" in head[:40]:
        return "ONNX model that holds no graph", "It was probably cut off: export it again."
    if head.lstrip()[:1] in (b"<", b"{") or _is_text(head):
        return "text file", "Perhaps an error page was saved instead of the model."
    return "", "Name a file that torch.save, torch.jit.save or an exporter of ONNX wrote."


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size


def _is_text(head: bytes) -> bool:
    try:  # the last character may be cut off
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return text != "" and all(character.isprintable() or character.isspace() for character in text)
