"""Inputs that take pixels, 0 to 255, because the converted model prepares them itself.

The user's model takes what a program has prepared: (pixel * scale - mean) / std, by channel. With
the option `preprocessing` every artifact does that first. The reference stays the user's model on
values that are prepared here, with NumPy and apart from what the artifacts compute.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from stages.kit.contract import InputError, Job, Option, Tensor
from stages.kit.samples import Predict, Samples

PREPROCESSING = Option(
    "preprocessing", str, "", "what the artifacts do to pixels, by input, as JSON"
)
LARGEST = 255


@dataclass(frozen=True)
class Pixels:
    """How an input's pixels are prepared; `mean` and `std` have a number for each channel.

    `dtype` is that of the pixels. `axis` is that of the channels, whose order is reversed first if
    `swapped` is set.
    """

    dtype: str
    scale: float
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    swapped: bool
    axis: int

    def prepare(self, values: np.ndarray, kind: Any) -> np.ndarray:
        """Return pixels of shape (N, C, H, W) or (N, H, W, C) as the user's model takes them."""
        shape = [1] * values.ndim
        shape[self.axis] = len(self.mean)
        mean, std = (np.array(numbers, kind).reshape(shape) for numbers in (self.mean, self.std))
        ordered = np.flip(values, self.axis) if self.swapped else values
        prepared = (ordered.astype(kind) * np.array(self.scale, kind) - mean) / std
        return np.ascontiguousarray(prepared)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to each of a model's inputs, in their order; None to those taken as they are."""

    inputs: Tuple[Optional[Pixels], ...] = ()

    def __bool__(self) -> bool:
        return any(self.inputs)

    def describe(self, inputs: Sequence[Tensor]) -> List[Tensor]:
        """Return a model's inputs as its artifacts have them. Raises `InputError`."""
        described = []
        for tensor, pixels in zip(inputs, self.inputs or repeat(None)):
            if pixels is not None and tensor.dtype != "float32":
                raise InputError(
                    f"The model's input '{tensor.name}' is {tensor.dtype}, not prepared images.",
                    "Leave out --embed-preprocessing.",
                )
            described.append(tensor if pixels is None else replace(tensor, dtype=pixels.dtype))
        return described

    def prepare(self, values: Sequence[np.ndarray], kind: Any = np.float32) -> List[np.ndarray]:
        """Return the values of each input as the user's model takes them."""
        if not self:
            return list(values)
        pairs = zip(values, self.inputs)
        return [value if pixels is None else pixels.prepare(value, kind) for value, pixels in pairs]

    def wrap(self, predict: Predict, kind: Any = np.float32) -> Predict:
        """Return a forward pass that takes pixels, of one that takes what is prepared."""
        return (lambda values: predict(self.prepare(values, kind))) if self else predict

    def verify(self, samples: Samples) -> None:
        """Raise `InputError` for samples that are no pixels: those of 0 to 255 are."""
        for tensor, pixels, array in zip(samples.inputs, self.inputs, samples.input_arrays):
            if pixels is None or array.dtype.kind != "f":
                continue
            low, high = float(array.min()), float(array.max())
            if low < 0 or high > LARGEST or high <= 1:
                raise InputError(
                    f"The samples of '{tensor.name}' are of {low:.3g} to {high:.3g}, and with "
                    f"--embed-preprocessing they are pixels of 0 to {LARGEST}.",
                    "Give the pixels as they are before the .toml's scale, mean and std.",
                )


def read_preprocessing(job: Job, inputs: Sequence[Tensor]) -> Preprocessing:
    """Read the option `preprocessing`, in the order of the inputs. Raises `InputError`."""
    asked = json.loads(job.options["preprocessing"] or "{}")
    if not asked:
        return Preprocessing()
    if list(asked) == [""] and len(inputs) == 1:
        asked = {inputs[0].name: asked[""]}
    names = [tensor.name for tensor in inputs]
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise InputError(
            f"The model has no input '{unknown[0]}' that takes images.",
            f"In the .toml beside it, name its inputs: {', '.join(names)}.",
        )
    found = Preprocessing(tuple(_read(asked[name]) if name in asked else None for name in names))
    for name, pixels in zip(names, found.inputs):
        if pixels is not None:
            job.note(
                f"'{name}' takes pixels of 0 to {LARGEST} ({pixels.dtype}): the artifacts prepare "
                "them as the model's .toml says, and are compared with the model on prepared ones."
            )
    return found


def _read(entry: Any) -> Pixels:
    numbers = {name: tuple(map(float, entry[name])) for name in ("mean", "std")}
    return Pixels(
        entry["dtype"],
        float(entry["scale"]),
        numbers["mean"],
        numbers["std"],
        bool(entry["swapped"]),
        int(entry["axis"]),
    )
