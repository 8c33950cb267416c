"""Checks that a pickle can do nothing but put tensors into dictionaries.

A pickle is a program for a small stack machine. The danger lies in the callables that it names,
since it calls them with arguments of its choice. Here it runs on the same machine (CPython's own
unpickler), but with a handful of names, each bound to a stand-in that refuses every use but the one
that torch.save makes of it. Modules are not among them: given a state of the pickle's choice,
torch's LSTM hands out any attribute of itself, and from there any function is within reach.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# The first bytes of a file written by torch.save up to torch 1.5: a pickled magic number.
_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
# A zip archive's end record lies within 64 kB of the end of the file; torch's reader, which goes
# back in blocks, also finds one some kilobytes before that.
_ZIP_END, _ZIP_END_WITHIN = b"PK\x05\x06", 1 << 17
_TAR_BLOCK, _TAR_CHECKSUM = 512, slice(148, 156)
_STORAGES = frozenset(
    f"{kind}Storage"
    for kind in (
        *("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"),
        *("ComplexFloat", "ComplexDouble", "QInt8", "QUInt8", "QInt32"),
    )
)


class PickleRefused(Exception):
    """What a pickle does besides building tensors; the text is part of a sentence."""


class _Tensor:
    """A stand-in for a tensor, with which nothing can be done."""

    def __setstate__(self, state: Any) -> None:
        raise PickleRefused("it changes a tensor's own attributes")


class _StorageType:
    """A stand-in for torch.FloatStorage and the like, which only a persistent id may name."""

    def __call__(self, *_: Any) -> Any:
        raise PickleRefused("it makes a storage by itself")

    __setstate__ = __call__


class _Storage(_Tensor):
    """A stand-in for the bytes of a tensor."""


class _Rebuild:
    """A stand-in for a function of torch._utils that makes a tensor from a storage."""

    def __init__(self, of: type) -> None:
        self._of = of

    def __call__(self, *arguments: Any) -> _Tensor:
        if not arguments or not isinstance(arguments[0], self._of):
            raise PickleRefused("it makes a tensor of something else than bytes")
        if any(isinstance(a, dict) and a for a in arguments):
            raise PickleRefused("it gives a tensor hooks")
        return _Tensor()

    def __setstate__(self, state: Any) -> None:
        raise PickleRefused("it changes a function of torch")


class _Dictionary(dict[Any, Any]):
    """A stand-in for OrderedDict; a state_dict carries `_metadata` besides its items."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise PickleRefused("it changes a dictionary's own attributes")


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor"): _Rebuild(_Storage),
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(_Storage),
    ("torch._utils", "_rebuild_parameter"): _Rebuild(_Tensor),
    **{("torch", name): _StorageType() for name in _STORAGES},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows only the names in `_KNOWN`."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise PickleRefused(f"it names {module}.{name}"[:120]) from None

    def persistent_load(self, identifier: Any) -> _Storage:
        match identifier:
            case ("storage", _StorageType(), str(), str(), int(), *rest):
                if all(part is None or isinstance(part, str | int | tuple) for part in rest):
                    return _Storage()
        raise PickleRefused("it refers to something else than bytes")


def check_weights(file: IO[bytes]) -> None:
    """Check one pickle by running it to its end. Raises `PickleRefused`."""
    _Unpickler(file, encoding="utf-8").load()


def check_legacy_file(path: Path) -> None:
    """Check a file in torch 1.5's format: five pickles, then bytes. Raises `PickleRefused`."""
    with open(path, "rb") as file:
        if _is_tar_header(file.read(_TAR_BLOCK)):  # the format that torch.load tries first
            raise PickleRefused("it is a tar archive as well")
        file.seek(0)
        if file.read(len(_MAGIC)) != _MAGIC:
            raise PickleRefused("it is not in torch's format")
        for _ in range(4):  # the protocol, the system, the object, the keys of its storages
            check_weights(file)
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _ZIP_END_WITHIN))
        if _ZIP_END in file.read():  # the record that torch.jit.load looks for
            raise PickleRefused("it is a zip archive as well")


def _is_tar_header(block: bytes) -> bool:
    """Tell whether a tar reader would take this block for a header, by its checksum.

    What it makes of the rest differs between Python releases.
    """
    field = block[_TAR_CHECKSUM]
    rest = block[: _TAR_CHECKSUM.start] + b" " * 8 + block[_TAR_CHECKSUM.stop :]
    signed = sum(byte - 256 if byte > 127 else byte for byte in rest)
    if field[:1] in (b"\x80", b"\xff"):  # a binary number
        found = int.from_bytes(field[1:], "big") - (256**7 if field[0] == 255 else 0)
    else:
        try:
            found = int(field.partition(b"\0")[0].strip() or b"0", 8)
        except ValueError:
            return False
    return found in (sum(rest), signed)


def check_names(content: bytes, allowed: Callable[[str], bool]) -> None:
    """Check that a pickle names only what `allowed` accepts. Raises `PickleRefused`.

    For TorchScript's own pickles, whose reader is not Python's. A pickle has no jumps, so its names
    are all in plain sight, unless they are assembled at run time: that is refused.
    """
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("INST", "OBJ", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise PickleRefused(f"one of its pickles has the operation {operation.name}")
        if operation.name == "GLOBAL" and not allowed(str(argument)):
            raise PickleRefused(f"it names {str(argument).replace(' ', '.')}"[:120])
