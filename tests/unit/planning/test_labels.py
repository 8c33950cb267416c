"""`--labels`: what is a list of class numbers, and whether it fits the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runner.errors import BadInput
from runner.planning.labels import read_labels


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    np.save(tmp_path / "samples.npy", np.zeros((3, 4), np.float32))
    return tmp_path / "samples.npy"


def test_both_forms(tmp_path: Path, samples: Path) -> None:
    text, array = tmp_path / "labels.txt", tmp_path / "labels.npy"
    text.write_text("7\n0\n2\n")
    np.save(array, np.array([[7], [0], [2]], np.uint8))
    assert read_labels(text, samples) == "user/labels.txt"
    assert read_labels(array, samples) == "user/labels.npy"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("1 2", "2 labels, and the check 3 samples"),
        ("1 2 -1", "-1 is no number"),
        ("1 2 cat", "no list of class numbers"),
        ("1 2 99999999999999999999", "no list of class numbers"),
        (np.array([1.0, 2.0, 3.0]), "no class numbers"),
        (np.zeros((3, 10), np.int64), "one number a sample"),
        (None, "There is no file"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, samples: Path, content: str | np.ndarray | None, said: str
) -> None:
    path = tmp_path / ("labels.npy" if isinstance(content, np.ndarray) else "labels.txt")
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=said):
        read_labels(path, samples)
    with pytest.raises(BadInput, match="draws noise"):
        read_labels(path, None)
