"""Safe reading and writing in a folder that a stage could write into.

The stage may have replaced a file with anything: a link to the user's own files, a device, a FIFO
that never ends, a folder that is a link. So each step down a path opens a file descriptor, and
follows no link.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from runner.errors import EnvironmentUnavailable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO waits for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def put(root: Path, name: str, content: Path | bytes) -> None:
    """Write a file under its name, whole or not at all, whatever lies there now.

    Raises `EnvironmentUnavailable` if a folder on the path is no longer one.
    """
    with _open_parent(root, name, create=True) as (folder, last):
        temporary = f".{last}.{secrets.token_hex(4)}.part"
        try:
            with open(os.open(temporary, _NEW, 0o644, dir_fd=folder), "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    with open(content, "rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
            try:
                os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            except IsADirectoryError:
                raise _make_replaced_error(name) from None
        except BaseException:
            with suppress(FileNotFoundError):  # on a full disk it may never have been made
                os.unlink(temporary, dir_fd=folder)
            raise


def read(root: Path, name: str, most: int) -> bytes | None:
    """Return a regular file's content; None for anything else or more than `most` bytes."""
    with _open_file(root, name) as file:
        if file is None or os.fstat(file.fileno()).st_size > most:
            return None
        content = file.read(most + 1)
        return content if len(content) <= most else None


def copy_out(root: Path, name: str, target: IO[bytes], most: int) -> bool:
    """Copy a regular file out; return False if there is none, or it exceeds `most` bytes.

    Not a hard link: through one, the next stage could write into the user's own file.
    """
    with _open_file(root, name) as file:
        if file is None:
            return False
        left = most
        while block := file.read(1 << 20):
            left -= len(block)
            if left < 0:
                return False
            target.write(block)
        return True


@contextmanager
def _open_file(root: Path, name: str) -> Iterator[IO[bytes] | None]:
    try:
        with _open_parent(root, name, create=False) as (folder, last):
            descriptor = os.open(last, _FILE, dir_fd=folder)
    except (OSError, EnvironmentUnavailable):
        yield None
        return
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        yield None
        return
    with open(descriptor, "rb") as file:
        yield file


@contextmanager
def _open_parent(root: Path, name: str, *, create: bool) -> Iterator[tuple[int, str]]:
    """Yield a file descriptor of the folder that contains a file, and the file's own name."""
    *above, last = Path(name).parts
    if Path(name).is_absolute() or ".." in above:
        raise ValueError(f"'{name}' is not a name in the volume")
    folder = os.open(root, _FOLDER)
    try:
        for part in above:
            if create:
                try:
                    os.mkdir(part, 0o755, dir_fd=folder)
                except FileExistsError:
                    pass
            try:
                below = os.open(part, _FOLDER, dir_fd=folder)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise _make_replaced_error(part) from None
                raise
            os.close(folder)
            folder = below
        yield folder, last
    finally:
        os.close(folder)


def _make_replaced_error(name: str) -> EnvironmentUnavailable:
    return EnvironmentUnavailable(
        f"'{name}' in the run's volume is not what the runner put there.",
        "An earlier stage replaced it, which none does by itself: do not trust this model.",
    )
