"""NumPy files, read within bounds: the header of each array in a .npy or .npz, and finiteness.

`numpy.load` allocates as much memory as a file says. Here a header is believed only if its size
agrees with that of the file, and the numbers are read in blocks. NumPy is imported when there is
such a file: most runs are given none.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runner.errors import BadInput
from runner.formats.zip import list_members

_MAGIC = b"\x93NUMPY"
_BLOCK = 1 << 22
_MOST_ARRAYS = 1000
_MOST_AXES = 32
# Bytes of a zip member's local header before its name (APPNOTE.TXT 4.3.7).
_LOCAL_HEADER = 30
# NumPy itself refuses longer headers.
_MOST_HEADER = 10_000
_REMEDY = "Save it with numpy.save(FILE, array) or numpy.savez(FILE, NAME=array)."


@dataclass(frozen=True)
class ArrayHeader:
    """The shape and dtype of an array of numbers, and whether all of them are finite."""

    shape: tuple[int, ...]
    dtype: str
    finite: bool


def read_headers(path: Path) -> dict[str | None, ArrayHeader]:
    """Read the header of each array in a .npz file by its name, or of a .npy file under None.

    All bytes are read, in bounded memory. Raises `BadInput` if it is not a file of plain arrays.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                file.seek(0)
                return {None: _read(file, path.stat().st_size)}
            with zipfile.ZipFile(file) as archive:
                return _read_zip(archive)
    except OSError as error:
        if error.errno is not None:
            raise BadInput(f"{path} cannot be read: {error.strerror}.") from None
        raise _make_bad_input(path, error) from None
    except BadInput:
        raise
    # A damaged zip or header can raise anything: errors of zlib, of codecs, of literal parsing.
    except Exception as error:
        raise _make_bad_input(path, error) from None


def _make_bad_input(path: Path, error: Exception) -> BadInput:
    why = str(error)[:200] or type(error).__name__
    return BadInput(f"{path} is no NumPy file that holds plain arrays: {why}", _REMEDY)


def _read_zip(archive: zipfile.ZipFile) -> dict[str | None, ArrayHeader]:
    entries = list_members(archive)
    if not entries or len(entries) > _MOST_ARRAYS:
        raise ValueError(f"it holds {len(entries)} arrays")
    if len({entry.filename for entry in entries}) != len(entries) or _overlap(entries):
        raise ValueError("its arrays lie over each other")
    headers: dict[str | None, ArrayHeader] = {}
    for entry in entries:
        if not entry.filename.endswith(".npy"):
            raise ValueError(f"'{entry.filename[:80]}' in it is no array")
        with archive.open(entry) as part:
            headers[entry.filename.removesuffix(".npy")] = _read(part, entry.file_size)
    return headers


def _overlap(entries: Sequence[zipfile.ZipInfo]) -> bool:
    """Tell whether members share bytes, with which a small file could unpack to any size."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            return True
        end = entry.header_offset + _LOCAL_HEADER + entry.compress_size
    return False


def can_cast(dtype: str, to: str) -> bool:
    """Tell whether numbers of one dtype become another without changing their kind."""
    import numpy as np

    return np.can_cast(np.dtype(dtype), np.dtype(to), "same_kind")


def _read(file: IO[bytes], size: int) -> ArrayHeader:
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its format is {version}")
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else (np.lib.format.read_array_header_2_0)
    )
    bounded = _Bounded(file, _MOST_HEADER + 16)
    shape, _, dtype = read(bounded, max_header_size=_MOST_HEADER)
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise ValueError("it holds objects, which are not read" if dtype.hasobject else "records")
    if len(shape) > _MOST_AXES or any(type(s) is not int or s < 0 for s in shape):
        raise ValueError("its shape is none")
    begin = 8 + bounded.taken
    if begin + math.prod(shape) * dtype.itemsize != size:
        raise ValueError("its size is not what its header says: it is cut off or damaged")
    finite = True
    while block := file.read(_BLOCK - _BLOCK % max(dtype.itemsize, 1)):
        if dtype.kind in "fc" and finite:
            finite = bool(np.isfinite(np.frombuffer(block, dtype)).all())
    return ArrayHeader(tuple(shape), dtype.name, finite)


class _Bounded:
    """A file that refuses to read more at once than a header has."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= self._most:
            raise ValueError("its header is too large")
        data = self._file.read(size)
        self.taken += len(data)
        return data
