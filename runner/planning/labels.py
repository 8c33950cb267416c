"""The true classes of the check's samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import BadInput
from runner.formats.numpy import read_headers

if TYPE_CHECKING:
    import numpy as np

_MOST_BYTES = 1 << 28
_FORM = "It is a .npy of integers, or a text file with a number on each line, from 0."


def read_labels(path: Path, samples: Path | None) -> str:
    """Check a file of class numbers against the samples that they belong to.

    Return its name in the volume. Raises `BadInput` if it is no such file, or of another length.
    """
    if samples is None:
        raise BadInput(
            "--labels says what the samples of the check are, and the check draws noise.",
            "Give the samples too: --inputs FILE.",
        )
    if not path.is_file():
        raise BadInput(f"There is no file {path}.")
    if path.stat().st_size > _MOST_BYTES:
        raise BadInput(f"{path} is too large to be a list of class numbers.")
    labels = _read_npy(path) if path.suffix in (".npy", ".npz") else _read_text(path)
    counts = {header.shape[0] for header in read_headers(samples).values() if header.shape}
    if counts != {len(labels)}:
        raise BadInput(
            f"{path} has {len(labels)} labels, and the check {', '.join(map(str, counts))} "
            "samples.",
            "Give one label for each sample, in the same order.",
        )
    if (labels < 0).any():
        raise BadInput(f"{path}: {labels.min()} is no number of a class.", _FORM)
    return "user/labels.npy" if path.suffix == ".npy" else "user/labels.txt"


def _read_npy(path: Path) -> np.ndarray:
    import numpy as np  # late: most runs are given none

    header = read_headers(path).get(None)
    if header is None or not header.dtype.startswith(("int", "uint")):
        raise BadInput(f"{path} holds no class numbers.", _FORM)
    labels: np.ndarray = np.load(path, allow_pickle=False)
    if labels.size != len(labels):
        raise BadInput(f"{path} has the shape {labels.shape}; one number a sample is needed.")
    return labels.reshape(-1)


def _read_text(path: Path) -> np.ndarray:
    import numpy as np

    try:
        return np.array([int(word) for word in path.read_text(encoding="utf-8").split()], np.int64)
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{path} is no list of class numbers: {str(error)[:100]}", _FORM) from None
