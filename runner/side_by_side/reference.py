"""The one reference of all runs: taken out of the volume of the first run that made one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runner.cache.session import parse_sample_index
from runner.engines.base import Volume
from runner.errors import RunnerError
from runner.host.files import hash_file, remove_tree
from runner.planning.plan import GivenReference
from runner.schemas.report import StageRecord
from runner.toolchains.code import compute_tree_digest

_INDEX = "samples/samples.json"


class ReferenceKeeper:
    """Keeps a run's reference in a folder; a hook that runs after the stages of a run.

    `kept` is None if the run made no reference, or one that is too large to hand on.
    """

    def __init__(self, folder: Path, toolchain: str, run: str) -> None:
        self._folder, self._toolchain, self._run = folder, toolchain, run
        self.kept: GivenReference | None = None

    def __call__(self, volume: Volume, records: Sequence[StageRecord]) -> None:
        try:
            self.kept = self._keep(volume)
        except (RunnerError, OSError):  # the run itself is whole
            with suppress(OSError):
                remove_tree(self._folder)

    def _keep(self, volume: Volume) -> GivenReference | None:
        text = volume.read(_INDEX)
        index = parse_sample_index(text) if text else None
        if text is None or index is None or not index.outputs:
            return None
        self._folder.mkdir(exist_ok=True)
        names = [_INDEX, *(f"samples/output-{i}.npy" for i in range(len(index.outputs)))]
        files = {name: self._folder / Path(name).name for name in names}
        for name, path in files.items():
            volume.get(name, path)
        hashes = {path.name: hash_file(path) for path in files.values()}
        return GivenReference(self._toolchain, self._run, files, compute_tree_digest(hashes))
