"""FlatBuffers, read in place: tables, vectors and strings, with checked and budgeted access.

A flatbuffer is offsets into itself, so a hostile one may point anywhere, or to one place from a
million others. Opening a table is charged to a budget, and nothing outside the file is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from runner.formats.protobuf import Budget, Data, Malformed

_MOST_TEXT = 300
_SIZES = {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8}


@dataclass(frozen=True)
class Buffer:
    data: Data
    budget: Budget

    def root(self, at: int = 0) -> Table:
        """Return the root table of the flatbuffer that begins at `at`."""
        return self.table(at + self.scalar("I", at))

    def scalar(self, kind: str, at: int) -> int:
        end = at + _SIZES[kind]
        if at < 0 or end > len(self.data):
            raise Malformed
        value: int = struct.unpack("<" + kind, self.data[at:end])[0]
        return value

    def table(self, at: int) -> Table:
        self.budget.spend()
        vtable = at - self.scalar("i", at)
        return Table(self, at, vtable, self.scalar("H", vtable))


class Table(NamedTuple):
    """A table at `at`, whose vtable locates its fields."""

    buffer: Buffer
    at: int
    vtable: int
    vtable_size: int

    def _locate_field(self, index: int) -> int:
        """Return where a field's value lies, or 0 if the table omits it."""
        slot = 4 + 2 * index
        if slot + 2 > self.vtable_size:
            return 0
        offset = self.buffer.scalar("H", self.vtable + slot)
        return self.at + offset if offset else 0

    def number(self, index: int, kind: str, default: int = 0) -> int:
        place = self._locate_field(index)
        return self.buffer.scalar(kind, place) if place else default

    def place(self, index: int) -> int:
        """Return where the table or vector that a field refers to lies, or 0 if it is omitted."""
        place = self._locate_field(index)
        return place + self.buffer.scalar("I", place) if place else 0

    def table(self, index: int) -> Table | None:
        place = self.place(index)
        return self.buffer.table(place) if place else None

    def text(self, index: int) -> str:
        place = self.place(index)
        return self._read_bytes(place, _MOST_TEXT).decode(errors="replace") if place else ""

    def content(self, index: int, most: int) -> bytes:
        """Return up to `most` bytes of a vector of bytes."""
        place = self.place(index)
        return self._read_bytes(place, most) if place else b""

    def _read_bytes(self, place: int, most: int) -> bytes:
        length = self.buffer.scalar("I", place)
        start = place + 4
        if start + length > len(self.buffer.data):
            raise Malformed
        return bytes(self.buffer.data[start : start + min(length, most)])

    def length(self, index: int) -> int:
        place = self.place(index)
        return self.buffer.scalar("I", place) if place else 0

    def numbers(self, index: int, kind: str, most: int = 64) -> list[int]:
        """Return up to `most` numbers of a vector of numbers."""
        place = self.place(index)
        if not place:
            return []
        count = min(self.buffer.scalar("I", place), most)
        size = _SIZES[kind]
        return [self.buffer.scalar(kind, place + 4 + size * i) for i in range(count)]

    def tables(self, index: int) -> Iterator[Table]:
        """Yield each table of a vector of tables."""
        place = self.place(index)
        count = self.buffer.scalar("I", place) if place else 0
        if place + 4 + 4 * count > len(self.buffer.data):
            raise Malformed
        for i in range(count):
            entry = place + 4 + 4 * i
            yield self.buffer.table(entry + self.buffer.scalar("I", entry))
