"""Untrusted text, made safe for a terminal and split into lines of bounded length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# The name of an image or a toolchain: it becomes a folder's or a file's name.
NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
# A toolchain, for its own target or for another one.
TOOLCHAIN = rf"{NAME}(\+{NAME})?"
# A longer line is passed on in pieces.
_LONGEST_LINE = 1 << 16
# Escape sequences and other control characters could rewrite what the user's terminal shows.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def make_printable(text: str) -> str:
    """Replace what could control the terminal, such as escape sequences, in untrusted text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def strip_control(text: str) -> str:
    """Replace the control characters in a stage's text; line feeds and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def split_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a stream, without their ends; long ones in pieces, to bound memory."""
    pending = b""
    for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield from _split_line(line)
        while len(pending) > _LONGEST_LINE:
            yield _decode_line(pending[:_LONGEST_LINE])
            pending = pending[_LONGEST_LINE:]
    if pending:
        yield from _split_line(pending)


def _split_line(line: bytes) -> Iterator[str]:
    for start in range(0, max(len(line), 1), _LONGEST_LINE):
        yield _decode_line(line[start : start + _LONGEST_LINE])


def _decode_line(line: bytes) -> str:
    # A progress bar rewrites its line by carriage returns: only what it showed last counts.
    return strip_control(line.decode(errors="replace").rstrip().rpartition("\r")[2])
