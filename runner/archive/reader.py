"""Reading untrusted archives: no part is used before its hash has been verified."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import zstandard

from runner.archive.format import (
    BLOCK,
    END,
    INDEX,
    MOST_INDEX,
    TRAILER,
    TRAILER_PATTERN,
    TRAILER_SIZE,
    Index,
    Part,
    build_header,
    check_layout,
    check_name,
    compute_padding,
)
from runner.errors import BadInput, DamagedArchive
from runner.packages.index import IndexFile
from runner.schemas.base import Invalid, validate_json

_CHUNK = 1 << 20
_REMEDY = "Copy or save it again; nothing of it was loaded."
# Memory for decompression: more than any frame that we write needs.
_MOST_WINDOW = 128 << 20

OnBytes = Callable[[int], None]


class Archive:
    """An open archive whose index has been verified; its parts are checked as they are read."""

    def __init__(self, path: Path) -> None:
        """Open it and read the index. Raises `BadInput`, or `DamagedArchive` naming the part."""
        self.path = path
        if not path.is_file():
            raise BadInput(f"There is no archive {path}.")
        self._file: BinaryIO = path.open("rb")
        try:
            self.index = self._read_index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def verify(self, on_bytes: OnBytes = lambda count: None) -> None:
        """Check every header, part, padding byte and unpacked content. Raises `DamagedArchive`."""
        for part in self.index.parts:
            check_stored(self._file, part, self.path.name)
            if part.compression != "none":
                for _ in self.content(part):
                    pass
            on_bytes(part.stored_size)

    def wheels(self) -> list[IndexFile]:
        """List its wheels and sdists as an index would; the `url` is the part's name."""
        parts = self.index.list_parts("wheel", "own-wheel")
        return [IndexFile(p.path, p.name, p.sha256, p.size, source="archive") for p in parts]

    def check(self, name: str) -> None:
        """Check the header and the stored bytes of one part. Raises `DamagedArchive`."""
        part = next(part for part in self.index.parts if part.name == name)
        check_stored(self._file, part, self.path.name)

    def content(self, part: Part) -> Iterator[bytes]:
        """Yield a part's content in chunks; raise `DamagedArchive` at the end if the hash is wrong.

        A caller that writes it to a file must therefore give that its name after the last chunk.
        """
        digest = hashlib.sha256()
        left = part.size
        try:
            for chunk in self._read_chunks(part):
                left -= len(chunk)
                if left < 0:
                    raise self._make_error(part.name, "it is larger than the index says")
                digest.update(chunk)
                yield chunk
        except zstandard.ZstdError as error:
            raise self._make_error(part.name, f"it does not decompress: {error}") from None
        if left or digest.hexdigest() != part.sha256:
            raise self._make_error(part.name, "its content does not have the hash in the index")

    def extract(self, part: Part, target: Path) -> None:
        """Write a part's content to a new file, which remains only if it is right."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(target, "xb") as file:
                for chunk in self.content(part):
                    file.write(chunk)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def _read_chunks(self, part: Part) -> Iterator[bytes]:
        stored = _Section(self._file, part.offset, part.stored_size)
        if part.compression == "none":
            while chunk := stored.read(_CHUNK):
                yield chunk
            return
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)
        with decompressor.stream_reader(cast(BinaryIO, stored), read_size=_CHUNK) as reader:
            while chunk := reader.read(_CHUNK):
                yield chunk

    def _read_index(self) -> Index:
        size = self._file.seek(0, 2)
        tail_size = BLOCK + TRAILER_SIZE + compute_padding(TRAILER_SIZE) + len(END)
        begin = max(size - tail_size, 0)
        self._file.seek(begin)
        tail = self._file.read(tail_size)
        text = tail[BLOCK : BLOCK + TRAILER_SIZE].decode("ascii", "replace")
        match = TRAILER_PATTERN.fullmatch(text)
        rest = bytes(compute_padding(TRAILER_SIZE)) + END
        if not match or tail != build_header(TRAILER, TRAILER_SIZE) + text.encode() + rest:
            raise self._explain(size)
        offset, length = int(match[2]), int(match[3])
        if (
            offset < BLOCK
            or length > MOST_INDEX
            or offset + length + compute_padding(length) != begin
        ):
            raise self._make_error(TRAILER, "it does not point to the index")
        self._file.seek(offset - BLOCK)
        if self._file.read(BLOCK) != build_header(INDEX, length):
            raise self._make_error(INDEX, "its header is not as it was written")
        data = self._file.read(length)
        if hashlib.sha256(data).hexdigest() != match[1]:
            raise self._make_error(INDEX, "it does not have the hash in index.trailer")
        if self._file.read(compute_padding(length)).strip(b"\0"):
            raise self._make_error(INDEX, "its padding is not zero")
        try:
            index = validate_json(Index, data)
        except Invalid as error:
            raise self._make_error(INDEX, f"it is not an index of version 1: {error}") from None
        if check_layout(index.parts) != offset - BLOCK:
            raise self._make_error(INDEX, "its parts do not fill the archive")
        return index

    def _explain(self, size: int) -> BadInput:
        """Return the error for a missing trailer: no archive, cut short, or damaged, and where."""
        position, before = 0, ""
        while position < size:
            member = self._read_member(position)
            if member is None:
                if not before:
                    return BadInput(f"{self.path.name} is not an archive of the runner.")
                self._file.seek(position)
                if before == TRAILER and self._file.read(len(END) + 1) == END:
                    return self._make_error(TRAILER, "it is not as it was written")
                if before == TRAILER:
                    return self._make_error("the end of the file", "it is not 1,024 zero bytes")
                return self._make_error(
                    f"the part after {before}", "its header is cut short, or not as it was written"
                )
            begin = position + len(build_header(member.name, member.size))
            end = begin + member.size + compute_padding(member.size)
            if end > size:
                return self._make_error(
                    member.name,
                    f"the file is cut short: it has {size - begin:,} of {member.size:,} bytes",
                )
            position, before = end, member.name
        if before == TRAILER:
            return self._make_error("the end of the file", "it is cut short")
        return self._make_error(
            INDEX, f"the file is cut short after {before}" if before else "the file is empty"
        )

    def _read_member(self, position: int) -> tarfile.TarInfo | None:
        """Read the member whose header is at `position`; None if it is not one that we write."""
        self._file.seek(position)
        blocks = self._file.read(BLOCK)
        try:
            member = tarfile.TarInfo.frombuf(blocks, "ascii", "strict")
            if member.type == tarfile.GNUTYPE_LONGNAME:
                blocks += self._file.read(2 * BLOCK)
                name = blocks[BLOCK : 2 * BLOCK].rstrip(b"\0").decode("ascii")
                member = tarfile.TarInfo.frombuf(blocks[2 * BLOCK :], "ascii", "strict")
                member.name = name
            check_name(member.name)
            if member.size < 0 or blocks != build_header(member.name, member.size):
                return None
            return member
        except (tarfile.HeaderError, ValueError):
            return None

    def _make_error(self, part: str, why: str) -> DamagedArchive:
        return make_damaged_error(self.path.name, part, why)


def make_damaged_error(archive: str, part: str, why: str) -> DamagedArchive:
    return DamagedArchive(f"{archive} is damaged at {part}: {why}.", _REMEDY)


def check_stored(file: BinaryIO, part: Part, archive: str) -> None:
    """Check a part's header, stored bytes and padding. Raises `DamagedArchive`."""
    wanted = build_header(part.name, part.stored_size)
    file.seek(part.offset - len(wanted))
    if file.read(len(wanted)) != wanted:
        raise make_damaged_error(archive, part.name, "its header is not as it was written")
    digest = hashlib.sha256()
    left = part.stored_size
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            raise make_damaged_error(archive, part.name, "the file is cut short in it")
        digest.update(chunk)
        left -= len(chunk)
    if digest.hexdigest() != part.stored_sha256:
        raise make_damaged_error(archive, part.name, "it does not have the hash in the index")
    if file.read(compute_padding(part.stored_size)).strip(b"\0"):
        raise make_damaged_error(archive, part.name, "its padding is not zero")


class _Section:
    """A part's stored bytes, as a file."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file = file
        self._position = offset
        self._end = offset + size

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._position
        # Other parts may have been read since the last call.
        self._file.seek(self._position)
        chunk = self._file.read(left if size < 0 else min(size, left))
        self._position += len(chunk)
        return chunk
