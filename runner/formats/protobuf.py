"""Protocol buffers as their wire format has them, read in place and within bounds.

The wire format says where each field begins and ends and nothing of what it means; the field
numbers are those of the published .proto files. A file from anywhere may say anything, so reading
one costs a budget of fields, and what nests is read to a fixed depth by those who call.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# A graph of 7,000 convolutions has some 200,000 fields; this many take about five seconds.
_MOST_FIELDS = 2_000_000
# Names longer than this are cut: nobody reads them, and a report should not be made of one.
_MOST_TEXT = 300

Data = bytes | bytearray | mmap.mmap


class Malformed(Exception):
    """The bytes are no message of the wire format, or end before it does."""


class TooMuch(Exception):
    """The file has more in it than any model that this reader was made for."""


@dataclass
class Budget:
    """How many fields may still be read of one file."""

    left: int = _MOST_FIELDS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooMuch


@dataclass(frozen=True)
class Message:
    """A message: a range of bytes of a file. Fields are found anew at each look at it."""

    data: Data
    start: int
    end: int
    budget: Budget = field(compare=False)

    @classmethod
    def of(cls, data: Data) -> Message:
        return cls(data, 0, len(data), Budget())

    def fields(self) -> Iterator[tuple[int, int, Message | int]]:
        """Number, wire type and value (a part of the file, or a number) of each field.

        Raises `Malformed` where the bytes end too early, after all that there is before that.
        """
        for found in self.spans():
            if found.wire == VARINT:
                yield found.number, VARINT, found.value
            else:
                part = Message(self.data, found.start, found.end, self.budget)
                yield found.number, found.wire, part

    def spans(self) -> Iterator[Span]:
        """Where each field lies. Raises as `fields` does."""
        return spans(self.data, self.start, self.end, self.budget)

    def parts(self, wanted: int) -> Iterator[Message]:
        """The length-delimited fields of this number."""
        for number, kind, value in self.fields():
            if number == wanted and kind == BYTES and isinstance(value, Message):
                yield value

    def part(self, wanted: int) -> Message | None:
        return next(self.parts(wanted), None)

    def number(self, wanted: int, default: int = 0) -> int:
        """The last value of a varint field, as protobuf has it."""
        found = default
        for number, kind, value in self.fields():
            if number == wanted and kind == VARINT and isinstance(value, int):
                found = value
        return found

    def numbers(self, wanted: int, most: int = 64) -> list[int]:
        """A repeated varint field, packed or not; at most this many."""
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
                    one, position = varint(self.data, position, value.end)
                    found.append(one)
        return found

    def text(self, wanted: int) -> str:
        """A string field, cut to a length that a person reads; '' if it is not there."""
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


def spans(data: Data, start: int, end: int, budget: Budget) -> Iterator[Span]:
    """Follow the fields of the message that lies between two places.

    A field that ends too early is handed on as far as it goes. Raises `Malformed` after that, and
    `TooMuch` when the budget is spent.
    """
    position = start
    while position < end:
        budget.spend()
        key, position = varint(data, position, end)
        number, wire = key >> 3, key & 7
        if not number:
            raise Malformed
        if wire == VARINT:
            value, stop = varint(data, position, end)
            yield Span(number, wire, position, stop, value)
            position = stop
            continue
        if wire == BYTES:
            length, position = varint(data, position, end)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise Malformed
        stop = min(position + length, end)
        yield Span(number, wire, position, stop)
        if position + length > end:
            raise Malformed  # after what there is of it
        position = stop


def varint(data: Data, start: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, low ones first, and where it ends. Raises `Malformed`."""
    value = shift = 0
    for index in range(start, min(end, start + 10)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise Malformed


def signed(value: int) -> int:
    """A varint as int64: negative numbers are written as their complement."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
