"""A relocatable CPython in an archive: a tar of regular files."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runner.archive.format import check_name
from runner.engines.docker.base_image import copy_cpython
from runner.errors import BadInput, EnvironmentUnavailable

# Libraries of glibc itself, present on every glibc system.
_GLIBC = (
    *("linux-vdso", "ld-linux", "libc.", "libm.", "libdl.", "libpthread.", "librt.", "libutil."),
    *("libresolv.", "libnsl.so.1", "libanl."),
)
_MOST_FILES = 20_000
_MOST_BYTES = 2 << 30
# The most bytes of an extended header, which may only give a long name.
_MOST_EXTENDED = 1 << 12
_LONG_NAME = re.compile(rb"[0-9]+ path=[^\n]+\n")
# Imports what a stage and its installation need.
_CHECK = (
    "import sys, ctypes, zlib, hashlib, venv; "
    "print(sys.prefix); print(open('/proc/self/maps').read())"
)


@dataclass(frozen=True)
class Packed:
    """An interpreter in a tar; `needs` lists the system libraries that it does not contain."""

    path: Path
    version: str
    needs: tuple[str, ...]


def pack(executable: Path, version: str, folder: Path) -> Packed:
    """Copy a CPython into `folder`, make it relocatable, and pack it into a tar.

    Leaves out the standard library's tests, Tk, whatever compiles C extensions, and the system's
    shared libraries. Raises `EnvironmentUnavailable` if the copy does not run on its own.
    """
    copy = folder / "python"
    full_version = copy_cpython(executable, version, copy)
    _relocate(executable, copy / "bin" / f"python{version}")
    _check_copy(copy, version)
    tar_path = folder / "python.tar"
    with tarfile.open(tar_path, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(
            p for p in copy.rglob("*") if p.is_file() and "__pycache__" not in p.parts
        ):
            # An archive has no links: other links become copies of their targets.
            if path.is_symlink() and path.name.startswith(("python", "libpython")):
                continue
            member = tarfile.TarInfo(path.relative_to(copy).as_posix())
            member.size = path.stat().st_size
            member.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            with open(path, "rb") as file:
                tar.addfile(member, file)
    return Packed(tar_path, full_version, _list_needs(copy))


def unpack(source: IO[bytes], folder: Path) -> None:
    """Unpack an untrusted tar of an interpreter into a new folder: regular files only.

    Raises `BadInput` for any other member, and for more files or bytes than an interpreter has.
    """
    left, files = _MOST_BYTES, 0
    try:
        _check_headers(source)
        with tarfile.open(fileobj=source, mode="r|") as tar:
            for member in tar:
                check_name(member.name)
                left, files = left - member.size, files + 1
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or left < 0 or files > _MOST_FILES:
                    raise ValueError(f"{member.name!r} is not for an interpreter")
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as file:
                    shutil.copyfileobj(content, file)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, ValueError, FileExistsError, NotADirectoryError) as error:
        raise BadInput(f"The archive's interpreter cannot be unpacked: {error}") from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL):
            raise
        raise BadInput(f"The archive's interpreter cannot be unpacked: {error.strerror}") from None


def _check_headers(source: IO[bytes]) -> None:
    """Raise `ValueError` for a header that `tarfile` would read into memory whatever its size."""
    end = source.seek(0, os.SEEK_END)
    position = 0
    while position < end:
        source.seek(position)
        block = source.read(tarfile.BLOCKSIZE)
        if not block.strip(b"\0"):
            break
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.size < 0 or member.type not in (tarfile.REGTYPE, tarfile.XHDTYPE):
            raise ValueError(f"{member.name!r} is no file")
        # It may give the next file a long name, but nothing that shifts what follows.
        if member.type == tarfile.XHDTYPE and not (
            member.size <= _MOST_EXTENDED and _LONG_NAME.fullmatch(source.read(member.size))
        ):
            raise ValueError("a header that no interpreter's tar has")
        position += tarfile.BLOCKSIZE + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    source.seek(0)


def _relocate(executable: Path, copy: Path) -> None:
    """Let a CPython find its libpython relative to itself, wherever it is installed.

    One built with --enable-shared has an absolute run path, which is overwritten in place: the new
    one is shorter.
    """
    script = "import sys; print(sys.base_prefix)"
    command = [str(executable), "-I", "-c", script]
    prefix = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    old, new = f"\0{prefix}/lib\0".encode(), b"\0$ORIGIN/../lib"
    data = copy.read_bytes()
    if data.count(old) == 1 and len(new) < len(old):
        copy.write_bytes(data.replace(old, new.ljust(len(old), b"\0")))


def _check_copy(copy: Path, version: str) -> None:
    result = subprocess.run(
        [str(copy / "bin" / f"python{version}"), "-I", "-B", "-c", _CHECK],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    prefix, _, maps = result.stdout.partition("\n")
    foreign = [
        line
        for line in maps.splitlines()
        if "libpython" in line and str(copy.resolve()) not in line
    ]
    if result.returncode or Path(prefix) != copy.resolve() or foreign:
        last = result.stderr.strip().splitlines()[-1:] or ["it depends on where it is installed"]
        raise EnvironmentUnavailable(
            f"The CPython {version} of this machine cannot be archived: {last[0]}",
            f"Save with --engine docker, or install a movable one: `uv python install {version}`.",
        )


def _list_needs(copy: Path) -> tuple[str, ...]:
    """List the system's shared libraries that the copy's programs and modules link to."""
    names = set()
    for path in _find_binaries(copy):
        result = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
        for line in result.stdout.splitlines():
            name, _, target = line.strip().partition(" => ")
            file = Path(name.split(" ")[0]).name
            if not file.startswith(_GLIBC) and ".so" in file and str(copy) not in target:
                names.add(file)
    return tuple(sorted(n for n in names if not n.startswith("libpython")))


def _find_binaries(copy: Path) -> Iterable[Path]:
    yield from (p for p in (copy / "bin").iterdir() if not p.is_symlink())
    yield from copy.rglob("*.so")
