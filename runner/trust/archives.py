"""Checks that a zip archive of torch holds only weights, or TorchScript that reaches no files.

torch and Python each have their own zip reader. So an archive that the two could read differently
is refused first; what is left is the same for both.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path

from runner.trust.pickles import check_names, check_weights

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_SIZE, _END64_SIZE, _LOCATOR64_SIZE = 22, 56, 20
_NAME = re.compile(r"[A-Za-z0-9_.+\- ]+(/[A-Za-z0-9_.+\- ]+)*", re.ASCII)
_LARGEST_TEXT = 64 << 20
_MOST_TEXT = 512 << 20

_SCRIPT_NAMES = re.compile(
    r"__torch__(\.\w+)* \w+|torch\.jit\._pickle \w+|collections OrderedDict"
    r"|torch\._utils _rebuild_tensor(_v2)?|torch [A-Z]\w+Storage",
    re.ASCII,
)


class ArchiveRefused(Exception):
    """What is wrong with an archive; the text is part of a sentence."""


def check_checkpoint(path: Path) -> None:
    """Check that a zip checkpoint holds only weights. Raises `ArchiveRefused`, `PickleRefused`."""
    with zipfile.ZipFile(path) as archive:
        parts = _list_parts(path, archive)
        for name in parts:
            if name not in ("data.pkl", "version", "byteorder") and not re.match(
                r"data/|\.data/|\.format|\.storage_alignment", name
            ):
                raise ArchiveRefused(f"it holds '{name}' besides weights"[:120])
        check_weights(io.BytesIO(_read_text(archive, parts["data.pkl"])))


def check_torchscript(path: Path, reaching: re.Pattern[bytes]) -> None:
    """Check that nothing in the code of a TorchScript archive reaches files.

    Raises `ArchiveRefused` or `PickleRefused`.
    """
    with zipfile.ZipFile(path) as archive:
        total = 0
        for name, entry in _list_parts(path, archive).items():
            if name.startswith(("data/", "constants/")) or name.endswith(".debug_pkl"):
                continue  # tensors' bytes; the code's source locations, which only C++ reads
            total += entry.file_size
            if total > _MOST_TEXT:
                raise ArchiveRefused("its code is too large to look through")
            if name.endswith(".pkl"):
                check_names(_read_text(archive, entry), lambda n: bool(_SCRIPT_NAMES.fullmatch(n)))
            elif name.startswith("code/") and name.endswith(".py"):
                _check_code(_read_text(archive, entry), name, reaching)
            elif name != "version" and not name.startswith("extra/"):
                raise ArchiveRefused(f"it holds '{name}', which is not TorchScript's"[:120])


def _check_code(content: bytes, name: str, reaching: re.Pattern[bytes]) -> None:
    if not content.isascii():
        raise ArchiveRefused(f"'{name}' is not plain text")
    found = reaching.search(content)
    if found is not None:
        word = found[0].decode()
        raise ArchiveRefused(f"'{name}' has the word '{word}', which can reach files"[:160])


def _read_text(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > _LARGEST_TEXT:
        raise ArchiveRefused(f"'{entry.filename}' is too large to look through"[:120])
    with archive.open(entry) as file:
        return file.read(_LARGEST_TEXT + 1)


def _list_parts(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by their names below the single folder. Raises `ArchiveRefused`."""
    _check_layout(path)
    parts: dict[str, zipfile.ZipInfo] = {}
    entries = archive.infolist()
    folder = entries[0].filename.partition("/")[0]
    for entry in entries:
        above, _, name = entry.filename.partition("/")
        if above != folder or not _NAME.fullmatch(entry.filename):
            raise ArchiveRefused(f"it holds {entry.filename[:60]!r}")
        # Such as a Unicode name in an extra field, which Python 3.12 uses and torch does not; field
        # 1 is for large files, and 0x4246 is what torch pads with.
        if entry.filename != entry.orig_filename or not _list_extra_ids(entry.extra) <= {1, 0x4246}:
            raise ArchiveRefused(f"it holds {entry.filename[:60]!r}, which has two names")
        if entry.flag_bits & 1 or entry.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise ArchiveRefused("it is encrypted, or packed in an unusual way")
        parts[name] = entry
    # torch ignores the case of names.
    if len({name.lower() for name in parts}) != len(entries):
        raise ArchiveRefused("it holds two files of one name")
    return parts


def _list_extra_ids(extra: bytes) -> set[int]:
    """List the ids of the fields in an entry's extra part, with -1 for a malformed one."""
    found: set[int] = set()
    while extra:
        if len(extra) < 4:
            return found | {-1}
        number, size = struct.unpack("<HH", extra[:4])
        found.add(number)
        extra = extra[4 + size :]
    return found


def _check_layout(path: Path) -> None:
    """Check that the archive begins and ends with the file, and has a single index."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _END_SIZE - _LOCATOR64_SIZE - _END64_SIZE))
        tail = file.read()
    end = tail[-_END_SIZE:]
    *_, index_size, index_start, comment = struct.unpack("<4s4H2LH", end)
    if not end.startswith(_END) or comment:
        raise ArchiveRefused("something follows the archive")
    index_end = size - _END_SIZE
    locator = tail[-_END_SIZE - _LOCATOR64_SIZE : -_END_SIZE]
    if locator.startswith(_LOCATOR64):
        index_end -= _LOCATOR64_SIZE + _END64_SIZE
        end64 = tail[:_END64_SIZE]
        _, _, place, _ = struct.unpack("<4sLQL", locator)
        if not end64.startswith(_END64) or place != index_end:
            raise ArchiveRefused("its index cannot be followed")
        index_size, index_start = struct.unpack("<2Q", end64[40:56])
    if index_start + index_size != index_end:
        raise ArchiveRefused("its index is not where it should be")
