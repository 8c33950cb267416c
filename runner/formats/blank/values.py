"""Which constants need no blanking: those that make up shapes, but not weights."""

from __future__ import annotations

import struct

MOST_ELEMENTS = 16
_LARGEST = 1 << 20
_LONGEST_NUMBER = 8


class Unreadable(Exception):
    """The file is not what it should be, so nothing of it may be passed on."""


def is_plain(data: bytearray, start: int, end: int, form: str) -> bool:
    """Tell whether this is a few numbers, as in shapes, axes, scales and bounds.

    That is at most 16 of them, each a small multiple of 1/16. `form` is their `struct` format, or
    '' if it is unknown, in which case nothing is plain.
    """
    if start == end:
        return True
    if not form or end - start > MOST_ELEMENTS * _LONGEST_NUMBER:
        return False
    count, rest = divmod(end - start, struct.calcsize(f"<{form}"))
    if rest or count > MOST_ELEMENTS:
        return False
    return all(
        # Neither NaN nor infinity gets past the first comparison.
        abs(value) < _LARGEST and value * 16 == int(value * 16)
        for value in struct.unpack_from(f"<{count}{form}", data, start)
    )
