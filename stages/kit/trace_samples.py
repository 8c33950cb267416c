"""The samples of a trace: a few of the check's own, byte for byte the same in every stage.

They are files input-I.npy of shape (samples, *shape) in the volume's `traces/`. The first program
of a trace writes them, from the volume's samples if it still has any, else by drawing them again.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import List, Sequence

import numpy as np

from stages.kit import samples
from stages.kit.contract import InputError, Job, Tensor, publish, write_json


def open_trace_inputs(job: Job, inputs: Sequence[Tensor]) -> List[np.ndarray]:
    """Return memory maps of shape (samples, *shape), one per input, of the requested samples.

    The request's `trace.samples` has their numbers in the check; by default the first eight.
    """
    folder = job.volume / "traces"
    paths = [folder / f"input-{index}.npy" for index in range(len(inputs))]
    wanted = job.request.get("trace", {}).get("samples") or list(range(8))
    numbers = folder / "samples.json"
    if not numbers.exists() or json.loads(numbers.read_text()) != wanted:
        for path, array in zip(paths, _take_samples(job, inputs, wanted)):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.part")
            with open(draft, "wb") as file:
                np.save(file, array)
            publish(draft, path)
        write_json(numbers, wanted)
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    # Transpose them to the order of axes of the artifact that they are fed to.
    return [
        array.transpose([0, *(axis + 1 for axis in tensor.axes)]) if tensor.axes else array
        for array, tensor in zip(arrays, inputs)
    ]


def _take_samples(job: Job, inputs: Sequence[Tensor], wanted: Sequence[int]) -> List[np.ndarray]:
    """Take the samples of these numbers. Raises `InputError` if there are none of them."""
    known = samples.open_samples(job.volume)
    if known is not None:
        numbers = _select_numbers(wanted, known.count)
        return [np.stack([array[n] for n in numbers]) for array in known.input_arrays]
    settings = job.request.get("check", {})
    if settings.get("inputs"):
        with tempfile.TemporaryDirectory(dir=str(job.volume)) as folder:
            count = samples.import_inputs(Path(folder), job.volume / settings["inputs"], inputs)
            numbers = _select_numbers(wanted, count)
            drawn = samples.Samples(Path(folder), count, tuple(inputs), ())
            return [np.stack([array[n] for n in numbers]) for array in drawn.input_arrays]
    seed = settings.get("seed", 0)
    numbers = _select_numbers(wanted, settings.get("samples", 1000))
    return [samples.draw(tensor, seed, index, numbers) for index, tensor in enumerate(inputs)]


def _select_numbers(wanted: Sequence[int], count: int) -> List[int]:
    found = [number for number in wanted if number < count]
    if not found:
        raise InputError(f"There are {count} samples, and none of the numbers {list(wanted)}.")
    return found
