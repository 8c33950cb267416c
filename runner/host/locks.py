"""Locks between processes, held on files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


def make_lock(path: Path, timeout: float = -1) -> BaseFileLock:
    """Make a lock, to be held in a `with` block; the wait for it ends in a `TimeoutError`.

    `timeout` is in seconds; negative, it is none.
    """
    # Imported late: a run that finds everything ready holds no lock.
    from filelock import FileLock

    return FileLock(str(path), timeout=timeout)
