"""The samples that calibrate a quantised model: the user's own, or noise if that is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np

from stages.kit.contract import InputError, Job, Tensor
from stages.kit.samples import Samples, generate_inputs, import_inputs, open_samples, reorder_axes

_FOLDER = "calibration"
# Ranges of activations hardly move beyond a hundred samples of a classifier's data.
_ENOUGH = 100
# A share of the check's values outside of the calibration's range that is worth a warning.
_MOST_OUTSIDE = 0.01
# A channel's mean is another if it moved by so many standard errors and so many deviations.
_LEAST_ERRORS = 6.0
_LEAST_MOVED = 0.2
# An axis with more elements than this is no axis of channels.
_MOST_CHANNELS = 64


def write_calibration(job: Job, inputs: Sequence[Tensor]) -> List[np.ndarray]:
    """Write the calibration samples, and return an array of shape (samples, *shape) per input.

    Raises `InputError` if there are none, if they do not fit, or if the check has one of them too.
    """
    folder = job.volume / _FOLDER
    samples = open_samples(job.volume)
    if job.options["calibration"]:
        count = import_inputs(folder, job.volume / job.options["calibration"], inputs)
        arrays = _open_all(folder, inputs)
        _note_few(job, count)
        if samples is not None:
            _require_other_samples(arrays, samples)
            _note_other_range(job, arrays, samples)
            _note_other_mean(job, arrays, samples)
        return arrays
    if not job.options["noise"]:
        raise InputError(
            f"The mode '{job.stage.name}' needs samples to calibrate on, and there are none.",
            "Give them with --calibration FILE.npz, 100 or more of what the model really sees.",
        )
    seed = int(job.request.get("check", {}).get("seed", 0)) + 1  # the check has the seed itself
    generate_inputs(folder, inputs, _ENOUGH, seed)
    job.note(
        f"Warning: calibrated on {_ENOUGH} samples of noise. Real inputs have other ranges, which "
        "this model may cut off: do not ship it."
    )
    return _open_all(folder, inputs)


def iterate(arrays: Sequence[np.ndarray], inputs: Sequence[Tensor]) -> Iterator[List[np.ndarray]]:
    """Yield each sample as the artifact takes it: an array per input, in its own order of axes."""
    for number in range(len(arrays[0])):
        yield [reorder_axes(array[number], tensor.axes) for array, tensor in zip(arrays, inputs)]


def open_calibration(job: Job, inputs: Sequence[Tensor]) -> List[np.ndarray]:
    """Open the samples that `write_calibration` has written, as it returned them."""
    return _open_all(job.volume / _FOLDER, inputs)


def _open_all(folder: Path, inputs: Sequence[Tensor]) -> List[np.ndarray]:
    return [np.load(folder / f"input-{i}.npy", mmap_mode="c") for i in range(len(inputs))]


def _note_few(job: Job, count: int) -> None:
    if count < _ENOUGH:
        job.note(f"Calibrated on {count} samples; {_ENOUGH} to 500 give steadier ranges.")


def _require_other_samples(arrays: Sequence[np.ndarray], samples: Samples) -> None:
    """Raise `InputError` if a sample of the check is among those of the calibration."""
    checked = [array[: samples.count] for array in samples.input_arrays]
    known = set(_hash_rows(arrays))
    same = [number for number, digest in enumerate(_hash_rows(checked)) if digest in known]
    if same:
        raise InputError(
            f"{len(same)} of the {samples.count} samples of the check are calibration samples too "
            f"(the first is sample {same[0]}): the model would be judged by what it was fitted to.",
            "Take them out of the file of --calibration.",
        )


def _hash_rows(arrays: Sequence[np.ndarray]) -> Iterator[bytes]:
    for rows in zip(*arrays):
        digest = hashlib.sha256()
        for row in rows:
            digest.update(np.ascontiguousarray(row).tobytes())
        yield digest.digest()


def _note_other_range(job: Job, arrays: Sequence[np.ndarray], samples: Samples) -> None:
    """Warn if the check's inputs lie outside of the range that the calibration reached."""
    for tensor, array, checked in zip(samples.inputs, arrays, samples.input_arrays):
        if array.dtype.kind != "f":
            continue
        low, high = float(array.min()), float(array.max())
        rows = checked[: samples.count]
        outside = float(np.mean([np.mean((row < low) | (row > high)) for row in rows]))
        if outside > _MOST_OUTSIDE:
            job.note(
                f"Warning: {outside:.0%} of the check's values of '{tensor.name}' lie outside of "
                f"[{low:.3g}, {high:.3g}], which the calibration reached: were both files "
                "normalised in the same way?"
            )


def _note_other_mean(job: Job, arrays: Sequence[np.ndarray], samples: Samples) -> None:
    """Warn if a channel has another mean in the check's samples, and report it by input."""
    moved = {}
    for tensor, array, checked in zip(samples.inputs, arrays, samples.input_arrays):
        reason = explain_moved_mean(array, checked[: samples.count])
        if reason:
            moved[tensor.name] = reason
            job.note(f"Warning: of '{tensor.name}', {reason}.")
    job.report["calibration"] = {"samples": len(arrays[0]), "moved": moved}


def explain_moved_mean(calibrated: np.ndarray, checked: np.ndarray) -> str:
    """Say how the check's samples differ from the calibration's, by channel; '' if they do not.

    Both have shape (samples, *shape).
    """
    if calibrated.dtype.kind != "f" or min(len(calibrated), len(checked)) < 2:
        return ""
    ours, deviation, our_error = _describe_channels(calibrated)
    theirs, _, their_error = _describe_channels(checked)
    errors = np.hypot(our_error, their_error)
    shift = np.abs(ours - theirs)
    moved = (shift > _LEAST_ERRORS * errors) & (shift > _LEAST_MOVED * deviation)
    if not moved.any():
        return ""
    worst = int(np.where(moved, shift / np.maximum(deviation, 1e-12), 0).argmax())
    subject = f"channel {worst}'s mean" if len(ours) > 1 else "the mean"
    turned = np.abs(ours[::-1] - theirs).max()
    hint = (
        "; with its channels in reverse (BGR for RGB) it would be the same"
        if len(ours) > 1 and turned < shift.max() / 4
        else ""
    )
    return (
        f"{subject} is {theirs[worst]:.3g} in the check's samples and was {ours[worst]:.3g} in the "
        f"calibration{hint}: both have to be prepared in the same way"
    )


def _describe_channels(array: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each channel's mean and standard deviation, and the standard error of the mean.

    The samples of shape (samples, *shape) are independent of each other, their elements are not.
    """
    axis = _find_channel_axis(array.shape[1:])
    rows = []
    for row in array:
        wide = np.asarray(row, np.float64)
        rows.append(wide.reshape(1, -1) if axis is None else np.moveaxis(wide, axis, 0))
    flat = [row.reshape(len(row), -1) for row in rows]
    means = np.array([row.mean(axis=1) for row in flat])
    squares = np.array([np.square(row).mean(axis=1) for row in flat])
    mean = means.mean(axis=0)
    deviation = np.sqrt(np.maximum(squares.mean(axis=0) - np.square(mean), 0))
    return mean, deviation, means.std(axis=0, ddof=1) / np.sqrt(len(means))


def _find_channel_axis(shape: Sequence[int]) -> Optional[int]:
    """Return the axis of a sample that is its channels; None if it seems to have none."""
    if len(shape) == 4 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        return 3
    return 1 if len(shape) > 1 and shape[1] <= _MOST_CHANNELS else None
