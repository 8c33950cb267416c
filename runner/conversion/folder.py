"""Notes of the run folders in use, so that those of killed runs can be tidied.

A run tidies its own folder unless SIGKILL or a power cut ends it. What it leaves then (its volume,
files under temporary names) has no label to be found by, so each run keeps a note of its folder in
the cache folder while it works there. To tidy a folder is to remove what has a temporary name; what
has its final name is whole, and stays.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.errors import EnvironmentUnavailable
from runner.host.files import format_bytes, remove_tree, write_text
from runner.host.machine import allocate
from runner.host.paths import cache_folder
from runner.host.process_identity import (
    get_owner,
    get_process_id,
    is_alive,
    is_process_id,
    is_running,
)

# A file of such a name in a run folder is never a result.
_UNFINISHED = (".volume*", ".keep-*", ".*.part", "logs/.*.part")
_RESERVE = ".reserve.part"
# Reserved for the report, the page and the record, which take megabytes for a large model.
_RESERVED_BYTES = 4 << 20


class _Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    owner: str
    folder: str


@contextmanager
def note_active_run(folder: Path) -> Iterator[None]:
    """Note that this process works in a run folder, if there is a cache folder to note it in.

    The note stays if the folder could not be tidied at the end: its disk became read-only.
    """
    note = cache_folder() / "active" / f"{get_process_id()}-{secrets.token_hex(4)}.json"
    path = os.fsencode(folder).decode(errors="surrogateescape")
    with suppress(OSError, UnicodeEncodeError):  # a name that is not UTF-8 cannot be noted
        write_text(note, _Note(owner=get_owner(), folder=path).model_dump_json() + "\n")
    try:
        yield
    finally:
        if not _find_unfinished(folder):
            _remove(note)


@contextmanager
def reserve_report_space(folder: Path) -> Iterator[None]:
    """Reserve disk space in a run folder, and release it at the end of the block.

    A run whose artifacts fill the disk can then still report that. Raises `EnvironmentUnavailable`
    if there is not even this much.
    """
    reserve = folder / _RESERVE
    try:
        _allocate(reserve)
        yield
    finally:
        _remove(reserve)


def _allocate(path: Path) -> None:
    try:
        with open(path, "wb") as file:
            allocate(file, _RESERVED_BYTES)
    except OSError as error:
        _remove(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentUnavailable(
                f"{error.strerror}: {path.parent} has not even {format_bytes(_RESERVED_BYTES)} "
                "for a report.",
                "Make room there, or name another disk with --output.",
            ) from None
        # Some file systems cannot reserve space: the report then has to take its chance.


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def tidy_killed_runs() -> list[str]:
    """Tidy the folders of runs whose runner is gone; return what was removed."""
    removed, notes = [], {}
    for path in sorted((cache_folder() / "active").glob("*.json")):
        try:
            notes[path] = _Note.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            _remove(path)  # damaged, as by a power cut
    in_use = {note.folder for note in notes.values() if is_alive(note.owner)}
    for path, note in notes.items():
        if not is_alive(note.owner) and note.folder not in in_use:
            removed += _tidy(Path(note.folder))
            _remove(path)
    # Notes that were never finished.
    for path in (cache_folder() / "active").glob(".*.part"):
        process = path.name[1:].rpartition("-")[0]
        if not is_process_id(process) or not is_running(process):
            _remove(path)
    return removed


def _tidy(folder: Path) -> list[str]:
    """Remove what has a temporary name, and the folder itself if that leaves it empty."""
    removed = []
    for path in _find_unfinished(folder):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            _remove(path)
        if not path.exists():
            removed.append(str(path))
    for empty in (folder / "logs", folder):
        with suppress(OSError):
            empty.rmdir()
    return removed


def _find_unfinished(folder: Path) -> list[Path]:
    return sorted(path for pattern in _UNFINISHED for path in folder.glob(pattern))
