"""The inputs of the check and PyTorch's outputs for them, byte for byte the same in every stage.

They are .npy files of shape (samples, *shape) in the volume's `samples/`, opened as memory maps, so
that even a thousand images take no memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import traceback
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from stages.kit import open_batch
from stages.kit.contract import (
    InputError,
    Job,
    Signature,
    StageError,
    Tensor,
    report_progress,
    write_json,
)
from stages.kit.statistics import VERDICTS, OutputStatistics, judge_all, takes_labels

# One forward pass, from an array per input to an array per output.
Predict = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
# Runs the samples with these numbers, and yields the outputs of each, in order.
RunAll = Callable[[Sequence[int]], Iterator[List[np.ndarray]]]

# What other inputs are multiplied by, to see what holds only for the usual ones, and how many
# samples there are of each magnitude.
_MAGNITUDES = (1e-3, 1e2, 1e4)
_OF_EACH = 2

# For the rounding of a model that rounds to a grid on the way, as fake quantisation does: values
# between two steps fall to either side from one framework to another. What is rounded there differs
# by this part of its range (in a small net, between float32 and float64, by 0.04 to 0.9 times
# 2^-24, most by the least). That is rare, so what it does is seen with moves so many times as
# large, and more samples than another noise floor has, and scaled back.
QUANTIZER_MOVE = 2.0**-26
_MOVED_TIMES = (1, 8, 64)
# As many samples have to change by a move, or a larger one is tried.
_ENOUGH_CHANGED = 8
# More samples than are allowed for change by chance in a hundredth of all runs.
_UNLIKELY = 0.01
QUANTIZED_NOISE_SAMPLES = 256

# How many bytes are generated, and compared, at a time.
_BLOCK_BYTES = 1 << 24
_COMPARED_BYTES = 1 << 20


@dataclass(frozen=True)
class Stress:
    """Samples of another magnitude; `floors` is the mean noise floor of each output, if known."""

    magnitude: float
    floors: Tuple[Optional[float], ...] = ()


@dataclass(frozen=True)
class Samples:
    """The samples of one run; `outputs` and `noise_floor` are PyTorch's.

    The `count` samples that the gate judges come first in the arrays, then those of `stress`. If
    the batch is open, `sizes` holds some of the same inputs joined to other sizes, by the size.
    """

    folder: Path
    count: int
    inputs: Tuple[Tensor, ...]
    outputs: Tuple[Tensor, ...]
    noise_floor: Optional[Dict[str, Any]] = None
    # Whether PyTorch's own outputs differ between runs on one input, and so are no reference.
    random: bool = False
    stress: Tuple[Stress, ...] = ()
    sizes: Tuple[Tuple[int, Samples], ...] = ()

    @property
    def numbers(self) -> range:
        """Return the numbers of all samples, the stress included."""
        return range(self.count + _OF_EACH * len(self.stress))

    def find_rows(self, stress: Stress) -> range:
        """Return the numbers of the samples of a magnitude."""
        first = self.count + _OF_EACH * self.stress.index(stress)
        return range(first, first + _OF_EACH)

    @property
    def input_arrays(self) -> List[np.ndarray]:
        """Memory maps of shape (samples, *shape), one per input."""
        return [_open(self.folder / f"input-{i}.npy") for i in range(len(self.inputs))]

    @property
    def output_arrays(self) -> List[np.ndarray]:
        """Memory maps of shape (samples, *shape), one per output."""
        return [_open(self.folder / f"output-{i}.npy") for i in range(len(self.outputs))]


def open_samples(volume: Path) -> Optional[Samples]:
    """Open the volume's samples; None if no stage has written any.

    Missing inputs are made again as samples.json says, since a run that resumes an earlier one has
    only the reference outputs. Raises `StageError` if they come out different.
    """
    folder = volume / "samples"
    try:
        data = json.loads((folder / "samples.json").read_text())
    except FileNotFoundError:
        return None
    samples = Samples(
        folder,
        data["count"],
        tuple(Tensor.from_dict(t) for t in data["inputs"]),
        tuple(Tensor.from_dict(t) for t in data["outputs"]),
        data["noise_floor"],
        data["random"],
        tuple(Stress(s["magnitude"], tuple(s["floors"])) for s in data["stress"]),
    )
    if any(not (folder / f"input-{i}.npy").exists() for i in range(len(samples.inputs))):
        if data["file"]:
            import_inputs(folder, volume / data["file"], samples.inputs)
        else:
            magnitudes = [stress.magnitude for stress in samples.stress]
            generate_inputs(folder, samples.inputs, samples.count, data["seed"], magnitudes)
        arrays = [array[: samples.count] for array in samples.input_arrays]
        if [_fingerprint(array) for array in arrays] != data["fingerprints"]:
            raise StageError(
                "The samples, made again, are not those of the first stage.",
                "Run the conversion again with --no-cache.",
            )
    return replace(samples, sizes=tuple(_open_size(samples, s) for s in data.get("sizes", ())))


def _open_size(samples: Samples, entry: Dict[str, Any]) -> Tuple[int, Samples]:
    size = int(entry["size"])
    drawn = join_inputs(samples, size)
    outputs = tuple(Tensor.from_dict(tensor) for tensor in entry["outputs"])
    return size, replace(drawn, outputs=outputs, noise_floor=samples.noise_floor)


def join_inputs(samples: Samples, size: int) -> Samples:
    """Join samples to a batch of this size, and write them unless they are there."""
    folder = samples.folder / f"at-{size}"
    count = open_batch.count_samples(samples.count, size)
    inputs = tuple(open_batch.resize(tensor, size) for tensor in samples.inputs)
    joined = Samples(folder, count, inputs, (), random=samples.random)
    if all((folder / f"input-{i}.npy").exists() for i in range(len(inputs))):
        return joined
    folder.mkdir(parents=True, exist_ok=True)
    check_disk_space(folder, inputs, count)
    for index, (tensor, source) in enumerate(zip(samples.inputs, samples.input_arrays)):
        array = _create(folder / f"input-{index}.npy", count, inputs[index])
        for sample in range(count):
            rows = open_batch.pick_rows(sample, size, samples.count)
            array[sample] = open_batch.join(tensor, [source[row] for row in rows])
        array.flush()
    return joined


def open_outputs(reference: Samples, predict: Predict, what: str) -> Samples:
    """Return the samples of a given model with its outputs' open axes, and with other sizes.

    Samples of a model without an open batch are returned as they are. `what` is 'model' or 'graph'.
    Raises `InputError` if the model does not run at other sizes.
    """
    axis = open_batch.find_open_axis(reference.inputs)
    if axis is None:
        return reference
    shapes = []
    for size in open_batch.TRIALS:
        rows = open_batch.pick_rows(0, size, reference.count)
        arrays = zip(reference.inputs, reference.input_arrays)
        values = [open_batch.join(tensor, [array[row] for row in rows]) for tensor, array in arrays]
        try:
            shapes.append([np.shape(value) for value in predict(values)])
        except Exception as error:  # every framework raises its own types
            message = (str(error).strip().splitlines() or [""])[0][:300]
            raise InputError(
                f"The {what} itself does not run with a batch of {size}, though its shape says so: "
                f"{message}",
                "Some operator in it fixes the batch size. Export it again with sizes that follow "
                "the input, or give a number as the batch size.",
            ) from error
    outputs = open_batch.name_open_axes(reference.outputs, shapes, axis.name)
    return add_sizes(replace(reference, outputs=outputs), lambda: predict)


def add_sizes(reference: Samples, make_predict: Callable[[], Predict]) -> Samples:
    """Return the samples with the reference outputs at other batch sizes, if the batch is open."""
    if reference.random or open_batch.find_open_axis(reference.inputs) is None:
        return reference
    names = [tensor.name for tensor in reference.outputs]
    sizes = []
    for size in open_batch.CHECKED:
        joined = write_reference(join_inputs(reference, size), names, make_predict)
        sizes.append((size, replace(joined, noise_floor=reference.noise_floor)))
    return replace(reference, sizes=tuple(sizes))


def open_given_reference(job: Job) -> Optional[Samples]:
    """Open the samples and reference outputs that the run was given; None if it makes its own.

    Raises `StageError` if the volume lacks what the request names.
    """
    if not job.request.get("check", {}).get("reference"):
        return None
    given = open_samples(job.volume)
    if given is None:
        raise StageError("The request names a reference, and the volume holds none.")
    return given


def make_inputs(job: Job, inputs: Sequence[Tensor]) -> Samples:
    """Write the requested samples, the user's own or generated ones, and return them.

    Generated ones are joined by a few of other magnitudes, where the model takes any number.
    """
    settings, folder = job.request.get("check", {}), job.volume / "samples"
    if settings.get("inputs"):
        count = import_inputs(folder, job.volume / settings["inputs"], inputs)
        return Samples(folder, count, tuple(inputs), ())
    count = int(settings.get("samples", 1000))
    magnitudes = _MAGNITUDES if any(map(_is_unbounded, inputs)) else ()
    generate_inputs(folder, inputs, count, settings.get("seed", 0), magnitudes)
    stress = tuple(Stress(magnitude) for magnitude in magnitudes)
    return Samples(folder, count, tuple(inputs), (), stress=stress)


def _is_unbounded(tensor: Tensor) -> bool:
    return np.dtype(tensor.dtype).kind == "f" and (tensor.low is None or tensor.high is None)


def generate_inputs(
    folder: Path, inputs: Sequence[Tensor], count: int, seed: int, magnitudes: Sequence[float] = ()
) -> None:
    """Write `count` samples per input, drawn from the input's own generator (PCG64).

    Samples of other magnitudes follow, from a generator of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = count + _OF_EACH * len(magnitudes)
    check_disk_space(folder, inputs, total)
    for index, tensor in enumerate(inputs):
        generator = _make_generator(seed, index)
        array = _create(folder / f"input-{index}.npy", total, tensor)
        for rows in split_into_blocks(array[:count]):
            rows[...] = _draw(generator, tensor, rows.shape)
        others = _make_generator(seed, index, 1)
        for row, magnitude in enumerate(np.repeat(magnitudes, _OF_EACH), count):
            drawn = _draw(others, tensor, tensor.shape)
            scale = np.asarray(magnitude, drawn.dtype) if _is_unbounded(tensor) else 1
            array[row] = drawn * scale
        array.flush()


def _make_generator(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds)))


def draw(tensor: Tensor, seed: int, index: int, numbers: Sequence[int]) -> np.ndarray:
    """Draw, by number, some of the samples that `generate_inputs` writes for input `index`."""
    generator = _make_generator(seed, index)
    rows = {}
    for number in range(max(numbers) + 1):
        row = _draw(generator, tensor, tensor.shape)
        if number in numbers:
            rows[number] = row
    return np.stack([rows[number] for number in numbers])


def lacks_range(tensor: Tensor) -> bool:
    """Tell whether an input is of integers, of which nothing says how large they may be."""
    return np.dtype(tensor.dtype).kind in "iu" and tensor.high is None


def bound_integers(job: Optional[Job], tensor: Tensor, rows: Optional[int] = None) -> Tensor:
    """Bound the generated values of an integer input without a range, and tell the job.

    `rows` is how many the smallest table has that it indexes, if it is known to index any.
    """
    if not lacks_range(tensor):
        return tensor
    high, reason = 10, "for want of a range"
    if rows is not None:
        high, reason = rows, "the rows of the smallest table that it indexes"
    elif tensor.dtype == "uint8":
        high, reason = 256, "all that uint8 holds"
    if job is not None and not job.request.get("check", {}).get("inputs"):
        job.note(
            f"Values of '{tensor.name}' are drawn from 0 to {high - 1} ({reason}); a model's .toml "
            "can give a range."
        )
    return replace(tensor, low=0, high=high)


def import_inputs(folder: Path, file: Path, inputs: Sequence[Tensor]) -> int:
    """Write the user's own samples in the same form, and return their number.

    `file` is a .npy of the only input, or an .npz with an array per input, under its name. An array
    has shape (samples, *shape), or (samples, *shape[1:]) where shape[0] is 1. Raises `InputError`
    if it cannot be read or does not fit.
    """
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"The inputs file cannot be read: {error}") from None
    if isinstance(loaded, np.ndarray):
        arrays = {inputs[0].name: loaded}
    else:
        arrays = {name: loaded[name] for name in loaded.files}
    missing = [tensor.name for tensor in inputs if tensor.name not in arrays]
    if len(inputs) == 1 and len(arrays) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    elif missing:
        raise InputError(
            f"The inputs file has no array for: {', '.join(missing)}.",
            f"It has {', '.join(arrays)}; save it with numpy.savez(FILE, NAME=array, ...).",
        )
    counts = {len(arrays[tensor.name]) for tensor in inputs}
    if len(counts) != 1 or 0 in counts:
        raise InputError("The arrays of the inputs file must hold the same number of samples.")
    folder.mkdir(parents=True, exist_ok=True)
    for index, tensor in enumerate(inputs):
        given = arrays[tensor.name]
        full = (len(given), *tensor.shape)
        if given.shape != full and not (
            tensor.shape[:1] == (1,) and given.shape == full[:1] + full[2:]
        ):
            raise InputError(
                f"The array for '{tensor.name}' has shape {given.shape}; {full} is needed "
                f"for an input of shape {tensor.shape}.",
                "Give the shape with --input, or save the array with the samples first.",
            )
        if not np.can_cast(given.dtype, np.dtype(tensor.dtype), "same_kind"):
            raise InputError(
                f"The array for '{tensor.name}' is {given.dtype.name}, the input {tensor.dtype}.",
                f"Save it with the input's type, or give another --input SHAPE:{given.dtype.name}.",
            )
        array = _create(folder / f"input-{index}.npy", len(given), tensor)
        array[...] = given.reshape(full)
        array.flush()
    return counts.pop()


def write_reference(
    draft: Samples, names: Sequence[str], make_predict: Callable[[], Predict]
) -> Samples:
    """Run PyTorch on all samples and write its outputs. Raises `InputError` if shapes vary.

    A model that does not run on other magnitudes is not put under stress.
    """
    folder, total = draft.folder, len(draft.numbers)
    run_all = make_runner(make_predict, draft)
    outputs: Tuple[Tensor, ...] = ()
    maps: List[np.ndarray] = []
    for sample, values in enumerate(run_all(range(draft.count))):
        if not maps:
            outputs = tuple(Tensor(n, v.shape, v.dtype.name) for n, v in zip(names, values))
            check_disk_space(folder, outputs, total)
            maps = [_create(folder / f"output-{i}.npy", total, t) for i, t in enumerate(outputs)]
        for array, tensor, value in zip(maps, outputs, values):
            if value.shape != tensor.shape:
                raise InputError(
                    f"The shape of output '{tensor.name}' depends on the input's values: "
                    f"{tensor.shape} for sample 0, {value.shape} for sample {sample}.",
                    "TensorFlow Lite needs fixed shapes: pad or cut the output in the model.",
                )
            array[sample] = value
        report_progress("reference", sample + 1, draft.count)
    stress = draft.stress
    try:
        numbers = draft.numbers[draft.count :]
        for sample, values in zip(numbers, run_all(numbers)):
            for array, tensor, value in zip(maps, outputs, values):
                if value.shape != tensor.shape:
                    raise ValueError(f"output '{tensor.name}' has the shape {value.shape} there")
                array[sample] = value
    except Exception:  # user code may raise anything
        traceback.print_exc()
        stress = ()
    for array in maps:
        array.flush()
    return replace(draft, outputs=outputs, stress=stress)


def make_runner(make_predict: Callable[[], Predict], samples: Samples) -> RunAll:
    """Return a function that runs a framework on samples, and may be called several times.

    Samples are independent, so each core works on its own samples in one thread: a batch of one
    leaves little to parallelise inside an operator, and on a busy machine threads that wait for
    each other cost far more than they save. This also makes results independent of the core count.
    A core's model is made once, when it is first needed.
    """
    arrays = samples.input_arrays
    idle: SimpleQueue[Predict] = SimpleQueue()
    cores = min(len(os.sched_getaffinity(0)), 8)

    def run(sample: int) -> List[np.ndarray]:
        predict = idle.get()
        try:
            return [np.asarray(value) for value in predict([array[sample] for array in arrays])]
        finally:
            idle.put(predict)

    def run_all(numbers: Sequence[int]) -> Iterator[List[np.ndarray]]:
        workers = min(cores, len(numbers))
        while idle.qsize() < workers:
            idle.put(make_predict())
        with ThreadPoolExecutor(max(1, workers)) as pool:
            pending = deque(pool.submit(run, number) for number in numbers[: 2 * workers])
            for position in range(len(numbers)):
                outputs = pending.popleft().result()
                if position + 2 * workers < len(numbers):
                    pending.append(pool.submit(run, numbers[position + 2 * workers]))
                yield outputs

    return run_all


def measure_noise_floor(
    reference: Samples, wanted: int, make_predict: Callable[[], Predict], whole: bool = False
) -> Samples:
    """Return the samples with their noise floor: how far float32 outputs are from float64 ones.

    The difference is the rounding of float32 arithmetic, below which no conversion is sure to stay.
    `make_predict` makes the float64 model, and may raise: not all of a model need have float64.
    With `whole`, the floor has all statistics of the outputs.
    """
    count = min(wanted, reference.count)
    arrays = reference.output_arrays

    def make_double_predict() -> Predict:
        predict = make_predict()
        return lambda values: predict(
            [v.astype(np.float64) if v.dtype == np.float32 else v for v in values]
        )

    run_all = make_runner(make_double_predict, reference)

    def compare_rows(numbers: range) -> List[Dict[str, Any]]:
        """Return the statistics of each output, with the float64 one as the reference.

        `changed` is the share of the samples whose output is another.
        """
        statistics = _make_statistics(reference.outputs, arrays)
        changed = [0] * len(statistics)
        for number, values in zip(numbers, run_all(numbers)):
            for place, (output, array, value) in enumerate(zip(statistics, arrays, values)):
                output.add(value[None], array[number][None])
                changed[place] += not np.array_equal(value, array[number])
        shares = [number / max(len(numbers), 1) for number in changed]
        return [{**o.result(), "changed": share} for o, share in zip(statistics, shares)]

    def find_floors(stress: Stress) -> Stress:
        try:
            results = compare_rows(reference.find_rows(stress))
        except Exception:  # it runs on the usual inputs, which have their floor
            traceback.print_exc()
            return stress
        return replace(stress, floors=tuple(result["mean_abs"] for result in results))

    try:
        results = compare_rows(range(count))
    except Exception as error:  # a framework's own, such as for an operator without float64
        message = (str(error).splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {message}"
        return replace(reference, noise_floor={"samples": 0, "outputs": None, "reason": reason})
    floor = {"samples": count, "outputs": results if whole else _strip(results), "reason": ""}
    return replace(reference, noise_floor=floor, stress=tuple(map(find_floors, reference.stress)))


def _strip(results: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    keys = ("name", "mean_abs", "max_abs", "rms_abs", "p99_abs")
    return [{key: result[key] for key in keys} for result in results]


def measure_quantized_floor(
    reference: Samples, wanted: int, make_predict: Callable[[float], Predict]
) -> Samples:
    """Return the samples with the noise floor of a model that rounds to a grid on the way.

    `make_predict` makes the model with what it rounds moved by a part of its range.
    """
    for times in _MOVED_TIMES:
        predict = partial(make_predict, times * QUANTIZER_MOVE)
        found = measure_noise_floor(reference, wanted, predict, whole=True)
        assert found.noise_floor is not None
        outputs = found.noise_floor["outputs"]
        if outputs is None:
            return found
        least = min(output["changed"] for output in outputs)
        if least * found.noise_floor["samples"] >= _ENOUGH_CHANGED:
            break
    scaled = [_scale_back(output, times, reference.count) for output in outputs]
    stress = [
        replace(s, floors=tuple(floor and floor / times for floor in s.floors))
        for s in found.stress
    ]
    floor = {**found.noise_floor, "outputs": scaled}
    return replace(found, noise_floor=floor, stress=tuple(stress))


def _scale_back(output: Dict[str, Any], times: int, count: int) -> Dict[str, Any]:
    """Return an output's floor for `count` samples, of a run with moves `times` too large.

    Of the samples that change, all are counted that may do so by chance.
    """
    share = output["changed"]
    if not share:
        return _strip([output])[0]
    expected = share / times
    allowed = min(1.0, max(expected, _find_most(expected * count) / count))
    part = allowed / share
    is_common = allowed > _UNLIKELY
    return {
        "name": output["name"],
        "mean_abs": output["mean_abs"] * part,
        "max_abs": output["max_abs"],
        "rms_abs": output["rms_abs"] * math.sqrt(part),
        "p99_abs": output["p99_abs"] if is_common else 0.0,
    }


def _find_most(expected: float) -> int:
    """Return the number that a count of rare events does not exceed, but for unlikely cases."""
    chance = below = math.exp(-min(expected, 500.0))
    number = 0
    while 1 - below > _UNLIKELY and number < 2 * expected + 10:
        number += 1
        chance *= expected / number
        below += chance
    return number


def _make_statistics(
    outputs: Sequence[Tensor], references: Sequence[np.ndarray]
) -> List[OutputStatistics]:
    return [
        OutputStatistics(tensor.name, array.shape[1:], array.dtype)
        for tensor, array in zip(outputs, references)
    ]


def compare_few(
    predict: Predict,
    inputs: Sequence[np.ndarray],
    outputs: Sequence[Tensor],
    references: Sequence[np.ndarray],
    count: int,
) -> List[Dict[str, Any]]:
    """Run the first `count` samples one after the other; return the statistics of each output."""
    statistics = _make_statistics(outputs, references)
    for number in range(count):
        values = predict([array[number] for array in inputs])
        for output, known, value in zip(statistics, references, values):
            output.add(known[number][None], np.asarray(value)[None])
    return [output.result() for output in statistics]


def _fingerprint(array: np.ndarray) -> str:
    """Hash the first and the last sample, enough to detect another seed, file or generator."""
    return hashlib.sha256(array[0].tobytes() + array[-1].tobytes()).hexdigest()


def save(job: Job, samples: Samples) -> None:
    """Write the index of the samples, which makes them visible to the other stages."""
    settings = job.request.get("check", {})
    write_json(
        samples.folder / "samples.json",
        {
            "count": samples.count,
            "inputs": [asdict(t) for t in samples.inputs],
            "outputs": [asdict(t) for t in samples.outputs],
            "noise_floor": samples.noise_floor,
            "random": samples.random,
            "stress": [asdict(stress) for stress in samples.stress],
            "sizes": [
                {"size": size, "count": at.count, "outputs": [asdict(t) for t in at.outputs]}
                for size, at in samples.sizes
            ],
            "file": settings.get("inputs"),
            "seed": settings.get("seed", 0),
            "fingerprints": [
                _fingerprint(array[: samples.count]) for array in samples.input_arrays
            ],
        },
    )


def compare(
    job: Job, samples: Samples, framework: str, make_predict: Callable[[], Predict]
) -> Dict[str, Any]:
    """Run a framework on all samples and return the error of each output against PyTorch's.

    The result is the `check` of a stage's report. Outputs are compared in blocks, while the
    framework works on the next samples. The job may name another reference than PyTorch's, or have
    the outputs kept as one, in which case the result is empty.
    """
    if job.signature is not None:
        make_predict = adapt_layout(make_predict, job.signature)
    if job.keep is not None:
        _keep(job.keep, samples, make_predict)
        return {}
    settings = job.request.get("check", {})
    metric, tolerance = settings.get("metric", "mean_abs"), settings.get("tolerance", 1e-6)
    labels = open_labels(job, samples)
    results, seconds, run_all = _compare_all(samples, make_predict, job.reference, labels)
    floors = (samples.noise_floor or {}).get("outputs") or [None] * len(results)
    allowed = None
    if not settings.get("strict"):
        allowed = [floor.get(metric) if floor else None for floor in floors]
    verdict = judge_all(results, metric, tolerance, allowed)
    if samples.random and verdict in ("passed", "rounding", "exceeded"):
        verdict = "vacuous"
    for result, floor in zip(results, floors):
        result["noise_floor"] = floor and floor["mean_abs"]
        known = result["mean_abs"] is not None and floor and floor["mean_abs"]
        result["times_noise_floor"] = result["mean_abs"] / floor["mean_abs"] if known else None
    sizes = []
    for size, at in () if job.reference else samples.sizes:
        sizes.append(_compare_size(size, at, make_predict, metric, tolerance, allowed))
    return {
        "framework": framework,
        "samples": samples.count,
        "metric": metric,
        "tolerance": tolerance,
        "verdict": min((verdict, *(at["verdict"] for at in sizes)), key=VERDICTS.index),
        "seconds": round(seconds, 3),
        "outputs": results,
        "stress": [] if job.reference else _compare_under_stress(samples, run_all),
        "sizes": sizes,
    }


def _compare_size(
    size: int,
    samples: Samples,
    make_predict: Callable[[], Predict],
    metric: str,
    tolerance: float,
    allowed: Optional[Sequence[Optional[float]]],
) -> Dict[str, Any]:
    """Return the verdict at another batch size; a framework that fails there has a wrong shape."""
    try:
        results, _, _ = _compare_all(samples, make_predict)
    except Exception as error:  # a framework's own, such as of a Reshape that does not follow
        traceback.print_exc()
        message = (str(error).strip().splitlines() or [""])[-1][:300]
        failure = f"{type(error).__name__}: {message}"
        return {"size": size, "samples": 0, "verdict": "shape", "value": None, "failure": failure}
    verdict = judge_all(results, metric, tolerance, allowed)
    wrong = [r for r in results if r["actual_shape"] is not None]
    failure = "".join(
        f"the output '{r['name']}' has the shape {r['actual_shape']} in place of {r['shape']}"
        for r in wrong[:1]
    )
    values = [r[metric] for r in results if r[metric] is not None]
    return {
        "size": size,
        "samples": samples.count,
        "verdict": verdict,
        "value": max(values, default=None),
        "failure": failure,
    }


def _compare_all(
    samples: Samples,
    make_predict: Callable[[], Predict],
    folder: Optional[Path] = None,
    labels: Optional[np.ndarray] = None,
) -> Tuple[List[Dict[str, Any]], float, RunAll]:
    """Run all samples; return each output's statistics, the seconds, and what runs others.

    The reference outputs are the samples' own, or those in `folder`; `labels` are the true classes.
    """
    references = replace(samples, folder=folder or samples.folder).output_arrays
    statistics = _make_statistics(samples.outputs, references)
    block = max(1, _COMPARED_BYTES // max(1, sum(array[0].nbytes for array in references)))
    pending: List[List[np.ndarray]] = [[] for _ in statistics]
    run_all = make_runner(make_predict, samples)
    start = time.perf_counter()
    for sample, outputs in enumerate(run_all(range(samples.count))):
        if len(outputs) != len(statistics):
            raise RuntimeError(f"{len(outputs)} outputs, where the reference has {len(statistics)}")
        for kept, value in zip(pending, outputs):
            kept.append(value)
        if len(pending[0]) == block or sample + 1 == samples.count:
            rows = slice(sample + 1 - len(pending[0]), sample + 1)
            for output, reference, kept in zip(statistics, references, pending):
                _add_rows(output, reference[rows], kept)
                kept.clear()
        report_progress("check", sample + 1, samples.count)
    seconds = time.perf_counter() - start
    return [output.result(labels) for output in statistics], seconds, run_all


def open_labels(job: Job, samples: Samples) -> Optional[np.ndarray]:
    """Return the true class of each sample, of shape (samples,); None if the user gave none.

    Raises `InputError` if no output has so many classes.
    """
    name = job.request.get("check", {}).get("labels")
    if not name:
        return None
    path = job.volume / name
    labels = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, np.int64, ndmin=1)
    labels = labels.reshape(-1)
    if len(labels) != samples.count:
        raise InputError(f"There are {len(labels)} labels, and {samples.count} samples.")
    if not any(takes_labels(tensor.shape, labels) for tensor in samples.outputs):
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in samples.outputs)
        raise InputError(
            f"The labels go up to {labels.max()}, and no output has a number for each class: "
            f"their shapes are {shapes}.",
            "Labels count from 0, and belong to an output of shape 1 x classes.",
        )
    return labels


def _add_rows(
    output: OutputStatistics, reference: np.ndarray, values: Sequence[np.ndarray]
) -> None:
    """Add samples to an output's statistics, one by one if their shapes differ."""
    if len({value.shape for value in values}) == 1:
        output.add(reference, np.stack(values))
        return
    for row, value in zip(reference, values):
        output.add(row[None], value[None])


def _compare_under_stress(samples: Samples, run_all: RunAll) -> List[Dict[str, Any]]:
    """Return the error of each output at each of the other magnitudes; none of a random model.

    An output that PyTorch itself has no number for is left out. A framework that fails there, where
    PyTorch does not, is a finding like any other.
    """
    found = []
    references = samples.output_arrays
    for stress in () if samples.random else samples.stress:
        rows = samples.find_rows(stress)
        statistics = _make_statistics(samples.outputs, references)
        try:
            outputs = list(zip(*run_all(rows)))
        except Exception as error:  # a framework's own, such as for an index out of range
            traceback.print_exc()
            message = (str(error).splitlines() or [""])[0][:300]
            found.append(
                {
                    "magnitude": stress.magnitude,
                    "name": "",
                    "nonfinite": 0,
                    "mean_abs": None,
                    "times_noise_floor": None,
                    "failure": f"{type(error).__name__}: {message}",
                }
            )
            continue
        for output, reference, values in zip(statistics, references, outputs):
            _add_rows(output, reference[rows.start : rows.stop], values)
        for result, floor in zip((o.result() for o in statistics), stress.floors or repeat(None)):
            if result["actual_shape"] is None and not result["reference_nonfinite"]:
                found.append(
                    {
                        "magnitude": stress.magnitude,
                        "name": result["name"],
                        "nonfinite": result["nonfinite"],
                        "mean_abs": result["mean_abs"],
                        "times_noise_floor": _divide_by_floor(result, floor),
                    }
                )
    return found


def _divide_by_floor(result: Dict[str, Any], floor: Optional[float]) -> Optional[float]:
    """Return an error in multiples of the noise floor; None where that is not known.

    A floor below the outputs' own resolution counts as that: few samples may be exact by chance, as
    where a function saturates.
    """
    if floor is None or result["mean_abs"] is None:
        return None
    size = float(np.hypot(result["reference_mean"], result["reference_std"]))
    least = max(floor, size * 2.0**-24)
    return result["mean_abs"] / least if least else None


def adapt_layout(
    make_predict: Callable[[], Predict], signature: Signature
) -> Callable[[], Predict]:
    """Wrap an artifact in transposes, so that it takes and returns arrays in PyTorch's layout."""
    tensors = (*signature.inputs, *signature.outputs)
    if not any(tensor.axes for tensor in tensors):
        return make_predict

    def make() -> Predict:
        predict = make_predict()

        def run(values: Sequence[np.ndarray]) -> List[np.ndarray]:
            outputs = predict([reorder_axes(v, t.axes) for v, t in zip(values, signature.inputs)])
            back = [tuple(np.argsort(tensor.axes)) for tensor in signature.outputs]
            return [reorder_axes(np.asarray(v), axes) for v, axes in zip(outputs, back)]

        return run

    return make


def reorder_axes(value: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return an array in an artifact's own order of axes (see `Tensor`)."""
    # A value of another rank has a wrong shape, which the statistics report.
    return np.ascontiguousarray(value.transpose(axes)) if value.ndim == len(axes) > 0 else value


def _keep(folder: Path, samples: Samples, make_predict: Callable[[], Predict]) -> None:
    """Write a framework's outputs for all samples, to serve as a reference."""
    maps: List[np.ndarray] = []
    for sample, outputs in enumerate(make_runner(make_predict, samples)(range(samples.count))):
        if not maps:
            tensors = [Tensor("", value.shape, value.dtype.name) for value in outputs]
            check_disk_space(folder, tensors, samples.count)
            paths = [folder / f"output-{i}.npy" for i in range(len(tensors))]
            maps = [_create(path, samples.count, t) for path, t in zip(paths, tensors)]
        for array, value in zip(maps, outputs):
            array[sample] = value
        report_progress("keep", sample + 1, samples.count)
    for array in maps:
        array.flush()


def check_disk_space(folder: Path, tensors: Sequence[Tensor], count: int) -> None:
    """Raise `InputError` if `count` samples of these tensors do not fit on the disk."""
    needed = sum(count * int(np.prod(t.shape)) * np.dtype(t.dtype).itemsize for t in tensors)
    free = shutil.disk_usage(str(folder)).free
    if needed > free:
        raise InputError(
            f"{count} samples take {needed:,} bytes; the disk has {free:,} bytes free.",
            "Take fewer --samples.",
        )


def split_into_blocks(array: np.ndarray) -> List[np.ndarray]:
    """Return views of consecutive samples, about 16 MiB each."""
    step = max(1, _BLOCK_BYTES // max(1, array[0].nbytes))
    return [array[start : start + step] for start in range(0, len(array), step)]


def _open(path: Path) -> np.ndarray:
    # Copy-on-write, so that the file stays as it is even if a framework writes to its input.
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _create(path: Path, count: int, tensor: Tensor) -> np.ndarray:
    return np.lib.format.open_memmap(
        path, mode="w+", dtype=np.dtype(tensor.dtype), shape=(count, *tensor.shape)
    )


def _draw(generator: np.random.Generator, tensor: Tensor, shape: Tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(tensor.dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low = 0 if tensor.low is None else int(tensor.low)
        high = 10 if tensor.high is None else int(tensor.high)
        return generator.integers(low, high, shape, dtype=np.int64).astype(dtype)
    if tensor.low is not None and tensor.high is not None:
        return generator.uniform(tensor.low, tensor.high, shape).astype(dtype)
    if dtype == np.float64:
        return generator.standard_normal(shape)
    return generator.standard_normal(shape, dtype=np.float32).astype(dtype, copy=False)
