"""Writing an archive part by part, so that an interrupted save can resume.

The file grows as `.NAME.part`; beside it, the journal `.NAME.part.parts` lists the parts that are
complete, and the plan that they were gathered for. Only a finished archive gets the name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, cast

import zstandard
from pydantic import ValidationError

from runner.archive.format import (
    END,
    INDEX,
    MOST_STORED,
    TRAILER,
    TRAILER_LINE,
    Environment,
    Index,
    Interpreter,
    Kind,
    Part,
    build_header,
    compute_padding,
)
from runner.archive.reader import check_stored
from runner.errors import BadInput, DamagedArchive
from runner.host.locks import make_lock

# Docker's layers hardly shrink more at higher levels, and 3 keeps up with a disk.
LEVEL = 3
_CHUNK = 1 << 20
# Compression is tried on this many bytes, and skipped unless it saves a tenth.
_TRIAL = 1 << 20
_WORTH_IT = 0.9

OnBytes = Callable[[int], None]


class Source(Protocol):
    """Anything that can be read once."""

    def read(self, size: int = ..., /) -> bytes: ...


class ArchiveWriter:
    """A context manager that owns an unfinished archive; on exit, what was written is kept."""

    def __init__(self, final: Path, plan: str) -> None:
        """Prepare to write `final`; parts that were gathered for another `plan` are discarded.

        Entering raises `BadInput` if another process is writing the same archive.
        """
        self.final = final
        self._partial = final.with_name(f".{final.name}.part")
        self._journal = final.with_name(f".{final.name}.part.parts")
        self._plan = hashlib.sha256(plan.encode()).hexdigest()
        self._lock = make_lock(final.with_name(f".{final.name}.part.lock"))
        self._parts: dict[str, Part] = {}

    def __enter__(self) -> ArchiveWriter:
        self.final.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except TimeoutError:
            raise BadInput(f"Another process is saving {self.final}.", "Wait for it.") from None
        try:
            self._file = open(self._partial, "r+b" if self._partial.exists() else "w+b")
            self._parts = self._read_complete_parts()
            self._end = self._compute_end()
            self._file.truncate(self._end)
            lines = [part.model_dump_json() for part in self._parts.values()]
            self._journal.write_text("\n".join([self._plan, *lines]) + "\n")
            self._log = open(self._journal, "a", encoding="utf-8")
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._log.close()
        if self.final.exists() and not self._partial.exists():
            self._journal.unlink(missing_ok=True)
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def find(self, name: str) -> Part | None:
        """Find a part that this or an interrupted save has written; `name` is without .zst."""
        return self._parts.get(name) or self._parts.get(f"{name}.zst")

    @property
    def resumed(self) -> int:
        """The size of the archive so far, in bytes."""
        return self._end

    def add(
        self,
        name: str,
        kind: Kind,
        source: Source,
        size: int,
        *,
        sha256: str = "",
        compress: bool = False,
        on_bytes: OnBytes = lambda count: None,
    ) -> Part:
        """Append a part with exactly `size` bytes of content, under a name that is not used yet.

        Its content must have the digest `sha256`, if given. With `compress` it is compressed if
        that saves a tenth of its first MiB. Raises `BadInput` if the size or the digest is wrong;
        the part is then left out.
        """
        if self.find(name) is not None:
            raise BadInput(f"Two files for the archive are named {name}.", "Rename one of them.")
        first = _read(source, min(size, _TRIAL))
        compress = compress and _is_compressible(first)
        stored_name = f"{name}.zst" if compress else name
        digest = hashlib.sha256()
        sink = _HashingSink(self._file)
        # The header's length depends on the name alone.
        offset = self._end + len(build_header(stored_name, 0))
        self._file.seek(offset)
        try:
            read = self._copy(first, source, size, sink, digest.update, compress, on_bytes)
            if read != size or (sha256 and digest.hexdigest() != sha256):
                raise BadInput(
                    f"{name} is not what the lock or its index says: it has {read:,} bytes and "
                    f"sha256 {digest.hexdigest()}, not {size:,} and {sha256 or 'any'}.",
                    "What serves it is damaged or has changed; it was not archived.",
                )
            if sink.size >= MOST_STORED:
                raise BadInput(f"{name} is larger than an archive's part can be (8 GiB).")
            part = Part(
                name=stored_name,
                kind=kind,
                offset=offset,
                stored_size=sink.size,
                stored_sha256=sink.digest.hexdigest(),
                size=size,
                sha256=digest.hexdigest(),
                compression="zstd" if compress else "none",
            )
        except ValidationError as error:
            raise BadInput(f"{name} cannot be archived: {error.errors()[0]['msg']}.") from None
        self._append(part)
        return part

    def finish(
        self,
        *,
        created: str,
        runner: str,
        platform: str,
        toolchains: Sequence[str],
        environments: Sequence[Environment],
        host_python: str,
        interpreters: Sequence[Interpreter],
        runs: Sequence[str],
    ) -> Index:
        """Write the index, and give the archive its final name."""
        index = Index(
            created=created,
            runner=runner,
            platform=platform,
            toolchains=tuple(toolchains),
            environments=tuple(environments),
            host_python=host_python,
            interpreters=tuple(interpreters),
            runs=tuple(runs),
            parts=tuple(self._parts.values()),
        )
        data = (index.model_dump_json(indent=1) + "\n").encode()
        offset = self._end + len(build_header(INDEX, len(data)))
        line = TRAILER_LINE.format(
            sha256=hashlib.sha256(data).hexdigest(), offset=offset, size=len(data)
        ).encode()
        self._file.seek(self._end)
        for name, content in ((INDEX, data), (TRAILER, line)):
            self._file.write(
                build_header(name, len(content)) + content + bytes(compute_padding(len(content)))
            )
        self._file.write(END)
        self._file.truncate()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._partial.replace(self.final)
        return index

    def _copy(
        self,
        first: bytes,
        source: Source,
        size: int,
        sink: _HashingSink,
        on_content: Callable[[bytes], None],
        compress: bool,
        on_bytes: OnBytes,
    ) -> int:
        """Copy `first` and the rest of `source` to the sink; return how many bytes they had."""
        total = 0
        compressor = zstandard.ZstdCompressor(level=LEVEL, threads=-1)
        out = cast(BinaryIO, sink)
        stream = compressor.stream_writer(out, size=size, closefd=False) if compress else None
        chunk = first
        while chunk:
            total += len(chunk)
            if total > size:
                return total
            on_content(chunk)
            (stream or sink).write(chunk)
            on_bytes(len(chunk))
            chunk = source.read(_CHUNK)
        if stream is not None and total == size:
            stream.flush(zstandard.FLUSH_FRAME)
        return total

    def _append(self, part: Part) -> None:
        """Complete a part whose stored bytes are in the file, and note it in the journal."""
        self._file.write(bytes(compute_padding(part.stored_size)))
        self._file.seek(self._end)
        self._file.write(build_header(part.name, part.stored_size))
        self._file.flush()
        self._parts[part.name] = part
        self._end = self._compute_end()
        self._log.write(part.model_dump_json() + "\n")
        self._log.flush()

    def _read_complete_parts(self) -> dict[str, Part]:
        """Read the complete parts, in order, of an interrupted save with the same plan."""
        parts: dict[str, Part] = {}
        try:
            plan, *lines = self._journal.read_text().splitlines() or [""]
        except FileNotFoundError:
            return parts
        if plan != self._plan:
            return parts
        position = 0
        for line in lines:
            try:
                part = Part.model_validate_json(line)
                if part.offset != position + len(build_header(part.name, part.stored_size)):
                    break
                check_stored(self._file, part, self._partial.name)
            except (ValidationError, DamagedArchive):
                break
            parts[part.name] = part
            position = part.offset + part.stored_size + compute_padding(part.stored_size)
        return parts

    def _compute_end(self) -> int:
        last = next(reversed(self._parts.values()), None)
        return last.offset + last.stored_size + compute_padding(last.stored_size) if last else 0


class _HashingSink:
    """A file to write to that counts and hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        pass


def _read(source: Source, size: int) -> bytes:
    """Read `size` bytes, or fewer at the end of the source."""
    chunks = []
    while size and (chunk := source.read(size)):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _is_compressible(data: bytes) -> bool:
    return len(zstandard.compress(data, 1)) < _WORTH_IT * len(data)
