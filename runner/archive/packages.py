"""The wheels and sdists that locks pin: found in the store or on an index, and archived."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from packaging.tags import Tag

from runner.archive.writer import ArchiveWriter
from runner.errors import EnvironmentUnavailable
from runner.packages import wheel_store
from runner.packages.index import IndexFile, PackageIndexes
from runner.packages.lockfile import Pin, choose_file

# Concurrent requests to an index: polite, and enough to hide its latency.
AT_ONCE = 8
_CHUNK = 1 << 20

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Wanted:
    """A pin, who needs it (an image's title, or 'runner'), and the wheel tags that fit there."""

    pin: Pin
    owner: str
    tags: Sequence[Tag]


@dataclass(frozen=True)
class Found:
    """The one file that an installer would choose for a pin."""

    owner: str
    file: IndexFile


def find(indexes: PackageIndexes, wanted: Sequence[Wanted]) -> list[Found]:
    """Find the file of each pin. Raises `EnvironmentUnavailable`, naming every pin without one."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda item: _find_file(indexes, item), wanted))
    missing = [
        f"- {item.owner}: {item.pin}{why}"
        for item, (file, why) in zip(wanted, answers, strict=True)
        if file is None
    ]
    if missing:
        raise EnvironmentUnavailable(
            "These pins cannot be had:\n" + "\n".join(missing),
            "`runner lock --audit` tells more; a vanished pin needs a stand-in or a --wheel.",
        )
    return [
        Found(item.owner, file)
        for item, (file, _) in zip(wanted, answers, strict=True)
        if file is not None
    ]


def add_to(
    writer: ArchiveWriter, indexes: PackageIndexes, files: Iterable[IndexFile], on_bytes: OnBytes
) -> None:
    """Fetch files into an archive, uncompressed, each checked against the hash in its lock."""
    for file in files:
        name = f"wheels/{file.name}"
        part = writer.find(name)
        if part is not None and part.sha256 == file.sha256:
            on_bytes(part.size)
            continue
        size = indexes.size(file)
        with indexes.open(file) as source:
            if size:
                writer.add(name, "wheel", source, size, sha256=file.sha256, on_bytes=on_bytes)
                continue
            # The index does not tell the size: download the file to learn it.
            with tempfile.TemporaryFile() as spooled:
                while chunk := source.read(_CHUNK):
                    spooled.write(chunk)
                size = spooled.tell()
                spooled.seek(0)
                writer.add(name, "wheel", spooled, size, sha256=file.sha256, on_bytes=on_bytes)


def _find_file(indexes: PackageIndexes, wanted: Wanted) -> tuple[IndexFile | None, str]:
    stored = [
        IndexFile(path.name, path.as_uri(), sha, path.stat().st_size, source="an archive")
        for sha in wanted.pin.hashes
        if (path := wheel_store.find_wheel(sha))
    ]
    if file := choose_file(stored, wanted.tags):
        return file, ""
    listing = indexes.list_files(wanted.pin)
    locked = [file for file in listing.files if file.sha256 in wanted.pin.hashes]
    file = choose_file(locked, wanted.tags)
    if listing.problems:
        return file, f" ({'; '.join(listing.problems)})"
    if listing.files and not locked:
        return file, " (what is listed has other hashes than the lock)"
    return file, ""
