"""Zip archives of anybody's."""

from __future__ import annotations

import zipfile


def members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """An archive's members. Raises `ValueError` if one is compressed otherwise than by deflate.

    Only of that does `zipfile` unpack no more at once than it is asked for: a few bytes of bzip2
    become gigabytes.
    """
    found = archive.infolist()
    if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in found):
        raise ValueError("it is compressed in a way that is not read")
    return found
