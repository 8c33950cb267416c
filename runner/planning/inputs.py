"""The model's inputs: from `--input`, a .toml beside the model, or the arrays of `--inputs`.

Shapes are the model's own, batch size first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.formats.numpy import can_cast, read_headers
from runner.host.compat import tomllib
from runner.planning.images import IMAGE_KEYS, Preparation, read_preparation

# The dtypes of a model's inputs. A model is converted in float32, whatever its weights are.
DTYPES = ("float32", "int64", "int32", "int16", "int8", "uint8", "bool")
# Further dtypes that the user's own samples may have: these are cast.
_CAST = ("float64", "float16")
_ALIASES = {"float": "float32", "int": "int32", "long": "int64"}
# Parsing a dotted key takes time quadratic in its length.
_MOST_TOML = 1 << 14
# The limits of a TensorFlow Lite tensor.
_LARGEST_SIZE = (1 << 31) - 1
_MOST_AXES = 32
_FORM = "the form is [NAME=]SHAPE[:DTYPE], such as 1x3x224x224 or ids=1x16:int64"


@dataclass(frozen=True)
class InputSpec:
    """One input. `low` and `high` bound the generated values; see docs/contract.md.

    `dims` names the open dimension of each axis that has one, '' for the others; none if every axis
    is fixed. An open axis has the size 1 in `shape`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None
    # How images become this input, where it takes some.
    image: Preparation | None = None
    dims: tuple[str, ...] = ()
    # What the converted model does to pixels itself, where `image` makes pixels alone.
    embedded: Preparation | None = None

    def __str__(self) -> str:
        dims = self.dims or ("",) * len(self.shape)
        shape = "x".join(name or str(size) for name, size in zip(dims, self.shape, strict=True))
        return f"{self.name + '=' if self.name else ''}{shape}:{self.dtype}"

    def as_request(self) -> dict[str, Any]:
        request = asdict(self)
        del request["image"], request["embedded"]  # no stage sees an image
        return request


def parse_input(text: str) -> InputSpec:
    """Parse one `--input`. Raises `BadInput` that says what is wrong with it."""
    name, _, rest = text.rpartition("=")
    shape_text, _, dtype = rest.partition(":")
    sizes = re.split(r"[x,×*]", shape_text.strip())
    try:
        shape, dims = _read_sizes(sizes)
    except ValueError:
        raise BadInput(f"--input {text}: '{shape_text}' is not a shape; {_FORM}.") from None
    return _check_spec(
        InputSpec(name.strip(), shape, dtype.strip() or "float32", dims=dims), f"--input {text}"
    )


def _read_sizes(sizes: Sequence[Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return a shape and the names of its open axes. Raises `ValueError` for what is no size."""
    dims = tuple(
        size if isinstance(size, str) and re.fullmatch("[A-Za-wyz][A-Za-wyz_]*", size) else ""
        for size in sizes
    )
    shape = tuple(1 if name else int(size) for name, size in zip(dims, sizes, strict=True))
    return shape, dims if any(dims) else ()


def read_toml(path: Path) -> list[InputSpec]:
    """Read the `[[input]]` tables of a model's .toml. Raises `BadInput`.

    A file that has only a table `[convert]`, which is for suites, names no inputs.
    """
    try:
        if path.stat().st_size > _MOST_TOML:
            raise BadInput(f"{path} is too large to be a list of inputs.")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, an endless number
        raise BadInput(f"{path} is not valid TOML: {str(error)[:200]}") from None
    known = {"name", "shape", "dtype", "range"} | IMAGE_KEYS
    tables = data.get("input")
    if tables is None and "convert" in data:
        return []
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise BadInput(
            f"{path} has no [[input]] table.", "Give each input a name, a shape and a dtype."
        )
    specs = []
    for number, table in enumerate(tables, 1):
        where = f"{path}, input {number}"
        if unknown := set(table) - known:
            raise BadInput(f"{where}: unknown key '{sorted(unknown)[0]}'; known: {sorted(known)}.")
        try:
            shape, dims = _read_sizes(table["shape"])
            low, high = map(float, table["range"]) if "range" in table else (None, None)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise BadInput(
                f"{where}: needs shape = [1, 3, 32, 32], and range as [low, high] if any."
            ) from None
        name, dtype = str(table.get("name", "")), str(table.get("dtype", "float32"))
        spec = _check_spec(InputSpec(name, shape, dtype, low, high, dims=dims), where)
        image = read_preparation(table, spec.shape, spec.dtype, where)
        specs.append(replace(spec, image=image))
    _check_names(specs)
    return specs


def read_arrays(path: Path, specs: Sequence[InputSpec]) -> list[InputSpec]:
    """Check the user's own samples against the inputs, if there are any, and return these.

    The arrays have shape (samples, *shape), or (samples, *shape[1:]) where shape[0] is 1. Raises
    `BadInput`.
    """
    arrays = _read_headers(path)
    if not specs:
        return []  # the first stage asks the model whether the batch size is among the axes
    if len(arrays) == 1 and len(specs) == 1:
        pairs = [(specs[0], next(iter(arrays.values())))]
    else:
        if missing := [spec.name or "?" for spec in specs if spec.name not in arrays]:
            has = ", ".join(str(name) for name in arrays)
            raise BadInput(
                f"{path} has no array for {', '.join(missing)}; it has {has}.",
                "Save it with numpy.savez(FILE, NAME=array, ...) under the inputs' names.",
            )
        pairs = [(spec, arrays[spec.name]) for spec in specs]
    for spec, (shape, dtype) in pairs:
        if not can_cast(dtype, spec.dtype):
            raise BadInput(
                f"{path}: the array for '{spec.name or 'the input'}' holds {dtype}, "
                f"but the input is {spec.dtype}.",
                f"Save it with astype('{spec.dtype}').",
            )
        fits = shape[1:] == spec.shape or (spec.shape[:1] == (1,) and shape[1:] == spec.shape[1:])
        if not fits:
            raise BadInput(
                f"{path}: the array for '{spec.name or 'the input'}' has shape {shape}, "
                f"but the input's is {spec.shape}.",
                f"Its first axis counts samples: (samples, {', '.join(map(str, spec.shape))}).",
            )
    counts = {shape[0] for _, (shape, _) in pairs}
    if len(counts) > 1 or 0 in counts:
        raise BadInput(f"{path}: the arrays hold {sorted(counts)} samples; they must agree.")
    return list(specs)


def resolve_inputs(
    model: Path, given: Sequence[str], arrays: Path | None, embed: bool = False
) -> tuple[list[InputSpec], str]:
    """Return the inputs and where they come from; none if the first stage is to infer them.

    With `embed`, inputs of images take pixels. Raises `BadInput`, also if none is of images then.
    """
    toml = model.with_suffix(".toml")
    if given:
        specs, source = [parse_input(text) for text in given], "--input"
        _check_names(specs)
    elif toml.is_file():
        specs = read_toml(toml)
        source = toml.name if specs else ""
    else:
        specs, source = [], ""
    if embed:
        specs = _embed_preparations(specs, toml)
    if arrays is not None:
        source = source or arrays.name
        specs = read_arrays(arrays, specs)
    return specs, source


def _embed_preparations(specs: Sequence[InputSpec], toml: Path) -> list[InputSpec]:
    """Return the inputs of a model that prepares its pixels, 0 to 255, itself."""
    found = []
    for spec in specs:
        image = spec.image
        if image is None or spec.dtype == "uint8":
            found.append(spec)
            continue
        if not spec.name and len(specs) > 1:
            raise BadInput(f"{toml}: with --embed-preprocessing, each input has a name.")
        high = 256.0 if image.pixel_dtype == "uint8" else 255.0  # not reached by integers
        pixels = replace(spec, dtype=image.pixel_dtype, low=0.0, high=high)
        found.append(replace(pixels, image=image.take_pixels(), embedded=image))
    if not any(spec.embedded for spec in found):
        raise BadInput(
            "--embed-preprocessing: no input is of images that are prepared before the model.",
            f'Say how in {toml.name}, under its [[input]]: kind = "image", mean = ..., std = ...; '
            "and give no --input.",
        )
    return found


def _read_headers(path: Path) -> Mapping[str | None, tuple[tuple[int, ...], str]]:
    """Read shape and dtype of each array in a .npy (under None) or .npz file."""
    if not path.is_file():
        raise BadInput(f"There is no file {path}.")
    headers: dict[str | None, tuple[tuple[int, ...], str]] = {}
    for name, array in read_headers(path).items():
        if not array.shape or array.dtype not in (*DTYPES, *_CAST):
            raise BadInput(f"{path}: '{name}' is no array of samples ({array.dtype}).")
        if not array.finite:
            raise BadInput(f"{path}: the samples contain NaN or infinity.")
        headers[name] = (array.shape, array.dtype)
    return headers


def _check_spec(spec: InputSpec, where: str) -> InputSpec:
    dtype = _ALIASES.get(spec.dtype, spec.dtype)
    if dtype not in DTYPES:
        raise BadInput(
            f"{where}: an input cannot be {spec.dtype}; it can be {', '.join(DTYPES)}.",
            "A model is converted in float32; let forward() do any other cast.",
        )
    if not spec.shape or any(size < 1 for size in spec.shape):
        raise BadInput(
            f"{where}: every size of a shape is at least 1.",
            "Give the batch size too, usually 1, or N to leave it open.",
        )
    if len(spec.shape) > _MOST_AXES or any(size > _LARGEST_SIZE for size in spec.shape):
        raise BadInput(
            f"{where}: a shape has at most {_MOST_AXES} axes, each of at most {_LARGEST_SIZE:,}."
        )
    if spec.name and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.]*", spec.name):
        raise BadInput(
            f"{where}: '{spec.name}' is no name for a tensor (letters, digits, _ and .)."
        )
    if spec.low is not None and spec.high is not None and not spec.low < spec.high:
        raise BadInput(f"{where}: the range [{spec.low}, {spec.high}) is empty.")
    if not math.isfinite((spec.high or 0.0) - (spec.low or 0.0)):
        raise BadInput(f"{where}: the range [{spec.low}, {spec.high}) is wider than a float64.")
    open_axes = [name for name in spec.dims if name]
    if len(open_axes) > 1:
        raise BadInput(
            f"{where}: several sizes are open ({', '.join(open_axes)}), and only the batch can be.",
            "Give a number for every other size; convert once for each size that is needed.",
        )
    if open_axes and spec.dims[0] != open_axes[0] and open_axes[0] != "N":
        raise BadInput(
            f"{where}: the size '{open_axes[0]}' is open, and only that of the batch can be.",
            "The batch is the first size, or the one that is called N, as in 16xNx8; give a number "
            "for every other.",
        )
    return replace(spec, dtype=dtype)


def _check_names(specs: Sequence[InputSpec]) -> None:
    opened = {name for spec in specs for name in spec.dims if name}
    if len(opened) > 1:
        raise BadInput(
            f"The open sizes {' and '.join(sorted(opened))} are two; only the batch can be open.",
            "Call it by one name in every input that has it.",
        )
    names = [spec.name for spec in specs if spec.name]
    if len(set(names)) != len(names):
        raise BadInput("Two inputs have the same name.")
