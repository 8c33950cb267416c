"""SavedModels as artifacts: a folder, packed into an archive whose bytes its files determine."""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator

from stages.kit.contract import InputError

# The first date that a zip archive can hold.
_DATE = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path, archive: Path) -> None:
    """Write a folder's files into an archive: sorted, uncompressed, without dates and owners.

    So its hash is a hash of the tree.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
                entry.external_attr = 0o644 << 16
                target.writestr(entry, path.read_bytes())


@contextmanager
def unpack(archive: Path) -> Iterator[Path]:
    """Yield a temporary folder with an archive's files. Raises `InputError` if it is damaged."""
    with TemporaryDirectory() as name:
        try:
            with zipfile.ZipFile(archive) as source:
                source.extractall(name)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(
                f"'{archive.name}' is not an archive of a SavedModel: {error}"
            ) from None
        yield Path(name)
