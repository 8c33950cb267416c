"""Small pictures inside a page, as PNG, so that the page stays one file."""

from __future__ import annotations

import base64
import struct
import zlib

from runner.schemas.report import Picture

# PNG's colour types of one and of three channels (RFC 2083, 4.1.1).
_COLOR_TYPES = {1: 0, 3: 2}


def make_image_source(picture: Picture) -> str:
    """Return the picture as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(picture)).decode()}"


def encode_png(picture: Picture) -> bytes:
    """Return the picture as a PNG file, without filters."""
    pixels, row = picture.decode(), picture.width * picture.channels
    rows = (pixels[start : start + row] for start in range(0, len(pixels), row))
    kind = _COLOR_TYPES[picture.channels]
    head = struct.pack(">IIBBBBB", picture.width, picture.height, 8, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + line for line in rows), 9)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_make_chunk(*chunk) for chunk in chunks)


def _make_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
