"""FlatBuffers, read in place: tables, vectors and strings, each access checked and paid for.

A flatbuffer is offsets into itself, so a hostile one may point anywhere, or to one place from a
million others. Every table that is opened costs a budget, and nothing outside the file is read.
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
        """The table that a flatbuffer at this place holds."""
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
    """A table at `at`, whose fields the vtable locates."""

    buffer: Buffer
    at: int
    vtable: int
    vtable_size: int

    def _field(self, index: int) -> int:
        """Where a field's value is; 0 if the table leaves it out."""
        slot = 4 + 2 * index
        if slot + 2 > self.vtable_size:
            return 0
        offset = self.buffer.scalar("H", self.vtable + slot)
        return self.at + offset if offset else 0

    def number(self, index: int, kind: str, default: int = 0) -> int:
        place = self._field(index)
        return self.buffer.scalar(kind, place) if place else default

    def place(self, index: int) -> int:
        """Where the table or the vector lies that a field refers to; 0 if it is left out."""
        place = self._field(index)
        return place + self.buffer.scalar("I", place) if place else 0

    def table(self, index: int) -> Table | None:
        place = self.place(index)
        return self.buffer.table(place) if place else None

    def text(self, index: int) -> str:
        place = self.place(index)
        return self._bytes_at(place, _MOST_TEXT).decode(errors="replace") if place else ""

    def content(self, index: int, most: int) -> bytes:
        """A vector of bytes, as much of it as this."""
        place = self.place(index)
        return self._bytes_at(place, most) if place else b""

    def _bytes_at(self, place: int, most: int) -> bytes:
        length = self.buffer.scalar("I", place)
        start = place + 4
        if start + length > len(self.buffer.data):
            raise Malformed
        return bytes(self.buffer.data[start : start + min(length, most)])

    def length(self, index: int) -> int:
        place = self.place(index)
        return self.buffer.scalar("I", place) if place else 0

    def numbers(self, index: int, kind: str, most: int = 64) -> list[int]:
        """A vector of numbers, the first of them if there are more."""
        place = self.place(index)
        if not place:
            return []
        count = min(self.buffer.scalar("I", place), most)
        size = _SIZES[kind]
        return [self.buffer.scalar(kind, place + 4 + size * i) for i in range(count)]

    def tables(self, index: int) -> Iterator[Table]:
        """A vector of tables."""
        place = self.place(index)
        count = self.buffer.scalar("I", place) if place else 0
        if place + 4 + 4 * count > len(self.buffer.data):
            raise Malformed
        for i in range(count):
            entry = place + 4 + 4 * i
            yield self.buffer.table(entry + self.buffer.scalar("I", entry))
