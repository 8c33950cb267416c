"""A wheel of the user's own for a pin that package indexes have dropped: `--wheel FILE`."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from runner.errors import BadInput
from runner.files import sha256_of
from runner.toolchain import Image, StandIn, Wheel


def accept_wheel(argument: str, images: Sequence[Image]) -> Wheel:
    """Verify a wheel, `FILE` or `FILE#sha256=HEX`, and find the pin that it is for.

    Its name must be that of a pin with a stand-in, and its files must have the hashes that its own
    RECORD gives. If its sha256 is known (from the argument, or image.toml), it must match; it is
    recorded in every report in any case. Raises `BadInput`.
    """
    name, _, expected = argument.partition("#sha256=")
    path = Path(name).absolute()
    if not path.is_file():
        raise BadInput(f"There is no wheel {path}.")
    stand_in = _stand_in_for(path, images)
    sha256 = sha256_of(path)
    known = {expected.lower()} if expected else set(stand_in.sha256)
    if known and sha256 not in known:
        raise BadInput(
            f"{path.name} has sha256 {sha256}, not {' or '.join(sorted(known))}.",
            "It is not the wheel that it claims to be, or it is damaged.",
        )
    _verify_record(path)
    return Wheel(path, stand_in.pin, stand_in.use, sha256)


def _stand_in_for(path: Path, images: Sequence[Image]) -> StandIn:
    wanted = {s.pin: s for image in images for s in image.stand_ins}
    pins = ", ".join(wanted) or "none"
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename:
        raise BadInput(f"{path.name} is not a wheel's file name.") from None
    stand_in = wanted.get(f"{canonicalize_name(name)}=={version}")
    if stand_in is None:
        raise BadInput(
            f"No pin of these images is {name}=={version}.", f"Pins with a stand-in: {pins}."
        )
    if not any(tag.interpreter == "cp38" and "x86_64" in tag.platform for tag in tags):
        raise BadInput(f"{path.name} is not for CPython 3.8 on x86-64 Linux (cp38, x86_64).")
    return stand_in


def _verify_record(path: Path) -> None:
    """Check every file in the wheel against the hash that the wheel's RECORD gives for it."""
    try:
        with zipfile.ZipFile(path) as wheel:
            record = next(n for n in wheel.namelist() if n.endswith(".dist-info/RECORD"))
            rows = list(csv.reader(io.StringIO(wheel.read(record).decode())))
            hashes = {row[0]: row[1] for row in rows if len(row) > 1 and row[1]}
            if missing := hashes.keys() - set(wheel.namelist()):
                raise BadInput(
                    f"{path.name} is damaged: it lacks '{min(missing)}'.", "Copy it again."
                )
            for name in wheel.namelist():
                if name.endswith("/") or name == record:
                    continue
                algorithm, _, expected = hashes.get(name, "sha256=missing").partition("=")
                digest = hashlib.new(algorithm, wheel.read(name)).digest()
                if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != expected:
                    raise BadInput(
                        f"{path.name} is damaged: '{name}' in it does not have its RECORD's hash."
                    )
    except (zipfile.BadZipFile, StopIteration, ValueError, UnicodeDecodeError):
        raise BadInput(f"{path.name} is not a whole wheel.", "Copy it again.") from None
