"""Archives and what lies in them, and wheels of the user's own."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import zstandard

from fuzz import seeds
from fuzz.harness import Harness
from runner.archive import docker_images, interpreter
from runner.archive.format import BLOCK, INDEX, TRAILER, TRAILER_LINE, build_header, compute_padding
from runner.archive.reader import Archive
from runner.errors import RunnerError
from runner.packages.user_wheel import accept_wheel
from runner.toolchains.load import load_image
from runner.toolchains.model import Image

_ABOUT: dict[str, Any] = {
    **{"format": "runner-archive", "version": 1, "created": "2026-01-01T00:00:00Z"},
    **{"runner": "1", "platform": "x86_64-manylinux2014", "host_python": "", "interpreters": []},
    **{"toolchains": ["pytorch-tflite-2020"], "environments": [], "runs": ["a"]},
}
_KINDS = {"w": "wheel", "i": "image", "r": "run"}


def _parts(members: Sequence[tuple[str, bytes]]) -> tuple[list[dict[str, Any]], bytes]:
    parts, data = [], b""
    for name, content in members:
        stored = zstandard.compress(content) if name.endswith(".zst") else content
        head = build_header(name, len(stored))
        part = {"name": name, "kind": _KINDS[name[0]], "offset": len(data) + len(head)}
        part |= {"stored_size": len(stored), "stored_sha256": hashlib.sha256(stored).hexdigest()}
        part |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        parts.append({**part, "compression": "zstd" if name.endswith(".zst") else "none"})
        data += head + stored + bytes(compute_padding(len(stored)))
    return parts, data


def _closed(data: bytes, index: bytes) -> bytes:
    """The parts with an index and a trailer that fit them, whatever the index says."""
    offset = len(data) + BLOCK
    line = TRAILER_LINE.format(
        sha256=hashlib.sha256(index).hexdigest(), offset=offset, size=len(index)
    ).encode()
    for name, content in ((INDEX, index), (TRAILER, line)):
        data += build_header(name, len(content)) + content + bytes(compute_padding(len(content)))
    return data + bytes(2 * BLOCK)


def _members(manifest: bytes = b"", index: bytes = b"") -> list[tuple[str, bytes]]:
    blob = b"layer"
    name = {"io.containerd.image.name": "docker.io/library/runner-torch:latest"}
    return [
        ("runs/a/report.json.zst", b"{}" * 300),
        ("runs/a/x", b"x" * 600),
        (f"images/blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob),
        ("images/oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
        ("images/index.json", index or json.dumps({"manifests": [{"annotations": name}]}).encode()),
        ("images/manifest.json", manifest or b'[{"RepoTags": ["runner-torch:latest"]}]'),
    ]


def _open(data: bytes, folder: Path) -> bool:
    """As `runner archive verify` does."""
    path = folder / "x.tar"
    path.write_bytes(data)
    try:
        with Archive(path) as archive:
            archive.verify()
            docker_images.check(archive)
    except RunnerError:
        return False
    return True


def _whole() -> Sequence[bytes]:
    parts, data = _parts(_members())
    return [_closed(data, json.dumps({**_ABOUT, "parts": parts}).encode())]


@cache
def _sound() -> tuple[list[dict[str, Any]], bytes]:
    return _parts(_members())


def _index(data: bytes, folder: Path) -> bool:
    return _open(_closed(_sound()[1], data), folder)


def _indexes() -> Sequence[bytes]:
    environment = {"image": "torch", "python": "3.8", "lock_sha256": "0" * 64, "key": "0" * 64}
    full = {**_ABOUT, "parts": _sound()[0], "environments": [{**environment, "wheels": []}]}
    return [json.dumps({**_ABOUT, "parts": _sound()[0]}).encode(), json.dumps(full).encode()]


def _layout(data: bytes, folder: Path) -> bool:
    """The images' own two indexes, in an archive that is sound."""
    taken = False
    for members in (_members(manifest=data), _members(index=data)):
        parts, stored = _parts(members)
        taken |= _open(_closed(stored, json.dumps({**_ABOUT, "parts": parts}).encode()), folder)
    return taken


def _unpack(data: bytes, folder: Path) -> bool:
    outside = set(folder.iterdir())
    (folder / "x.tar").write_bytes(data)
    with open(folder / "x.tar", "rb") as source:
        try:
            interpreter.unpack(source, folder / "python")
        except RunnerError:
            return False
        finally:
            assert set(folder.iterdir()) - outside <= {folder / "x.tar", folder / "python"}
    return True


def _interpreters() -> Sequence[bytes]:
    made = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with io.BytesIO() as file:
            with tarfile.open(fileobj=file, mode="w", format=form) as tar:
                for name in ("bin/python3.8", "lib/" + "long/" * 30 + "a.py"):
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = 5, 0o755
                    tar.addfile(member, io.BytesIO(b"12345"))
            made.append(file.getvalue())
    return made


_WHEEL = "tf_nightly-2.4.0.dev20200923-cp38-cp38-manylinux2010_x86_64.whl"
_INFO = "tf_nightly-2.4.0.dev20200923.dist-info"


@cache
def _images() -> list[Image]:
    return [load_image("tflite")]


def _wheel(data: bytes, folder: Path) -> bool:
    (folder / _WHEEL).write_bytes(data)
    try:
        accept_wheel(str(folder / _WHEEL), _images())
    except RunnerError:
        return False
    return True


def _record(data: bytes, folder: Path) -> bool:
    """A sound zip whose RECORD is this."""
    return _wheel(seeds.zipped({"a.py": b"a", "b.py": b"b", f"{_INFO}/RECORD": data}), folder)


def _records() -> Sequence[bytes]:
    def line(name: str) -> bytes:
        digest = hashlib.sha256(name[:1].encode()).digest()
        return (
            f"{name},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},1\n".encode()
        )

    return [line("a.py") + line("b.py") + f"{_INFO}/RECORD,,\n".encode()]


def _wheels() -> Sequence[bytes]:
    files = {"a.py": b"a", "b.py": b"b", f"{_INFO}/RECORD": _records()[0]}
    return [seeds.zipped(files), seeds.zipped(files, 8), seeds.zipped(files, 12)]


def _wheel_name(data: bytes, folder: Path) -> bool:
    name = data.decode(errors="replace").replace("/", "_").replace("\0", "_")[:80]
    (folder / (name if name.strip(".") else "x")).write_bytes(_wheels()[0])
    try:
        accept_wheel(str(folder / name), _images())
    except RunnerError:
        return False
    return True


_HASHES = (b"shake_128=", b"md5=", b"blake2b=", b",", b'"', b"\n", b"sha256=", b"\0", b"../x")

HARNESSES = [
    Harness("archive", _whole, _open, (b"ustar", TRAILER.encode(), INDEX.encode())),
    Harness("archive-index", _indexes, _index),
    Harness(
        "image-layout",
        lambda: [_members()[-1][1], _members()[-2][1], b"[" * 100 + b"]" * 100],
        _layout,
        (b"[", b"{", b'"RepoTags":', b'"manifests":'),
    ),
    Harness("interpreter", _interpreters, _unpack, (b"ustar", b"../", b"L", b"x", b"g", b"7" * 11)),
    Harness("wheel", _wheels, _wheel, (b"PK\x01\x02", b"PK\x05\x06")),
    Harness("wheel-record", _records, _record, _HASHES),
    Harness("wheel-name", lambda: [_WHEEL.encode()], _wheel_name, (b"-", b".", b"!", b"+", b"1")),
]
