"""`--wheel FILE`: the user's own wheel for a pin that package indexes have dropped."""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from runner.errors import BadInput
from runner.formats.zip import list_members
from runner.host.files import hash_file
from runner.toolchains.model import Image, StandIn, Wheel

# The wheel specification asks for sha256 or better.
_ALGORITHMS = ("sha256", "sha384", "sha512")
# TensorFlow's RECORD takes 2 MB.
_MOST_RECORD = 64 << 20


def accept_wheel(argument: str, images: Sequence[Image]) -> Wheel:
    """Verify a wheel, `FILE` or `FILE#sha256=HEX`, and find the pin that it is for.

    Its name must match a pin with a stand-in, and its files the hashes in its own RECORD. If its
    sha256 is known (from the argument, or image.toml), it must match; every report records it in
    any case. Raises `BadInput`.
    """
    name, _, expected = argument.partition("#sha256=")
    path = Path(name).absolute()
    if not path.is_file():
        raise BadInput(f"There is no wheel {path}.")
    stand_in = _find_stand_in(path, images)
    sha256 = hash_file(path)
    known = {expected.lower()} if expected else set(stand_in.sha256)
    if known and sha256 not in known:
        raise BadInput(
            f"{path.name} has sha256 {sha256}, not {' or '.join(sorted(known))}.",
            "It is not the wheel that it claims to be, or it is damaged.",
        )
    _verify_record(path)
    return Wheel(path, stand_in.pin, stand_in.use, sha256)


def _find_stand_in(path: Path, images: Sequence[Image]) -> StandIn:
    wanted = {s.pin: (s, image) for image in images for s in image.stand_ins}
    pins = ", ".join(wanted) or "none"
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename:
        raise BadInput(f"{path.name} is not a wheel's file name.") from None
    stand_in, image = wanted.get(f"{canonicalize_name(name)}=={version}", (None, None))
    if stand_in is None or image is None:
        raise BadInput(
            f"No pin of these images is {name}=={version}.", f"Pins with a stand-in: {pins}."
        )
    interpreter = f"cp{image.python.replace('.', '')}"
    machine = image.platform.partition("-")[0]
    if not any(tag.interpreter == interpreter and machine in tag.platform for tag in tags):
        raise BadInput(
            f"{path.name} is not for CPython {image.python} on {machine} Linux "
            f"({interpreter}, {machine})."
        )
    return stand_in


def _verify_record(path: Path) -> None:
    """Check every file in the wheel against the hash that the wheel's RECORD gives for it."""
    try:
        with zipfile.ZipFile(path) as wheel:
            entries = list_members(wheel)
            record = next(e for e in entries if e.filename.endswith(".dist-info/RECORD"))
            hashes = _read_hashes(wheel, record)
            if missing := hashes.keys() - {entry.filename for entry in entries}:
                raise BadInput(
                    f"{path.name} is damaged: it lacks '{min(missing)}'.", "Copy it again."
                )
            for entry in entries:
                name = entry.filename
                if name.endswith("/") or name == record.filename:
                    continue
                algorithm, _, expected = hashes.get(name, "sha256=missing").partition("=")
                if _compute_digest(wheel, entry, algorithm) != expected:
                    raise BadInput(
                        f"{path.name} is damaged: '{name}' in it does not have its RECORD's hash."
                    )
    except BadInput:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # zipfile seeks wherever a zip says
            raise
        raise _make_damage_error(path) from None
    except Exception:  # a damaged zip can fail in any way: zlib, lzma, csv, a password
        raise _make_damage_error(path) from None


def _make_damage_error(path: Path) -> BadInput:
    return BadInput(f"{path.name} is not a whole wheel.", "Copy it again.")


def _read_hashes(wheel: zipfile.ZipFile, record: zipfile.ZipInfo) -> dict[str, str]:
    if record.file_size > _MOST_RECORD:
        raise ValueError("its RECORD is too large")
    rows = csv.reader(io.StringIO(wheel.read(record).decode()))
    return {row[0]: row[1] for row in rows if len(row) > 1 and row[1]}


def _compute_digest(wheel: zipfile.ZipFile, entry: zipfile.ZipInfo, algorithm: str) -> str:
    """Compute a file's hash as RECORD writes it: base64 without padding."""
    if algorithm not in _ALGORITHMS:
        raise ValueError(f"RECORD's hash {algorithm} is none that a wheel may have")
    digest = hashlib.new(algorithm)
    with wheel.open(entry) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
