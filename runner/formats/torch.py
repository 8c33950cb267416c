"""PyTorch files: TorchScript archives, pickled modules and weights, in both containers.

Nothing is unpickled here: `read_pickle` reads a pickle as data. What it would build is enough to
tell a model from weights, and to list its classes and its tensors by name and shape.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any

from runner.formats.facts import FileFacts
from runner.formats.pickle import (
    BadPickle,
    Call,
    Name,
    Persistent,
    Pickled,
    is_key,
    is_number,
    read_pickle,
)
from runner.formats.zip import list_members
from runner.schemas.inspection import Obstacle

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
# Pickles before the object: magic number, protocol version, and the writer's word sizes.
_BEFORE_THE_OBJECT = 3
# The pickle of a model's structure is small; the weights are stored outside of it.
_MOST_PICKLE = 64 << 20
# A zip bomb unpacks to more than this many bytes plus this many times its own size.
_MOST_UNPACKED = 64 << 20
_MOST_RATIO = 20
_DEEPEST = 40
_MOST_WRAPPED = 4
_MOST_AXES = 64
_OWN_PACKAGES = ("torch", "torchvision", "collections", "numpy", "__torch__", "copyreg", "_codecs")
_OWN_BUILTINS = ("set", "list", "dict", "tuple", "int", "float", "bool", "str", "object", "slice")
_SYSTEM = {
    *("builtins", "__builtin__", "os", "posix", "nt", "subprocess", "sys", "shutil", "socket"),
    *("pty", "runpy", "importlib", "pickle", "webbrowser", "ctypes", "operator"),
}
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_ITEMS = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
}
# The format version that torch 1.6 introduced for TorchScript.
_LATER_TORCHSCRIPT = 3


def read_zip(file: IO[bytes], size: int, found: FileFacts) -> bool:
    """Fill in `found` from a zip archive of PyTorch; return False if it is not PyTorch's."""
    found.container = "zip"
    try:
        archive = zipfile.ZipFile(file)
        entries = list_members(archive)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError):
        found.what, found.damaged = "zip archive", True
        found.notes.append("Its directory of files, at its end, is missing: it was cut off.")
        return True
    parts = {entry.filename.partition("/")[2]: entry for entry in entries}
    unpacked = measure_bomb(entries, size)
    if unpacked:
        found.notes.append("It was not unpacked.")
        found.problems.append(
            Obstacle(
                reason=f"It unpacks to {unpacked:,} bytes, {unpacked // max(size, 1)} times its "
                "own size: no model does.",
                remedy="Do not open it; get the model anew from those who made it.",
                runs=False,
                refused=True,
            )
        )
    if {"archive_format", "models/model.json"} & parts.keys():
        found.format, found.what = "torch-export", "program of torch.export"
        found.written_by = "PyTorch 2"
        return True
    if "data.pkl" not in parts:
        return False
    try:
        version = _read_small_part(archive, parts.get("version")).decode(errors="replace").strip()
    except BadPickle:
        version, found.damaged = "", True
    script = "constants.pkl" in parts
    found.format, found.what = (
        ("torchscript", "TorchScript archive") if script else ("torch-other", "zip checkpoint")
    )
    found.details["container"] = "zip"
    found.details["format version"] = version or "not stated"
    number = int(version) if version.isdigit() and len(version) < 9 else 0
    found.written_by = _name_writer(number, parts)
    if unpacked:
        return True
    _verify_checksums(archive, found)
    try:
        pickled = read_pickle(io.BytesIO(_read_small_part(archive, parts["data.pkl"])))
    except BadPickle as error:
        found.damaged = True
        found.notes.append(f"The pickle in it cannot be read: {error}.")
        return True
    if script:
        code = [name for name in parts if name.startswith("code/") and name.endswith(".py")]
        found.details["code files"] = str(len(code))
        found.version = number
        _count_tensors(pickled.value, found)
    else:
        _describe(pickled, found)
    return True


def _verify_checksums(archive: zipfile.ZipFile, found: FileFacts) -> None:
    """Record a problem if a part of the archive fails its checksum."""
    try:
        part = archive.testzip()
    except Exception:  # errors of zlib or struct, a password
        found.damaged = True
        return
    if part is not None:
        found.problems.append(
            Obstacle(
                reason=f"It is damaged: '{part[:80]}' in it fails its checksum.",
                remedy="Copy or download it again.",
                runs=False,
                refused=True,
            )
        )


def measure_bomb(entries: Sequence[zipfile.ZipInfo], size: int) -> int:
    """Return the bytes that an archive of `size` unpacks to if it is a zip bomb, else 0."""
    unpacked = sum(entry.file_size for entry in entries)
    return unpacked if unpacked > _MOST_UNPACKED + _MOST_RATIO * size else 0


def read_legacy(file: IO[bytes], size: int, found: FileFacts) -> None:
    """Fill in `found` from a file in torch.save's first format: pickles, then the raw storages."""
    found.format, found.what = "torch-other", "file of torch.save"
    found.container = "legacy"
    found.details["container"] = "legacy (pickles, then the tensors)"
    found.written_by = "torch.save of torch 1.5 or earlier, or of a later one when asked to"
    try:
        for _ in range(_BEFORE_THE_OBJECT):
            read_pickle(file)
        pickled = read_pickle(file)
        _describe(pickled, found)
        keys = read_storage_keys(read_pickle(file))
        sizes = measure_storages(pickled)
        expected = file.tell() + sum(8 + sizes.get(key, 0) for key in keys)
        found.damaged = size < expected
    except (BadPickle, TypeError) as error:
        found.damaged = True
        found.notes.append(f"A pickle in it cannot be read: {error}.")


def _describe(pickled: Pickled, found: FileFacts) -> None:
    """Fill in `found` from a pickled object: a model, weights, or neither."""
    value = pickled.value
    foreign = sorted(name for name in pickled.names if not _is_own(name))
    if foreign:
        found.details["classes of its own"] = ", ".join(foreign[:20])
    if dangerous := [name for name in foreign if _is_code(name)]:
        found.details["calls for"] = ", ".join(dangerous[:20])
        reason = f"Loading it would call {', '.join(dangerous[:5])}: it may run anything."
        remedy = "If you trust those who made it, ask them for a state_dict; else do not load it."
        found.problems.append(Obstacle(reason=reason, remedy=remedy))
    kind = classify_value(value)
    later = " in the zip format of torch 1.6 and later" if found.container == "zip" else ""
    if kind == "module":
        found.format, found.what = "torch-module", f"pickled module{later}"
        found.details["class"] = value.function if isinstance(value, Call) else "?"
        layers = Counter(call.function for call in _iterate_modules(value))
        found.details["layers"] = ", ".join(
            f"{count} {name.rpartition('.')[2]}" for name, count in layers.most_common(30)
        )
        if missing := [name for name in foreign if not _is_code(name)]:
            reason = f"Its Python code is not in it: {', '.join(missing[:5])}."
            remedy = "Give the file that defines these classes: --arch FILE.py."
            found.problems.append(
                Obstacle(reason=reason, remedy=remedy, settled_by="--arch", refused=True)
            )
    elif kind in ("state_dict", "checkpoint"):
        if kind == "state_dict":
            found.format, found.what = "state-dict", f"state_dict{later}"
        else:
            found.format = "checkpoint"
            found.what = f"checkpoint with a state_dict{later}"
            found.details["keys"] = ", ".join(map(_format_key, list(_get_items(value) or {})[:20]))
        found.notes.append("It is weights without the model: --arch has to name what builds that.")
    else:
        shown = value.function if isinstance(value, Call) else type(value).__name__
        reason = f"It holds a {shown}, neither a model nor weights."
        remedy = "Save the model itself or its state_dict()."
        found.problems.append(Obstacle(reason=reason, remedy=remedy, refused=True))
    _count_tensors(value, found)


def _is_own(name: str) -> bool:
    module, _, rest = name.partition(".")
    if module in ("builtins", "__builtin__"):
        return rest in _OWN_BUILTINS
    return module in _OWN_PACKAGES


def _is_code(name: str) -> bool:
    """Tell whether a name is the interpreter's or the system's, and not a model's class."""
    return name.partition(".")[0] in _SYSTEM


def classify_value(value: Any) -> str:
    """Classify a pickled value: 'module', 'state_dict', 'checkpoint', or '' for another kind."""
    return _classify(value, 0, set())


def _classify(value: Any, depth: int, seen: set[int]) -> str:
    if id(value) in seen:  # one object may be reachable in exponentially many ways
        return ""
    seen.add(id(value))
    items = _get_items(value)
    if isinstance(value, Call) and _is_code(value.function):
        return ""
    if items is not None:
        # A model without parameters has an empty one, which is never a plain dict.
        if any(_is_tensor(item) for item in items.values()) or (not items and value != {}):
            return "state_dict"
        for key in _CHECKPOINT_KEYS:
            near = key in items and depth < _DEEPEST
            inner = _classify(items[key], depth + 1, seen) if near else ""
            if inner:
                return "module" if inner == "module" else "checkpoint"
        return ""
    return "module" if isinstance(value, Call) and not _is_tensor(value) else ""


def _get_items(value: Any) -> dict[Any, Any] | None:
    """Return the items of a dict or an OrderedDict, which may be built from pairs, else None."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Call) or value.function != "collections.OrderedDict":
        return None
    if value.items or not value.arguments:
        return value.items
    given = value.arguments[0] if isinstance(value.arguments, tuple) else ()
    pairs = given if isinstance(given, list) else []
    return {
        p[0]: p[1] for p in pairs if isinstance(p, list | tuple) and len(p) == 2 and is_key(p[0])
    }


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Call) and value.function.startswith("torch._utils._rebuild_")


def _iterate_modules(value: Any) -> Iterator[Call]:
    """Yield a pickled module and all modules in it, each once."""
    for call in _iterate_calls(value):
        if isinstance(call.state, dict) and "_modules" in call.state:
            yield call


def _iterate_calls(value: Any) -> Iterator[Call]:
    """Yield each call in a pickled value once, at any depth thanks to an explicit stack."""
    pending, seen = [value], set()
    while pending:
        current = pending.pop()
        if isinstance(current, Call | dict | list | tuple):
            if id(current) in seen:
                continue
            seen.add(id(current))
        if isinstance(current, Call):
            yield current
            pending += [current.arguments, current.items, current.state]
        elif isinstance(current, dict):
            pending += current.values()
        elif isinstance(current, list | tuple):
            pending += current


def _count_tensors(value: Any, found: FileFacts) -> None:
    """Count the parameters if the pickle tells them from buffers, else all float tensors."""
    calls = list(_iterate_calls(value))
    parameters = [c for c in calls if c.function.endswith("_rebuild_parameter")]
    tensors = [c for c in calls if c.function.endswith(("_rebuild_tensor", "_rebuild_tensor_v2"))]
    counted = parameters or tensors
    types: Counter[str] = Counter()
    for call in counted:
        dtype, shape = _describe_tensor(call)
        if parameters or dtype.startswith(("float", "bfloat", "q")):
            types[dtype] += math.prod(shape)
    found.parameters, found.parameter_types = sum(types.values()), dict(types.most_common())
    found.details["tensors"] = str(len(tensors))
    named = _get_items(value)
    inner = next(
        (named[k] for k in _CHECKPOINT_KEYS if named and classify_value(named.get(k))), None
    )
    for name, call in list((_get_items(inner) or named or {}).items())[:6]:
        if _is_tensor(call):
            dtype, shape = _describe_tensor(call)
            found.details[f"tensor {_format_key(name)}"] = (
                f"{'x'.join(map(str, shape)) or 'scalar'} {dtype}"
            )


def _describe_tensor(call: Call) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape of what _rebuild_tensor_v2(storage, offset, size, ...) would return.

    A parameter's first argument is a tensor, which may be wrapped once more.
    """
    arguments: Any = ()
    inner: Any = call
    for _ in range(_MOST_WRAPPED):
        arguments = inner.arguments if isinstance(inner.arguments, tuple) else ()
        inner = arguments[0] if arguments else None
        if not isinstance(inner, Call):
            break
    if len(arguments) < 3:
        return "?", ()
    storage, size = arguments[0], arguments[2]
    sizes = size if isinstance(size, tuple) and len(size) <= _MOST_AXES else ()
    known = all(isinstance(d, int) and 0 <= d < 1 << 40 for d in sizes)
    identifier = storage.identifier if isinstance(storage, Persistent) else ()
    kind = identifier[1] if isinstance(identifier, tuple) and len(identifier) > 1 else None
    name = kind.name.rpartition(".")[2] if isinstance(kind, Name) else ""
    return _ITEMS.get(name, ("?", 1))[0], sizes if known else ()


def _format_key(key: Any) -> str:
    """Format a dictionary's key, cut to a readable length."""
    return (key if isinstance(key, str) else type(key).__name__)[:80]


def read_storage_keys(pickled: Pickled) -> list[str]:
    """Return the list of storage keys that follows an object. Raises `BadPickle`."""
    keys = pickled.value
    if not isinstance(keys, list) or not all(
        isinstance(key, str) or is_number(key) for key in keys
    ):
        raise BadPickle("no list of keys")
    return [str(key) for key in keys]


def measure_storages(pickled: Pickled) -> dict[str, int]:
    """Return the size in bytes of each tensor's storage, by its key."""
    found = {}
    for identifier in pickled.persistent:
        if isinstance(identifier, tuple) and len(identifier) > 4:
            kind, key, count = identifier[1], identifier[2], identifier[4]
            name = kind.name.rpartition(".")[2] if isinstance(kind, Name) else ""
            if is_number(count) and (isinstance(key, str) or is_number(key)):
                found[str(key)] = _ITEMS.get(name, ("?", 1))[1] * count
    return found


def _name_writer(version: int, parts: dict[str, Any]) -> str:
    """Name the torch release that wrote an archive, as far as its parts tell."""
    if "byteorder" in parts:
        return "PyTorch 2.1 or later"
    if version >= _LATER_TORCHSCRIPT:
        return "PyTorch 1.6 or later"
    return "PyTorch 1.4 or 1.5" if version else "PyTorch"


def _read_small_part(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | None) -> bytes:
    """Read a part that is small by nature, up to a limit. Raises `BadPickle` if it is damaged."""
    if entry is None:
        return b""
    try:
        with archive.open(entry) as part:
            return part.read(_MOST_PICKLE)
    except Exception as error:  # an error of zlib, a wrong checksum, a password
        raise BadPickle(str(error)[:200]) from None
