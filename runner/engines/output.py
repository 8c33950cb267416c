"""What a stage prints: lines of a bounded length, and a log of a bounded size."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.host.files import human_bytes, temporary_beside

# A longer line is handed on in pieces.
_LONGEST_LINE = 1 << 16
# Escape sequences and other control characters could rewrite what the user's terminal shows.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """A text of a stage's without control characters; line feeds and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a stream, without their ends; no line needs more memory than it may have."""
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield from _pieces(line)
        while len(pending) > _LONGEST_LINE:
            yield _text(pending[:_LONGEST_LINE])
            pending = pending[_LONGEST_LINE:]
    if pending:
        yield from _pieces(pending)


def _pieces(line: bytes) -> Iterator[str]:
    for start in range(0, max(len(line), 1), _LONGEST_LINE):
        yield _text(line[start : start + _LONGEST_LINE])


def _text(line: bytes) -> str:
    # A progress bar rewrites its line by carriage returns: what it showed last counts.
    return plain(line.decode(errors="replace").rstrip().rpartition("\r")[2])


class BoundedLog:
    """A log file that keeps its first and its last part, and says how much is left out."""

    def __init__(self, path: Path, most: int) -> None:
        self._file = path.open("x", encoding="utf-8", errors="backslashreplace")
        self._head = most * 3 // 4
        self._tail_size = most - self._head
        self._tail: deque[str] = deque()
        self._in_tail = 0
        self._left_out = 0

    def write(self, line: str) -> None:
        size = len(line) + 1
        if self._head >= size and not self._tail:
            self._file.write(line + "\n")
            self._head -= size
            return
        self._tail.append(line)
        self._in_tail += size
        while self._in_tail > self._tail_size and len(self._tail) > 1:
            dropped = len(self._tail.popleft()) + 1
            self._in_tail -= dropped
            self._left_out += dropped

    def close(self) -> None:
        with self._file:
            if self._left_out:
                self._file.write(f"... {human_bytes(self._left_out)} of output left out here ...\n")
            self._file.writelines(line + "\n" for line in self._tail)


@contextmanager
def stage_log(final: Path, most: int) -> Iterator[BoundedLog]:
    """A log under a temporary name; it gets its own however the stage ends: nothing is lost."""
    temporary = temporary_beside(final)
    log = BoundedLog(temporary, most)
    try:
        yield log
    finally:
        try:
            log.close()
        finally:  # also on a full disk
            temporary.replace(final)
