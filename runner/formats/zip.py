"""Reading of untrusted zip archives."""

from __future__ import annotations

import zipfile


def list_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """List an archive's members. Raises `ValueError` if one is neither stored nor deflated.

    With other methods, `zipfile` may decompress more at once than it is asked for: a few bytes of
    bzip2 become gigabytes.
    """
    found = archive.infolist()
    if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in found):
        raise ValueError("it is compressed in a way that is not read")
    return found
