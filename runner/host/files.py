"""Files that appear whole or not at all, their hashes, and how sizes and paths are shown."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.errors import BadInput


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_bytes(path: Path, most: int) -> bytes | None:
    """Read a regular file; return None if it has more than `most` bytes.

    Raises `OSError`, also for a device, or a FIFO that nobody writes to.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        content = file.read(most + 1)
    return content if len(content) <= most else None


def _open_without_waiting(path: str, flags: int) -> int:
    # Without O_NONBLOCK, which Windows has not, opening a FIFO waits for its other end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def make_temporary_name(final: Path) -> Path:
    """Make a temporary name beside a file, for what is to become it.

    It cannot be guessed: another process may be writing the same file, and whoever made the folder
    may have put a link there.
    """
    return final.with_name(f".{final.name}.{secrets.token_hex(4)}.part")


@contextmanager
def atomic_write(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside `final`, which takes that name if the block succeeds."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = make_temporary_name(final)
    with open(temporary, "xb"):
        pass
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows lets only a writer ask for it
            os.fsync(file.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def open_user_output(path: Path) -> Iterator[Path]:
    """Yield a path to write to for a name that the user gave, even /dev/stdout or a link.

    Those are written to directly; a file appears whole. Raises `BadInput` for a folder.
    """
    if not path.name or path.is_dir():
        raise BadInput(f"{path} is a folder.", "Name a file.")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        yield path
        return
    with atomic_write(path) as temporary:
        yield temporary


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def format_bytes(size: float) -> str:
    """Format a size as `14.2 MB`, in decimal units, as disks and downloads are counted."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def format_relative_path(path: Path) -> str:
    """Format a path as one would type it here: relative to the current folder if it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def remove_tree(root: Path) -> None:
    """Remove a folder with everything in it, even if unreadable or very deeply nested."""
    try:
        shutil.rmtree(root)
    except FileNotFoundError:
        pass
    except (OSError, RecursionError):
        # Neither follows links, and both descend by file descriptors.
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf", "--one-file-system"]):
            subprocess.run([*command, "--", str(root)], capture_output=True, check=False)
