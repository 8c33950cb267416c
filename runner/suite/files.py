"""Files by content: what a machine has of them, and a store that several machines share."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.engines.limits import parse_number
from runner.errors import BadInput, EnvironmentUnavailable
from runner.host.files import atomic_write, hash_file, make_temporary_name, remove_tree
from runner.host.paths import cache_folder

# What one message carries: no file goes through anybody's memory in one piece.
PIECE = 4 << 20
# Of all files together, by default; RUNNER_SUITE_BYTES sets another bound.
_MOST_BYTES = 20 << 30
_ABANDONED_SECONDS = 24 * 3600


class FileStore:
    """The files by content that this machine keeps for suites, the least recently used gone first.

    All workers of a machine share it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "suite"

    def locate(self, sha256: str) -> Path:
        return self.folder / "files" / sha256

    def find(self, sha256: str, size: int) -> Path | None:
        """Find a file; one of another size is damaged, and as good as none."""
        path = self.locate(sha256)
        try:
            if path.stat().st_size != size:
                return None
            os.utime(path)  # marks it as recently used
        except OSError:
            return None
        return path

    def add(self, source: Path) -> tuple[str, int]:
        """Move a file in; return its hash and its size."""
        sha256, size = hash_file(source), source.stat().st_size
        target = self.locate(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
        return sha256, size

    def receive(self, sha256: str, size: int, offset: int, data: bytes, sender: str) -> None:
        """Write a piece of a file at its place; the last one completes it.

        Raises `ValueError` if the whole is another file than it was said to be.
        """
        draft = self.folder / "files" / f".{sha256}.{sender}.part"
        draft.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)
        if offset + len(data) < size:
            return
        try:
            if hash_file(draft) != sha256:
                raise ValueError(f"a file that was sent is not {sha256}")
            draft.replace(self.locate(sha256))
        finally:
            draft.unlink(missing_ok=True)

    def clear(self) -> int:
        """Remove everything; return how many bytes that freed."""
        freed = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        remove_tree(self.folder)
        return freed

    def prune(self) -> None:
        """Remove what has lain longest unused, above the bound; and what was never completed."""
        found = []
        for path in (*self.folder.glob("files/*"), *self.folder.glob("images/*")):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = 0
        for changed, size, path in sorted(found, reverse=True):
            total += size
            stale = path.name.startswith(".") and time.time() - changed > _ABANDONED_SECONDS
            if stale or total > _read_bound():
                path.unlink(missing_ok=True)


def read_piece(path: Path, offset: int) -> bytes:
    """Read the piece of a file that begins at `offset`."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(PIECE)


@dataclass(frozen=True)
class Piece:
    """A part of a run's file, of at most `PIECE` bytes from `offset`; `size` is the file's."""

    name: str
    sha256: str
    size: int
    offset: int


def bundle_pieces(files: Mapping[str, tuple[str, int]]) -> Iterator[list[Piece]]:
    """Split files, each with its hash and its size, into the pieces that one message carries."""
    bundle: list[Piece] = []
    room = PIECE
    for name, (sha256, size) in files.items():
        for offset in range(0, size, PIECE):
            length = min(PIECE, size - offset)
            if length > room:
                yield bundle
                bundle, room = [], PIECE
            bundle.append(Piece(name, sha256, size, offset))
            room -= length
    if bundle:
        yield bundle


def append_pieces(folder: Path, pieces: Sequence[Piece], contents: Sequence[bytes | None]) -> str:
    """Append each piece to its file in a folder; return the name of the first that is not there."""
    for piece, content in zip(pieces, contents, strict=True):
        if content is None:
            return piece.name
        with open(folder / piece.name, "ab") as file:
            file.write(content)
    return ""


def _read_bound() -> int:
    asked = os.environ.get("RUNNER_SUITE_BYTES", "")
    number = parse_number(asked) if asked else _MOST_BYTES
    if number is None:
        raise BadInput(f"RUNNER_SUITE_BYTES={asked} is no number of bytes.", "Such as 20g.")
    return number


class SharedStore:
    """A store by URL that the client and every worker reach: a folder, s3 and what fsspec has."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec

            self._system, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadInput(
                f"--store {url}: {error}",
                "A folder that every machine sees, or a URL of fsspec's such as s3://bucket/path; "
                "its package (s3fs and so on) has to be installed on each machine.",
            ) from None

    def _locate(self, sha256: str) -> str:
        return f"{self._root.rstrip('/')}/{sha256[:2]}/{sha256}"

    def put(self, path: Path, sha256: str) -> None:
        """Copy a file in, unless it is there. Raises `EnvironmentUnavailable`."""
        target = self._locate(sha256)
        self._do(self._put, path, target)

    def _put(self, path: Path, target: str) -> None:
        if self._system.exists(target) and self._system.size(target) == path.stat().st_size:
            return
        # A reader never sees half a file: another name first, where names can be changed.
        draft = f"{target}.{make_temporary_name(path).name.rsplit('.', 2)[1]}.part"
        self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._system.put_file(str(path), draft)
        self._system.mv(draft, target)

    def get(self, sha256: str, target: Path) -> bool:
        """Copy a file out, whole and checked; tell whether it was there."""
        if not self._do(self._system.exists, self._locate(sha256)):
            return False
        with atomic_write(target) as draft:
            self._do(self._system.get_file, self._locate(sha256), str(draft))
            if hash_file(draft) != sha256:
                raise EnvironmentUnavailable(
                    f"The store's file {sha256} is damaged.", "Remove it, and run again."
                )
        return True

    def _do(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except OSError as error:
            raise EnvironmentUnavailable(
                f"The store failed: {error}", "Is it reachable from every machine?"
            ) from None
