"""Text from anywhere, made fit for a terminal and split into lines of a bounded length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# A longer line is handed on in pieces.
_LONGEST_LINE = 1 << 16
# Escape sequences and other control characters could rewrite what the user's terminal shows.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text from a stage without what would steer the terminal (escape sequences and the like)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def strip_control(text: str) -> str:
    """A text of a stage's without control characters; line feeds and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
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
    return strip_control(line.decode(errors="replace").rstrip().rpartition("\r")[2])
