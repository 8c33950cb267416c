"""How .tflite files are measured: turns, threads, and the samples for their errors."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runner.errors import BadInput
from runner.host.machine import count_cores

_MOST_THREADS = 256


@dataclass(frozen=True)
class Measurement:
    """How to measure: in rounds, in each of which every file has a turn of `seconds`.

    Errors are computed on the first `samples` of the folder `reference`, with samples.json and the
    arrays that it lists; none without.
    """

    threads: Sequence[int] = ()
    rounds: int = 15
    seconds: float = 0.1
    samples: int = 8
    reference: Path | None = None

    def list_threads(self) -> list[int]:
        """Return the numbers of threads: by default one, and as many as there are cores, up to 4.

        Raises `BadInput`.
        """
        threads = list(dict.fromkeys(self.threads or (1, min(4, count_cores()))))
        if not all(1 <= count <= _MOST_THREADS for count in threads):
            raise BadInput(f"--threads are numbers from 1 to {_MOST_THREADS}.")
        if not (1 <= self.rounds <= 10_000 and 0 < self.seconds <= 600 and self.samples >= 1):
            raise BadInput("--rounds and --samples are at least 1.")
        return threads


def cut_reference(measurement: Measurement) -> dict[str, bytes]:
    """Return the first samples of the reference, by their names in a volume; none without one.

    Raises `BadInput` for a folder that holds none.
    """
    folder = measurement.reference
    if folder is None:
        return {}
    try:
        index = json.loads((folder / "samples.json").read_bytes())
        names = [
            f"{side}-{i}.npy" for side in ("input", "output") for i in range(len(index[f"{side}s"]))
        ]
        files = {"few/samples.json": json.dumps(index).encode()}
        for name in names:
            array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
            written = io.BytesIO()
            np.save(written, array[: measurement.samples])
            files[f"few/{name}"] = written.getvalue()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(
            f"{folder} holds no reference: samples.json, input-*.npy and output-*.npy ({error}).",
            "Name the folder `reference` of a side-by-side conversion.",
        ) from None
    return files
