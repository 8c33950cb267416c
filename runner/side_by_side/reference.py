"""The one reference of all runs: taken out of the volume of the first run that made one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from runner.cache.session import parse_sample_index
from runner.engines.base import Volume
from runner.errors import RunnerError
from runner.host.files import atomic_write, hash_file, remove_tree
from runner.planning.plan import GivenReference
from runner.schemas.report import StageRecord
from runner.toolchains.code import compute_tree_digest
from runner.toolchains.model import Stage
from runner.toolchains.tools import make_samples_stage

_INDEX = "samples/samples.json"
# How many inputs are kept in the end; the others can be made again.
_KEPT_INPUTS = 64


class ReferenceKeeper:
    """Keeps a run's reference in a folder; a hook that runs after the stages of a run.

    `image` is the one of the run's first stage. `kept` is None if the run made no reference, or one
    that is too large to hand on.
    """

    def __init__(self, folder: Path, toolchain: str, run: str, image: str) -> None:
        self._folder, self._toolchain, self._run, self._image = folder, toolchain, run, image
        self.kept: GivenReference | None = None

    def __call__(self, volume: Volume, records: Sequence[StageRecord]) -> None:
        try:
            self.kept = self._keep(volume)
        except (RunnerError, OSError, ValueError):  # the run itself is whole
            with suppress(OSError):
                remove_tree(self._folder)

    def _keep(self, volume: Volume) -> GivenReference | None:
        text = volume.read(_INDEX)
        index = parse_sample_index(text) if text else None
        if text is None or index is None or not index.outputs:
            return None
        self._folder.mkdir(exist_ok=True)
        outputs = index.list_outputs()
        inputs = [f"samples/input-{i}.npy" for i in range(len(json.loads(text)["inputs"]))]
        files, arrays = (
            {name: self._folder / name.partition("/")[2].replace("/", "-") for name in names}
            for names in ((_INDEX, *outputs), inputs)
        )
        for name, path in files.items():
            volume.get(name, path)
        try:
            self._get(volume, arrays)
        except FileNotFoundError:  # the stage that made them was taken from the cache
            self._make_inputs_again(volume)
            self._get(volume, arrays)
        hashes = {path.name: hash_file(path) for path in files.values()}
        digest = compute_tree_digest(hashes)
        return GivenReference(self._toolchain, self._run, files, arrays, digest)

    def _get(self, volume: Volume, files: dict[str, Path]) -> None:
        for name, path in files.items():
            volume.get(name, path)

    def _make_inputs_again(self, volume: Volume) -> None:
        stage: Stage = make_samples_stage(self._image)
        request = {"input": {"path": stage.consumes}}
        volume.put({f"requests/{stage.name}.json": json.dumps(request).encode()})
        volume.run(stage, lambda line: None)


def shorten(reference: GivenReference) -> None:
    """Leave the first inputs alone of a reference that is handed on to no other run any more."""
    for path in reference.inputs.values():
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if len(array) > _KEPT_INPUTS:
            few = np.array(array[:_KEPT_INPUTS])
            with atomic_write(path) as temporary, open(temporary, "wb") as file:
                np.save(file, few)
