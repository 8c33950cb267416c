"""Whether the numbers of a NumPy file are finite, for every kind of number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.formats.numpy import ArrayHeader, read_headers

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("dtype", "last", "finite"),
    [
        ("complex64", complex(1, 2), True),
        ("complex64", complex(NAN, 0), False),
        ("complex64", complex(0, INFINITY), False),
        ("complex128", complex(0, NAN), False),
        ("float16", 1.0, True),
        ("float16", INFINITY, False),
        ("float32", -INFINITY, False),
        (">f8", NAN, False),
        ("int64", -1, True),
        ("bool", True, True),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_one_number_decides(
    tmp_path: Path, suffix: str, dtype: str, last: Any, finite: bool
) -> None:
    array = np.zeros((2, 3), dtype)
    array[-1, -1] = last
    path, name = tmp_path / f"x{suffix}", None if suffix == ".npy" else "x"
    np.save(path, array) if name is None else np.savez(path, x=array)
    assert read_headers(path) == {name: ArrayHeader((2, 3), array.dtype.name, finite)}


@pytest.mark.parametrize("at", [0, (1 << 20) - 1, (1 << 20) + 1, -1])
def test_every_block_is_looked_at(tmp_path: Path, at: int) -> None:
    array = np.zeros((3 << 20,), "complex64")
    array[at] = NAN
    np.save(tmp_path / "x.npy", array)
    assert not read_headers(tmp_path / "x.npy")[None].finite
