"""Values of one artifact's tensors on their way to the trace of the next stage.

They lie in a folder of the volume, a file a tensor of shape (samples, *shape); the index beside it
says which tensor is where. Memory stays that of one sample; the disk's share is bounded.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

# The values of all samples may take this much, and no more than this share of what is free.
_MOST_BYTES = 1 << 30
_SHARE = 0.5


def kept_bytes(arrays: Sequence[Any]) -> int:
    return sum(np.asarray(array).nbytes for array in arrays)


class Kept:
    """Files of the values of `names`, written sample by sample."""

    def __init__(self, folder: Path, names: Sequence[str], count: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.names = list(names)
        self.count = count
        self.maps: Dict[str, np.ndarray] = {}

    @staticmethod
    def affordable(
        volume: Path, samples: Sequence[np.ndarray], size: int
    ) -> Tuple[List[np.ndarray], List[str]]:
        """As many of the samples as fit on the disk, and what to say if these are not all."""
        most = min(_MOST_BYTES, int(shutil.disk_usage(str(volume)).free * _SHARE))
        count = max(1, min(len(samples[0]), most // max(1, size)))
        if count == len(samples[0]):
            return list(samples), []
        return [array[:count] for array in samples], [
            f"{count} samples were traced: the values inside the model take {size:,} bytes each."
        ]

    def add(self, sample: int, arrays: Sequence[Any]) -> None:
        for index, (name, value) in enumerate(zip(self.names, arrays)):
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
    """Memory maps of the values of an index, by tensor."""
    return {
        name: np.load(volume / file, mmap_mode="r", allow_pickle=False)
        for name, file in index["tensors"].items()
    }
