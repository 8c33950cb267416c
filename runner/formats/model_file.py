"""What a model file is, found out on the host from its bytes, without running any of it.

PyTorch files are pickles, and unpickling runs what they say. Here a pickle is read as data: that is
enough to tell a model from weights, and whose classes it needs.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any

from runner.errors import BadInput
from runner.formats.pickle import Call, read_pickle
from runner.formats.torch import bomb, kind_of, storage_keys, storages
from runner.formats.zip import members
from runner.host.files import sha256_of

# torch 1.5.1 writes and reads version 2; reading a later one, it crashes.
_NEWEST_TORCHSCRIPT = 2
# The first bytes of a file by torch.save of version 1.5 and earlier: a pickled magic number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_OWN_PACKAGES = (
    "torch",
    "torchvision",
    "collections",
    "builtins",
    "__builtin__",
    "numpy",
    "copyreg",
)
_SAVE_AGAIN = (
    "With the torch that wrote it: torch.save(model.state_dict(), FILE, "
    "_use_new_zipfile_serialization=False), and name what builds the model with --arch; "
    "or trace and save it under torch 1.5.1."
)


class Kind(str, Enum):
    """What the first stage will find in the file."""

    TORCHSCRIPT = "TorchScript archive"
    MODULE = "pickled module"
    STATE_DICT = "state_dict"
    CHECKPOINT = "checkpoint with a state_dict"
    ONNX = "ONNX model"
    FROZEN_GRAPH = "frozen graph"
    TFLITE = "TensorFlow Lite model"


@dataclass(frozen=True)
class ModelFile:
    """A model file that torch 1.5.1 can be expected to read.

    `classes` are the classes from outside torch and torchvision that unpickling needs.
    """

    path: Path
    kind: Kind
    sha256: str
    bytes: int
    classes: tuple[str, ...] = ()

    @property
    def needs_arch(self) -> bool:
        return self.kind in (Kind.STATE_DICT, Kind.CHECKPOINT)


def identify(path: Path, arch: str = "") -> ModelFile:
    """Tell what a model file is. Raises `BadInput`, with a remedy, for what cannot be converted."""
    if not path.exists():
        raise BadInput(f"There is no file {path}.")
    if path.is_dir():
        raise BadInput(f"{path} is a folder.", "Name the model's file, such as model.pt.")
    if not path.is_file():
        raise BadInput(f"{path} is no regular file.", "Name the model's file, such as model.pt.")
    size = path.stat().st_size
    if not size:
        raise BadInput(f"{path} is empty.", "It was probably cut off when it was saved or copied.")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            file.seek(0)
            kind, classes = _identify(file, head, size, path)
            sha256 = sha256_of(path)
    except PermissionError:
        raise BadInput(f"{path} cannot be read: permission denied.") from None
    model = ModelFile(path, kind, sha256, size, classes)
    if model.needs_arch and not arch.partition(":")[2]:
        form = (
            " in a zip checkpoint, the format of torch 1.6 and later," if head[:2] == b"PK" else ","
        )
        raise BadInput(
            f"{path} is a {kind.value}{form} weights without the model that they belong to.",
            "Name what builds the model: --arch FILE.py:CALLABLE or "
            "--arch torchvision.models:mobilenet_v2 (its arguments: --arch-args '{...}').",
        )
    if classes and not arch:
        raise BadInput(
            f"{path} is a pickled module, and its Python code is not in it: {', '.join(classes)}.",
            "Give the file that defines these classes: --arch FILE.py.",
        )
    return model


def _identify(file: IO[bytes], head: bytes, size: int, path: Path) -> tuple[Kind, tuple[str, ...]]:
    if head.startswith(b"PK\x03\x04"):
        return _identify_zip(file, path)
    if head.startswith(_LEGACY_MAGIC):
        return _identify_legacy(file, size, path)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise BadInput(
            f"{path} is a Python pickle, but not one that torch.save wrote.",
            "Save the model with torch.save(model, FILE) or torch.jit.save(traced, FILE).",
        )
    what, remedy = other_format(head, size)
    raise BadInput(f"{path} is {what}, not a PyTorch model.", remedy)


def _identify_zip(file: IO[bytes], path: Path) -> tuple[Kind, tuple[str, ...]]:
    try:
        archive = zipfile.ZipFile(file)
        names = archive.namelist()
        unpacked = bomb(members(archive), path.stat().st_size)
        damaged = None if unpacked else archive.testzip()
    except Exception:  # zipfile's errors, zlib's, lzma's, struct's, a password
        raise _truncated(path) from None
    if unpacked:
        raise BadInput(
            f"{path} is a zip archive that unpacks to {unpacked:,} bytes, as no model does.",
            "Do not open it; get the model anew from those who made it.",
        )
    if damaged:
        raise BadInput(
            f"{path} is damaged: '{damaged}' in it fails its checksum.",
            "Copy or download it again.",
        )
    parts = {name.partition("/")[2]: name for name in names}
    if {"archive_format", "models/model.json"} & parts.keys():
        raise BadInput(
            f"{path} is a program of torch.export (PyTorch 2), which torch 1.5.1 cannot read.",
            _SAVE_AGAIN,
        )
    if "data.pkl" not in parts:
        raise BadInput(
            f"{path} is a zip archive that PyTorch did not write.",
            "Save the model with torch.save(model, FILE) or torch.jit.save(traced, FILE).",
        )
    version = _version(archive, parts)
    if "constants.pkl" in parts:
        if version > _NEWEST_TORCHSCRIPT:
            raise BadInput(
                f"{path} is a TorchScript archive of torch 1.6 or later (format {version}); "
                f"torch 1.5.1 reads format {_NEWEST_TORCHSCRIPT}.",
                _SAVE_AGAIN,
            )
        return Kind.TORCHSCRIPT, ()
    content = _Contents.of(archive.read(parts["data.pkl"]), path)
    if content.kind is Kind.MODULE:
        # A whole module of a newer torch is made of that torch's own code; its weights are not.
        raise BadInput(
            f"{path} is a zip checkpoint, the format of torch 1.6 and later, with a whole pickled "
            "model in it, which torch 1.5.1 cannot be relied on to read.",
            _SAVE_AGAIN,
        )
    return content.kind, content.classes


def _version(archive: zipfile.ZipFile, parts: dict[str, str]) -> int:
    try:
        return int(archive.read(parts["version"]))
    except (KeyError, ValueError):
        return 0


def _identify_legacy(file: IO[bytes], size: int, path: Path) -> tuple[Kind, tuple[str, ...]]:
    """Four pickles (magic, protocol, system, object), the storages' keys, then the storages."""
    try:
        for _ in range(3):
            read_pickle(file)
        content = _Contents.load(file, path)
        keys = storage_keys(read_pickle(file))
        expected = file.tell() + sum(
            8 + content.storages[key] for key in keys if key in content.storages
        )
    except BadInput:
        raise
    except Exception:  # a damaged pickle raises anything at all
        raise _truncated(path) from None
    if size < expected:
        raise _truncated(path)
    return content.kind, content.classes


def _truncated(path: Path) -> BadInput:
    return BadInput(
        f"{path} is truncated or damaged: it begins as a PyTorch file and ends too early.",
        "Copy or download it again, or save it again.",
    )


@dataclass(frozen=True)
class _Contents:
    """What a pickle holds, as far as can be told without running it."""

    kind: Kind
    classes: tuple[str, ...]
    storages: dict[str, int]

    @classmethod
    def of(cls, data: bytes, path: Path) -> _Contents:
        try:
            return cls.load(io.BytesIO(data), path)
        except BadInput:
            raise
        except Exception:  # a damaged pickle raises anything at all
            raise _truncated(path) from None

    @classmethod
    def load(cls, file: IO[bytes], path: Path) -> _Contents:
        pickled = read_pickle(file)
        loaded = pickled.value
        foreign = sorted(n for n in pickled.names if n.partition(".")[0] not in _OWN_PACKAGES)
        kind = _kind_of(loaded)
        if kind is None:
            shown = loaded.function if isinstance(loaded, Call) else type(loaded).__name__
            raise BadInput(
                f"{path} holds a {shown}, neither a model nor weights.",
                "Save the model itself or its state_dict().",
            )
        return cls(kind, tuple(foreign), storages(pickled))


def _kind_of(loaded: Any) -> Kind | None:
    kind = kind_of(loaded)
    return {
        "module": Kind.MODULE,
        "state_dict": Kind.STATE_DICT,
        "checkpoint": Kind.CHECKPOINT,
    }.get(kind)


def other_format(head: bytes, size: int) -> tuple[str, str]:
    """Name a file that is something else, and say what to do with it."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "Fetch the real file: git lfs pull."
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model already", "There is nothing left to convert."
    if head.startswith(b"\x89HDF\r\n"):
        return "an HDF5 file (Keras)", "This toolchain starts from PyTorch."
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")):
        return "a compressed file", "Unpack it first."
    if head[257:262] == b"ustar":
        return "a tar archive", "Unpack it first; torch files of this form predate version 0.4."
    if _is_safetensors(head, size):
        return (
            "a safetensors file",
            "Load it into the model and save that: torch.save(model.state_dict(), FILE).",
        )
    if head[:1] == b"\x08" and b"pytorch" in head[:40]:
        return "an ONNX model", "Convert it with --from-onnx, or name the PyTorch model."
    if head.lstrip()[:1] in (b"<", b"{") or _is_text(head):
        return "a text file", "Perhaps an error page was saved instead of the model."
    return "in no format that is known here", "Name a file that torch.save or torch.jit.save wrote."


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size


def _is_text(head: bytes) -> bool:
    try:
        text = head[:-4].decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)
