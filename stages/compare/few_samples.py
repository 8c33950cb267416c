"""The first samples of a run and the reference outputs for them, without making all the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from stages.kit import samples
from stages.kit.contract import StageError, Tensor


@dataclass(frozen=True)
class FewSamples:
    """Arrays of shape (samples, *shape), one for each input and each output."""

    inputs: Tuple[Tensor, ...]
    outputs: Tuple[Tensor, ...]
    input_arrays: List[np.ndarray]
    output_arrays: List[np.ndarray]


def open_few(volume: Path, most: int) -> Optional[FewSamples]:
    """Open the first `most` samples of the volume; None if it holds none.

    Raises `StageError` if the inputs, made again, are not those of the run.
    """
    index = volume / "samples" / "samples.json"
    if not index.exists():
        return None
    data = json.loads(index.read_text())
    inputs, outputs = (tuple(map(Tensor.from_dict, data[side])) for side in ("inputs", "outputs"))
    count = min(most, data["count"])
    paths = [volume / "samples" / f"output-{i}.npy" for i in range(len(outputs))]
    known = [np.load(path, mmap_mode="r", allow_pickle=False)[:count] for path in paths]
    return FewSamples(inputs, outputs, _take_inputs(volume, data, inputs, count), known)


def _take_inputs(
    volume: Path, data: Dict[str, Any], inputs: Tuple[Tensor, ...], count: int
) -> List[np.ndarray]:
    if data["file"]:
        known = samples.open_samples(volume)
        assert known is not None
        return [array[:count] for array in known.input_arrays]
    last = data["count"] - 1
    numbers = [*range(count), *([last] if last >= count else [])]
    arrays = [samples.draw(tensor, data["seed"], i, numbers) for i, tensor in enumerate(inputs)]
    if [samples.fingerprint(array) for array in arrays] != data["fingerprints"]:
        raise StageError(
            "The samples, made again, are not those of the run.",
            "This environment's numpy draws other numbers: leave it out.",
        )
    return [array[:count] for array in arrays]
