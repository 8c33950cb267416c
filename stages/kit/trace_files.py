"""Files that carry the values of one artifact's tensors to the trace of the next stage.

A folder of the volume holds one file per tensor, of shape (samples, *shape), and an index beside it
tells which file is which tensor's. Only one sample is in memory at a time; disk usage is bounded.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np

from stages.kit.tracing import Artifact

# The most that the values of all samples may take, in bytes and as a share of the free space.
_MOST_BYTES = 1 << 30
_SHARE = 0.5


class Kept:
    """Files with the values of an artifact's tensors, written sample by sample."""

    def __init__(self, folder: Path, names: Sequence[str], count: int, run: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.names = list(names)
        self.count = count
        self.notes: List[str] = []
        self.maps: Dict[str, np.ndarray] = {}
        self._run = run

    @staticmethod
    def of(volume: Path, artifact: Artifact, samples: Sequence[np.ndarray]) -> Kept:
        """Prepare to keep all tensors of an artifact for as many samples as fit on the disk.

        Nothing is kept if the model as a whole does not run.
        """
        count, names = len(samples[0]), artifact.order()
        folder = volume / "traces" / "onnx"
        try:
            run = artifact.plain(names)
            first = run([np.array(array[0]) for array in samples])
        except Exception:  # the comparison reports it in the framework's own words
            return Kept(folder, [], count, lambda values: [])
        size = sum(np.asarray(array).nbytes for array in first)
        most = min(_MOST_BYTES, int(shutil.disk_usage(str(volume)).free * _SHARE))
        fits = max(1, min(count, most // max(1, size)))
        kept = Kept(folder, names, fits, run)
        if fits < count:
            kept.notes.append(
                f"{fits} samples were traced: the values inside the model take {size:,} bytes each."
            )
        return kept

    def add(self, sample: int, values: Sequence[np.ndarray]) -> None:
        """Run the artifact on a sample's inputs and keep the values of its tensors."""
        for index, (name, value) in enumerate(zip(self.names, self._run(values))):
            array = np.asarray(value)
            if array.dtype.kind not in "fiub":
                continue
            if name not in self.maps:
                path = self.folder / f"{index}.npy"
                self.maps[name] = np.lib.format.open_memmap(
                    path, mode="w+", dtype=array.dtype, shape=(self.count, *array.shape)
                )
            if self.maps[name].shape[1:] == array.shape:
                self.maps[name][sample] = array

    def index(self) -> Dict[str, Any]:
        for array in self.maps.values():
            array.flush()
        files = {
            name: f"{self.folder.parent.name}/{self.folder.name}/{index}.npy"
            for index, name in enumerate(self.names)
            if name in self.maps
        }
        return {"samples": self.count, "tensors": files}


def open_kept(volume: Path, index: Dict[str, Any]) -> Dict[str, np.ndarray]:
    """Open the values that an index lists, as memory maps by tensor."""
    return {
        name: np.load(volume / file, mmap_mode="r", allow_pickle=False)
        for name, file in index["tensors"].items()
    }
