"""The samples of a trace: a few of the check's own, the same bytes for every stage.

They lie in the volume's `traces/` as input-I.npy of shape (samples, *shape). The first program of a
trace puts them there: from the volume's samples where the run is still open, else drawn again.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import List, Sequence

import numpy as np

from stages.kit import samples
from stages.kit.contract import Job, Tensor, publish, write_json


def trace_inputs(job: Job, inputs: Sequence[Tensor]) -> List[np.ndarray]:
    """Memory maps of shape (samples, *shape), one an input, of the samples that are asked for.

    The request's `trace.samples` has their numbers in the check, the first ones by default.
    """
    folder = job.volume / "traces"
    paths = [folder / f"input-{index}.npy" for index in range(len(inputs))]
    wanted = job.request.get("trace", {}).get("samples") or list(range(8))
    numbers = folder / "samples.json"
    if not numbers.exists() or json.loads(numbers.read_text()) != wanted:
        for path, array in zip(paths, _chosen(job, inputs, wanted)):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.part")
            with open(draft, "wb") as file:
                np.save(file, array)
            publish(draft, path)
        write_json(numbers, wanted)
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    # In the order of axes of the artifact that they are fed to.
    return [
        array.transpose([0, *(axis + 1 for axis in tensor.axes)]) if tensor.axes else array
        for array, tensor in zip(arrays, inputs)
    ]


def _chosen(job: Job, inputs: Sequence[Tensor], wanted: Sequence[int]) -> List[np.ndarray]:
    known = samples.open_samples(job.volume)
    if known is not None:
        numbers = [number for number in wanted if number < known.count]
        return [np.stack([array[n] for n in numbers]) for array in known.input_arrays]
    settings = job.request.get("check", {})
    if settings.get("inputs"):
        with tempfile.TemporaryDirectory(dir=str(job.volume)) as folder:
            count = samples.import_inputs(Path(folder), job.volume / settings["inputs"], inputs)
            numbers = [number for number in wanted if number < count]
            drawn = samples.Samples(Path(folder), count, tuple(inputs), ())
            return [np.stack([array[n] for n in numbers]) for array in drawn.input_arrays]
    seed = settings.get("seed", 0)
    numbers = [number for number in wanted if number < settings.get("samples", 1000)]
    return [samples.draw(tensor, seed, index, numbers) for index, tensor in enumerate(inputs)]
