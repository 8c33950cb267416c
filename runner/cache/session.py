"""A run's use of the cache: the finished stages that it takes from there, and those it stores.

A cached stage costs one copy of its artifact. The files that it would have left in the volume are
put there only when a later stage has to run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from runner.cache.store import Entry, StageCache, compute_stage_key
from runner.engines.base import Volume
from runner.errors import EnvironmentUnavailable, RunnerError
from runner.host.files import atomic_write, hash_file
from runner.schemas.base import Natural
from runner.schemas.report import StageRecord
from runner.toolchains.model import Stage

# A run with a larger set of reference outputs is not cached at all.
_MOST_SAMPLES_BYTES = 1 << 30
_INDEX = "samples/samples.json"


class CachedRun:
    """One run's use of the cache; with None for a cache, it finds nothing and stores nothing."""

    def __init__(
        self,
        cache: StageCache | None,
        run: str,
        folder: Path,
        files: Mapping[str, Path],
        known: Mapping[Path, str],
        late: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        """Start from the run's initial `files`, by name; `known` has the hashes of some.

        `late` are files that follow from these, and are needed only once a stage runs.
        """
        self._cache = cache
        self._run = run
        self._folder = folder
        self._key = _hash_files(files, known) if cache is not None else ""
        self._pending: list[dict[str, Path]] = [dict(late)] if late else []
        self._names: tempfile.TemporaryDirectory[str] | None = None
        self._first = True

    def load_stage(
        self, stage: Stage, engine: str, request: Mapping[str, Any], record: StageRecord
    ) -> bool:
        """Complete a stage's record, artifact and log from the cache; tell whether it was there."""
        if self._cache is None:
            return False
        assert record.environment is not None
        environment = f"{engine} {record.environment.identity}"
        self._key = compute_stage_key(self._key, environment, stage.module, request)
        entry = self._cache.find(self._key)
        if entry is None:
            return False
        report = entry.report()
        source = entry.files.get(stage.produces)
        if source is None or report.artifact is None or report.status != "ok":
            return False
        held = self._hold_files(entry)
        try:
            for origin, target in ((source, stage.produces), (entry.log, f"logs/{stage.name}.log")):
                with atomic_write(self._folder / target) as temporary:
                    shutil.copyfile(origin, temporary)
        except FileNotFoundError:  # another process has emptied the cache
            return False
        record.report, record.status, record.exit_status = report, "ok", 0
        record.cached = entry.made_by_run
        self._pending.append(held)
        self._first = False
        return True

    def _hold_files(self, entry: Entry) -> dict[str, Path]:
        """Link the entry's files under names of this run's own: another process may remove it.

        If the cache is on another disk, return their own paths; `populate_volume` then reports a
        removal.
        """
        try:
            if self._names is None:
                self._names = tempfile.TemporaryDirectory(prefix=".keep-", dir=self._folder)
            held: dict[str, Path] = {}
            for name, path in entry.files.items():
                held[name] = Path(self._names.name, f"{len(self._pending)}-{len(held)}")
                os.link(path, held[name])
            return held
        except OSError:
            return dict(entry.files)

    def close(self) -> None:
        """Release the files that were held."""
        if self._names is not None:
            self._names.cleanup()

    def populate_volume(self, volume: Volume) -> None:
        """Put the files into the volume that the cached stages would have left there."""
        try:
            for files in self._pending:
                volume.put(files)
        except FileNotFoundError:
            raise EnvironmentUnavailable(
                "The cache of stages was emptied while this run used it.", "Run the command again."
            ) from None
        self._pending.clear()

    def store_stage(self, stage: Stage, volume: Volume, record: StageRecord) -> None:
        """Store a stage that has just run, and with the first one its reference outputs."""
        if self._cache is None or record.status != "ok":
            return
        try:
            self._keep(stage, volume)
        except (RunnerError, OSError):
            self._cache = None  # a run must not fail for want of a cache

    def _keep(self, stage: Stage, volume: Volume) -> None:
        assert self._cache is not None
        with tempfile.TemporaryDirectory(prefix=".keep-", dir=self._folder) as name:
            scratch = Path(name)
            report = volume.read(f"reports/{stage.name}.json")
            samples = _copy_samples(volume, scratch) if self._first else {}
            if report is None or samples is None:
                self._cache = None  # without these, no later stage could run after a cached one
                return
            self._first = False
            written = scratch / "report.json"
            written.write_bytes(report)
            files = {
                stage.produces: self._folder / stage.produces,
                f"reports/{stage.name}.json": written,
                "log": self._folder / f"logs/{stage.name}.log",
                **samples,
            }
            self._cache.store(self._key, stage.name, self._run, files)


_ITEM_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "float16": 2,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class _Output(BaseModel):
    shape: list[Natural] = Field(max_length=32)
    # The dtypes that a check compares; the size of any other cannot be relied on.
    dtype: Literal[
        "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"
    ]


class _SizeIndex(BaseModel):
    size: Natural
    count: Natural
    outputs: list[_Output] = Field(max_length=1000)


class SampleIndex(BaseModel):
    """`samples/samples.json`, as a stage wrote it: how many samples, and the outputs of each."""

    count: Natural
    outputs: list[_Output] = Field(max_length=1000)
    # The same at other batch sizes, where the batch is open.
    sizes: list[_SizeIndex] = Field([], max_length=100)

    @property
    def bytes(self) -> int:
        parts = [(self.count, self.outputs), *((size.count, size.outputs) for size in self.sizes)]
        return sum(
            count * math.prod(output.shape) * _ITEM_BYTES[output.dtype]
            for count, outputs in parts
            for output in outputs
        )

    def list_outputs(self) -> list[str]:
        """List the files of the reference outputs, by their names in the volume."""
        names = [f"samples/output-{i}.npy" for i in range(len(self.outputs))]
        for at in self.sizes:
            names += [f"samples/at-{at.size}/output-{i}.npy" for i in range(len(at.outputs))]
        return names


def parse_sample_index(text: bytes) -> SampleIndex | None:
    """Parse a sample index; None if it is invalid, or its outputs are too large to keep."""
    try:
        index = SampleIndex.model_validate_json(text)
    except ValidationError:
        return None
    return index if index.bytes <= _MOST_SAMPLES_BYTES else None


def _copy_samples(volume: Volume, scratch: Path) -> dict[str, Path] | None:
    """Copy the reference outputs to `scratch`; None if they are too large to keep."""
    text = volume.read(_INDEX)
    if text is None:
        return {}
    index = parse_sample_index(text)
    if index is None:
        return None
    files = {_INDEX: scratch / "samples.json"}
    files[_INDEX].write_bytes(text)
    for number, name in enumerate(index.list_outputs()):
        files[name] = scratch / f"output-{number}.npy"
        volume.get(name, files[name])
    return files


def _hash_files(files: Mapping[str, Path], known: Mapping[Path, str]) -> str:
    """Compute the key of what a run starts from: the model and every other file of the user's."""
    hashes = {name: known.get(path) or hash_file(path) for name, path in files.items()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
