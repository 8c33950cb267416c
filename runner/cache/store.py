"""The content-addressed store of finished stages: the same code never runs twice on one input.

An entry is a folder in the runner's cache folder, named by its key: the stage's artifact, report
and log, for the first stage also the reference outputs of the check, and an index of their hashes.
The key covers everything that could change the result: the stages' code, the environment, the
engine, the request with every option and, through the previous stage's key, the model and all
other inputs. The least recently used entries are removed when the cache is full.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.engines.limits import parse_number
from runner.errors import BadInput
from runner.host.files import hash_file, write_text
from runner.host.locks import make_lock
from runner.host.paths import cache_folder
from runner.host.process_identity import get_process_id, is_process_id, is_running
from runner.schemas.base import Integer, Natural
from runner.schemas.report import StageReport
from runner.schemas.stage_reports import read_report
from runner.toolchains.code import compute_tree_digest, hash_code

# Incremented when older entries must not be used.
_FORMAT = 1
# Of all entries together, by default; RUNNER_CACHE_BYTES sets another bound.
_MOST_BYTES = 8 << 30
_LOG = "log"
# An entry, or the draft of one.
_OWN = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\..*part", re.ASCII)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: Natural


class _Index(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Integer
    stage: str = Field(pattern="^[A-Za-z0-9_-]{1,100}$")
    made_by_run: str = Field(max_length=300)
    # Seconds since the epoch; later ones have no date on some platforms.
    created: float = Field(ge=0, lt=1 << 35)
    files: dict[str, _File]


@dataclass(frozen=True)
class Entry:
    """A finished stage; `files` are paths by their names in a run's volume, without the `log`."""

    key: str
    folder: Path
    stage: str
    made_by_run: str
    created: float
    bytes: int
    names: tuple[str, ...]

    @property
    def files(self) -> dict[str, Path]:
        return {name: self.folder / "files" / name for name in self.names if name != _LOG}

    @property
    def log(self) -> Path:
        return self.folder / "files" / _LOG

    def report(self) -> StageReport:
        return read_report((self.folder / "files" / f"reports/{self.stage}.json").read_bytes())


def compute_stage_key(
    before: str, environment: str, module: str, request: Mapping[str, Any]
) -> str:
    """Compute a stage's key from that of the stage before it, or of what the run starts from.

    `environment` names the engine and what it runs the stage in.
    """
    parts = {
        "format": _FORMAT,
        "before": before,
        "code": compute_tree_digest(hash_code([module])),
        "environment": environment,
        "module": module,
        "request": request,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class StageCache:
    """The finished stages that are stored on this machine."""

    def __init__(self, folder: Path | None = None, most_bytes: int | None = None) -> None:
        self.folder = folder or cache_folder() / "stages"
        self.most_bytes = most_bytes or _read_bound()

    def find(self, key: str) -> Entry | None:
        """Find the entry of a key, with every file verified; a damaged entry is removed."""
        folder = self.folder / key
        if not folder.is_dir():
            return None
        entry = _read_entry(folder)
        if entry is None or not _is_whole(folder):
            with suppress(OSError), self._hold_lock():
                shutil.rmtree(folder, ignore_errors=True)
            return None
        with suppress(OSError):
            os.utime(folder)  # marks it as recently used
        return entry

    def store(self, key: str, stage: str, run: str, files: Mapping[str, Path]) -> None:
        """Store a finished stage: its files by their names in the volume, and its `log`.

        A cache that cannot be written (a full disk, a read-only folder) is no reason for a run to
        fail: it is left as it was.
        """
        draft = self.folder / f".{key}.{get_process_id()}.part"
        try:
            for name, source in files.items():
                target = draft / "files" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            index = _Index(
                format=_FORMAT,
                stage=stage,
                made_by_run=run,
                created=time.time(),
                files={
                    name: _File(sha256=hash_file(path), bytes=path.stat().st_size)
                    for name, path in ((name, draft / "files" / name) for name in files)
                },
            )
            write_text(draft / "index.json", index.model_dump_json(indent=1) + "\n")
            with self._hold_lock():
                # Keep another run's valid entry: it says the same, and a third may be using it.
                if not (self.folder / key).is_dir() or not _is_whole(self.folder / key):
                    shutil.rmtree(self.folder / key, ignore_errors=True)
                    draft.rename(self.folder / key)
                self._make_room()
        except OSError:
            pass
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def list_entries(self) -> list[Entry]:
        """List all entries, the most recently used first, without those that cannot be read."""
        folders = [path for path in self.folder.glob("[0-9a-f]*") if path.is_dir()]
        found = [
            (_get_mtime(path), entry)
            for path in folders
            if (entry := _read_entry(path)) is not None
        ]
        return [entry for _, entry in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def clear(self) -> int:
        """Remove every entry, and what broken runs left; return how many bytes that freed."""
        if not self.folder.exists():
            return 0
        with self._hold_lock():
            # Nothing else: the user may keep other things in this folder.
            paths = [path for path in self.folder.iterdir() if _OWN.fullmatch(path.name)]
            freed = sum(_measure_size(path) for path in paths)
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)
        return freed

    def remove_drafts(self) -> None:
        """Remove the drafts of runs that were killed while they stored a stage."""
        for draft in self.folder.glob(".*.part"):
            process = draft.name.split(".")[-2]
            if is_process_id(process) and not is_running(process):
                shutil.rmtree(draft, ignore_errors=True)

    def _make_room(self) -> None:
        total = 0
        for entry in self.list_entries():
            total += entry.bytes
            if total > self.most_bytes:
                shutil.rmtree(entry.folder, ignore_errors=True)

    @contextmanager
    def _hold_lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with make_lock(self.folder / "lock", timeout=60):
            yield


def _read_bound() -> int:
    """Return the bound on the cache in bytes. Raises `BadInput`."""
    asked = os.environ.get("RUNNER_CACHE_BYTES", "")
    number = parse_number(asked) if asked else _MOST_BYTES
    if number is None:
        raise BadInput(f"RUNNER_CACHE_BYTES={asked} is no number of bytes.", "Such as 8g.")
    return number


def _read_index(folder: Path) -> _Index | None:
    try:
        index = _Index.model_validate_json((folder / "index.json").read_text())
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    if index.format != _FORMAT or any(_escapes_folder(name) for name in index.files):
        return None
    if _LOG not in index.files or f"reports/{index.stage}.json" not in index.files:
        return None
    return index


def _read_entry(folder: Path) -> Entry | None:
    index = _read_index(folder)
    if index is None:
        return None
    size = sum(file.bytes for file in index.files.values())
    names = tuple(index.files)
    return Entry(folder.name, folder, index.stage, index.made_by_run, index.created, size, names)


def _escapes_folder(name: str) -> bool:
    return name.startswith("/") or ".." in Path(name).parts


def _is_whole(folder: Path) -> bool:
    index = _read_index(folder)
    if index is None:
        return False
    try:
        for name, file in index.files.items():
            path = folder / "files" / name
            if path.is_symlink() or path.stat().st_size != file.bytes:
                return False
            if hash_file(path) != file.sha256:
                return False
        read_report((folder / "files" / f"reports/{index.stage}.json").read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _measure_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _get_mtime(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
