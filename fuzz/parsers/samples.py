"""What a user feeds to the model: `--input`, the .toml beside it, .npy and .npz files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fuzz.harness import Harness
from runner.errors import RunnerError
from runner.planning.inputs import InputSpec, parse_input, read_arrays, read_toml

_TOML = b"""
[[input]]
name = "image"
shape = [1, 3, 8, 8]
dtype = "float32"
range = [0.0, 1.0]
[[input]]
name = "ids"
shape = [1, 4]
dtype = "int64"
"""


def _text(data: bytes, folder: Path) -> bool:
    try:
        str(parse_input(data.decode(errors="surrogateescape")))
    except RunnerError as error:
        str(error)
        return False
    return True


def _toml(data: bytes, folder: Path) -> bool:
    (folder / "model.toml").write_bytes(data)
    try:
        return bool([spec.as_request() for spec in read_toml(folder / "model.toml")])
    except RunnerError:
        return False


def _arrays(data: bytes, folder: Path) -> bool:
    path = folder / "samples.npz"
    path.write_bytes(data)
    taken = False
    for specs in ([], [InputSpec("x", (1, 3))], [InputSpec("x", (1, 3)), InputSpec("y", (4,))]):
        try:
            read_arrays(path, specs)
            taken = True
        except RunnerError:
            pass
    return taken


def _array_files() -> Sequence[bytes]:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    files = []
    for save in (
        lambda file: np.save(file, x),
        lambda file: np.savez(file, x=x, y=np.ones((2, 4), np.float32)),
        lambda file: np.savez_compressed(file, x=x, y=np.ones((2, 4), np.float32)),
    ):
        with io.BytesIO() as file:
            save(file)
            files.append(file.getvalue())
    return files


HARNESSES = [
    Harness(
        "input-option",
        lambda: [b"1x3x224x224", b"ids=1x16:int64", "1×3×8×8:float".encode()],
        _text,
        (b"x", b"=", b":", b",", b"int64", "٣".encode(), "²".encode(), b"_", b"+", b" "),
    ),
    Harness(
        "toml",
        lambda: [_TOML, b"input = [{shape = [1]}]\n"],
        _toml,
        (b"[", b"]", b"{", b"inf", b"nan", b"1e400", b"9" * 400, b"a.", b"[[input]]", b'"""', b"'"),
    ),
    Harness(
        "arrays",
        _array_files,
        _arrays,
        (b"(", b")", b"'|O'", b"'<f4'", b"'shape': (", b"999999999999", b"True", b"\x93NUMPY"),
    ),
]
