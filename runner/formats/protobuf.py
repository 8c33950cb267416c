"""Protocol buffers in their wire format, read in place and within bounds.

The wire format says where each field begins and ends, but not what it means; the field numbers are
those of the published .proto files. An untrusted file may say anything, so each field read is
charged to a budget, and callers limit the depth of nesting.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# A graph of 7,000 convolutions has some 200,000 fields; this many take about five seconds.
_MOST_FIELDS = 2_000_000
# Longer names are cut: nobody reads them, and a single one should not fill a report.
_MOST_TEXT = 300

Data = bytes | bytearray | mmap.mmap


class Malformed(Exception):
    """The bytes are not a message in the wire format, or end before it does."""


class TooMuch(Exception):
    """The file contains more than any model that this reader was made for."""


@dataclass
class Budget:
    """How many more fields of a file may be read."""

    left: int = _MOST_FIELDS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooMuch


@dataclass(frozen=True)
class Message:
    """A message: a range of bytes of a file, whose fields are parsed anew on each access."""

    data: Data
    start: int
    end: int
    budget: Budget = field(compare=False)

    @classmethod
    def of(cls, data: Data) -> Message:
        return cls(data, 0, len(data), Budget())

    def fields(self) -> Iterator[tuple[int, int, Message | int]]:
        """Yield the number, wire type and value (a part of the file, or a number) of each field.

        Raises `Malformed` if the bytes end too early, after yielding all fields before that.
        """
        for found in self.spans():
            if found.wire == VARINT:
                yield found.number, VARINT, found.value
            else:
                part = Message(self.data, found.start, found.end, self.budget)
                yield found.number, found.wire, part

    def spans(self) -> Iterator[Span]:
        """Yield where each field lies. Raises as `fields` does."""
        return iterate_spans(self.data, self.start, self.end, self.budget)

    def parts(self, wanted: int) -> Iterator[Message]:
        """Yield the length-delimited fields of this number."""
        for number, kind, value in self.fields():
            if number == wanted and kind == BYTES and isinstance(value, Message):
                yield value

    def part(self, wanted: int) -> Message | None:
        return next(self.parts(wanted), None)

    def number(self, wanted: int, default: int = 0) -> int:
        """Return the last value of a varint field, which is the one that protobuf uses."""
        found = default
        for number, kind, value in self.fields():
            if number == wanted and kind == VARINT and isinstance(value, int):
                found = value
        return found

    def numbers(self, wanted: int, most: int = 64) -> list[int]:
        """Return up to `most` values of a repeated varint field, packed or not."""
        found: list[int] = []
        for number, kind, value in self.fields():
            if number != wanted or len(found) >= most:
                continue
            if isinstance(value, int):
                found.append(value)
            elif kind == BYTES:
                position = value.start
                while position < value.end and len(found) < most:
                    self.budget.spend()
                    one, position = read_varint(self.data, position, value.end)
                    found.append(one)
        return found

    def text(self, wanted: int) -> str:
        """Return a string field, cut to a readable length; '' if it is absent."""
        part = self.part(wanted)
        return part.as_text() if part is not None else ""

    def as_text(self) -> str:
        return bytes(self.data[self.start : min(self.end, self.start + _MOST_TEXT)]).decode(
            errors="replace"
        )


class Span(NamedTuple):
    """A field: its number and wire type, where its content lies, and a varint's value."""

    number: int
    wire: int
    start: int
    end: int
    value: int = 0


def iterate_spans(data: Data, start: int, end: int, budget: Budget) -> Iterator[Span]:
    """Yield the fields of the message that lies between two positions.

    A field that ends too early is yielded as far as it goes. Raises `Malformed` after that, and
    `TooMuch` when the budget is spent.
    """
    position = start
    while position < end:
        budget.spend()
        key, position = read_varint(data, position, end)
        number, wire = key >> 3, key & 7
        if not number:
            raise Malformed
        if wire == VARINT:
            value, stop = read_varint(data, position, end)
            yield Span(number, wire, position, stop, value)
            position = stop
            continue
        if wire == BYTES:
            length, position = read_varint(data, position, end)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise Malformed
        stop = min(position + length, end)
        yield Span(number, wire, position, stop)
        if position + length > end:
            raise Malformed  # after yielding what there is of it
        position = stop


def read_varint(data: Data, start: int, end: int) -> tuple[int, int]:
    """Read a number, 7 bits per byte, low ones first, and where it ends. Raises `Malformed`."""
    value = shift = 0
    for index in range(start, min(end, start + 10)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise Malformed


def decode_signed(value: int) -> int:
    """Convert a varint to int64: negative numbers are written as their two's complement."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
