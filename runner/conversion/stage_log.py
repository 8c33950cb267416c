"""The output of a stage: to its log, whose size is bounded, and to whoever watches the run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.conversion.observer import Observer
from runner.engines.base import OnLine
from runner.host.files import format_bytes, make_temporary_name
from runner.toolchains.model import Stage

# How a stage marks progress among its output lines.
_PROGRESS = "@progress "


class BoundedLog:
    """A log file that keeps its beginning and its end, and says how much is left out."""

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
                self._file.write(
                    f"... {format_bytes(self._left_out)} of output left out here ...\n"
                )
            self._file.writelines(line + "\n" for line in self._tail)


@contextmanager
def open_stage_log(final: Path, most: int) -> Iterator[BoundedLog]:
    """Open a log under a temporary name; it gets its final name however the stage ends."""
    temporary = make_temporary_name(final)
    log = BoundedLog(temporary, most)
    try:
        yield log
    finally:
        try:
            log.close()
        finally:  # even on a full disk
            temporary.replace(final)


@contextmanager
def stream_output(stage: Stage, observer: Observer, final: Path, most: int) -> Iterator[OnLine]:
    """Pass a stage's lines on to the observer, and all but progress to a log of `most` bytes."""
    with open_stage_log(final, most) as log:

        def on_line(line: str) -> None:
            if line.startswith(_PROGRESS):
                observer.stage_progress(stage, line[len(_PROGRESS) :])
            else:
                log.write(line)
                observer.stage_line(stage, line)

        yield on_line
