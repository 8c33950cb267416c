"""Valid files, made invalid: flipped, cut, spliced, repeated, with huge numbers, nested deeply.

`mutate` draws from anything like `random.Random`: the long runs seed one, hypothesis brings its
own, which it can shrink.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_LONGEST = 1 << 18
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1)
_TOKENS = (b"\0", b"\n", b"\r", b"%s", b"../", b"\xff" * 9 + b"\x01", b"\xed\xa0\x80", b"9" * 5000)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**63, 2**64, 10**400, -(10**400), 0.5, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "a", "x" * 3000, "\0", "\n", "\ud800"),
    *("../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>", "\x1b[2J", "\u202e", "نص"),
    *([], {}, [[]], [1, "a", None], {"a": {}}, {"": []}, [0] * 300),
)


def mutate(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], random: Any) -> bytes:
    """One to six changes of a file; `others` are files to splice with, `tokens` words to insert."""
    document = _json(data) if random.random() < 0.7 else None
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        if document is not None:
            document = _change(document, random)
        else:
            data = _edit(data, others, [*_TOKENS, *tokens], random)
    if document is not None:
        data = json.dumps(document[0]).encode("utf-8", "surrogatepass")
    return data[:_LONGEST]


def _edit(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], random: Any) -> bytes:
    at = random.randint(0, len(data))
    end = min(len(data), at + random.choice((1, 2, 4, 8, 16, 64, 512)))
    number = random.choice(_NUMBERS)
    kind = random.randint(0, 9)
    if kind == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << random.randint(0, 7)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[end:]
    if kind == 3:
        size = random.choice((1, 2, 4, 8))
        order = random.choice(("little", "big"))
        word = (number & (1 << 8 * size) - 1).to_bytes(size, order)
        return data[:at] + word + data[at + size :]
    if kind == 4:
        other = random.choice(others) if others else data
        start = random.randint(0, len(other))
        return data[:at] + other[start : start + random.choice((8, 64, 4096))] + data[end:]
    if kind == 5:
        return data[:at] + random.choice(tokens) + data[at:]
    if kind == 6:
        return data[:at] + random.choice(tokens) + data[end:]
    if kind == 7:  # nesting, or a great number of something
        return data[:at] + data[at:end] * random.choice((2, 100, 5000)) + data[end:]
    if kind == 8:
        return data[:at] + random.choice(tokens) * random.choice((2, 100, 5000)) + data[at:]
    return data[:at] + bytes([random.randint(0, 255)]) + data[at + 1 :]


def _json(data: bytes) -> list[Any] | None:
    try:
        return [json.loads(data)]
    except (ValueError, RecursionError):
        return None


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys)[:400]:
        found.append((value, key))
        if isinstance(value[key], dict | list) and len(found) < 4000:
            _places(value[key], found)


def _change(document: list[Any], random: Any) -> list[Any]:
    """Another value, a missing or a further one, or one that nests, somewhere in a document."""
    found: list[tuple[Any, Any]] = []
    _places(document, found)
    container, key = random.choice(found)
    kind = random.randint(0, 7)
    if kind <= 3:
        container[key] = json.loads(json.dumps(random.choice(_VALUES)))
    elif kind == 4:
        other, place = random.choice(found)
        container[key] = json.loads(json.dumps(other[place]))
    elif kind == 5 and isinstance(container, dict):
        del container[key]
    elif kind == 6 and isinstance(container, dict):
        container[str(random.choice(_VALUES))] = container[key]
    elif kind == 7:
        inner: Any = container[key]
        for _ in range(random.choice((1, 30, 150))):
            inner = [inner] if random.random() < 0.5 else {"a": inner}
        container[key] = inner
    return document if document else [None]
