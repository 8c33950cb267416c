"""A few samples of a run, and the reference outputs for them: files of the volume's `few/`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from stages.kit.contract import Tensor


@dataclass(frozen=True)
class FewSamples:
    """Arrays of shape (samples, *shape), one for each input and each output."""

    inputs: Tuple[Tensor, ...]
    outputs: Tuple[Tensor, ...]
    input_arrays: List[np.ndarray]
    output_arrays: List[np.ndarray]


def open_few(volume: Path) -> Optional[FewSamples]:
    """Open the few samples of the volume; None if it holds none."""
    folder = volume / "few"
    if not (folder / "samples.json").exists():
        return None
    data = json.loads((folder / "samples.json").read_text())
    inputs, outputs = (tuple(map(Tensor.from_dict, data[side])) for side in ("inputs", "outputs"))
    return FewSamples(
        inputs,
        outputs,
        [np.load(folder / f"input-{i}.npy", allow_pickle=False) for i in range(len(inputs))],
        [np.load(folder / f"output-{i}.npy", allow_pickle=False) for i in range(len(outputs))],
    )
