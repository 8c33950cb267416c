"""The stage `compared`: the second of two models, run over the first one's samples.

Its inputs and outputs are matched with the reference's by name, else by position and shape; what
was matched by anything else than its name and shape is said aloud.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from stages.compare.opened import Opened, list_output_names, open_model
from stages.kit.contract import (
    InputError,
    Job,
    Option,
    Signature,
    Stage,
    Tensor,
    run_as_program,
    sha256,
    write_json,
)
from stages.kit.matching import End, Pair, format_shape, is_ambiguous, list_axis_orders, pair
from stages.kit.samples import Predict, Samples, compare, open_samples


@dataclass(frozen=True)
class _Part(Samples):
    """The samples, reduced to the reference outputs that the second model has as well."""

    kept: Tuple[int, ...] = ()

    @property
    def output_arrays(self) -> List[np.ndarray]:
        files = [self.folder / f"output-{index}.npy" for index in self.kept]
        return [np.load(file, mmap_mode="c", allow_pickle=False) for file in files]


@dataclass(frozen=True)
class _Prepared:
    """The loaded model and the pairs of its outputs."""

    framework: str
    make_predict: Any
    pairs: Sequence[Any]


def convert(job: Job) -> Signature:
    """Load the second model, match its inputs and outputs, and write how they match."""
    file = _locate_file(job)
    with job.phase("load"):
        opened = open_model(job, file, job.options["kind"])
    job.report["operators"] = opened.operators
    job.report["parameters"] = opened.parameters
    samples = open_samples(job.volume)
    if samples is None:
        raise InputError("The volume holds no samples.", "Run the stage 'reference' first.")
    with job.phase("match"):
        ins = _match_inputs(job, samples, opened)
        inputs = _build_their_inputs(samples, opened, ins)
        make_predict = _map_inputs(opened.prepare(inputs), ins, inputs)
        first = _run_first_sample(make_predict(), samples, file, inputs)
        names = list_output_names(opened, len(first))
        outs = _match_outputs(job, samples, names, first)
    job.prepared = _Prepared(opened.framework, _map_outputs(make_predict, outs), outs)
    made = {
        "inputs": [_describe_pair(p, samples.inputs, [t.name for t in inputs]) for p in ins],
        "outputs": [_describe_pair(p, samples.outputs, names) for p in outs],
    }
    write_json(job.output, made)
    return Signature(
        tuple(replace(t, name=samples.inputs[p.ours].name) for t, p in _zip_pairs(inputs, ins)),
        tuple(
            Tensor(samples.outputs[p.ours].name, v.shape, v.dtype.name, names[p.theirs])
            for p in outs
            for v in [np.asarray(first[p.theirs])]
        ),
    )


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the second model on every sample and compare the outputs that both models have."""
    samples = open_samples(job.volume)
    assert samples is not None
    kept = tuple(found.ours for found in job.prepared.pairs)
    floor = samples.noise_floor
    if floor and floor.get("outputs"):
        floor = {**floor, "outputs": [floor["outputs"][index] for index in kept]}
    stress = tuple(
        replace(s, floors=tuple(s.floors[index] for index in kept) if s.floors else ())
        for s in samples.stress
    )
    part = _Part(
        samples.folder,
        samples.count,
        samples.inputs,
        tuple(samples.outputs[index] for index in kept),
        floor,
        samples.random,
        stress,
        kept=kept,
    )
    return compare(job, part, job.prepared.framework, job.prepared.make_predict)


def _locate_file(job: Job) -> Path:
    file = job.volume / job.options["file"]
    if not file.is_file():
        raise InputError(f"The volume holds no '{job.options['file']}'.", "Name one: --file.")
    if job.options["sha256"] and sha256(file) != job.options["sha256"]:
        raise InputError(f"'{file.name}' is not the file that the request names.")
    return file


def _match_inputs(job: Job, samples: Samples, opened: Opened) -> List[Pair]:
    """Match the second model's inputs with the samples'. Raises `InputError` if one has none."""
    ours = [End(t.name, t.shape) for t in samples.inputs]
    theirs = [End(given.name, given.shape) for given in opened.inputs]
    pairs = pair(ours, theirs)
    matched = {found.theirs for found in pairs if found.axes is not None}
    missing = [str(end) for j, end in enumerate(theirs) if j not in matched]
    if missing:
        raise InputError(
            f"The second model's input {missing[0]} matches none of the first model's: "
            f"{', '.join(map(str, ours))}.",
            "Two models are compared on the same inputs: their names or shapes have to agree, "
            "apart from a channels axis that is elsewhere.",
        )
    unused = [str(end) for i, end in enumerate(ours) if i not in {p.ours for p in pairs}]
    if unused:
        job.note(f"The second model does without the first one's input {', '.join(unused)}.")
    if opened.runs is not None:
        pairs = _find_layout_that_runs(samples, opened, pairs)
    _note_pairs(job, "input", pairs, ours, theirs)
    return pairs


def _find_layout_that_runs(samples: Samples, opened: Opened, pairs: List[Pair]) -> List[Pair]:
    """Find the order of axes that a model without shapes in its file runs on, unchanged first."""
    assert opened.runs is not None
    for choice in range(3):
        turned = []
        for found in pairs:
            candidates = list_axis_orders(len(samples.inputs[found.ours].shape))
            order = candidates[min(choice, len(candidates) - 1)]
            turned.append(replace(found, axes=order))
        if opened.runs(_build_their_inputs(samples, opened, turned)):
            return turned
    return pairs


def _build_their_inputs(samples: Samples, opened: Opened, pairs: Sequence[Pair]) -> List[Tensor]:
    """Return the second model's inputs in its order, with fixed shapes. Raises `InputError`."""
    tensors = []
    for found in sorted(pairs, key=lambda p: p.theirs):
        given, own = opened.inputs[found.theirs], samples.inputs[found.ours]
        shape = tuple(own.shape[axis] for axis in found.axes or range(len(own.shape)))
        dtype = given.dtype or own.dtype
        if not np.can_cast(np.dtype(own.dtype), np.dtype(dtype), "same_kind"):
            raise InputError(
                f"The second model's input '{given.name}' is {dtype}; the first one's "
                f"'{own.name}' is {own.dtype}.",
                "Take as first the model with the narrower type, or export both for one type.",
            )
        tensors.append(Tensor(given.name, shape, dtype))
    return tensors


def _map_inputs(
    make_predict: Callable[[], Predict], pairs: Sequence[Pair], inputs: Sequence[Tensor]
) -> Callable[[], Predict]:
    """Wrap the second model so that it takes the first one's inputs."""
    by_place = sorted(pairs, key=lambda p: p.theirs)

    def make() -> Predict:
        predict = make_predict()

        def run(values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            return predict(
                [
                    np.ascontiguousarray(
                        values[found.ours].transpose(found.axes), np.dtype(tensor.dtype)
                    ).reshape(tensor.shape)
                    for found, tensor in zip(by_place, inputs)
                ]
            )

        return run

    return make


def _map_outputs(
    make_predict: Callable[[], Predict], pairs: Sequence[Pair]
) -> Callable[[], Predict]:
    """Wrap the second model to return the first one's outputs, in the first one's order of axes."""

    def make() -> Predict:
        predict = make_predict()

        def run(values: Sequence[np.ndarray]) -> List[np.ndarray]:
            outputs = predict(values)
            taken = []
            for found in pairs:
                value = np.asarray(outputs[found.theirs])
                taken.append(value if found.axes is None else value.transpose(found.back))
            return taken

        return run

    return make


def _run_first_sample(
    predict: Predict, samples: Samples, file: Path, inputs: Sequence[Tensor]
) -> Sequence[Any]:
    try:
        return predict([array[0] for array in samples.input_arrays])
    except InputError:
        raise
    except Exception as error:  # every framework raises its own types
        shapes = ", ".join(f"{t.name} {format_shape(t.shape)}" for t in inputs)
        raise InputError(
            f"'{file.name}' does not run on inputs of shape {shapes}: "
            f"{' '.join(str(error).split())[:500]}",
            "See what it is: runner inspect FILE.",
        ) from error


def _match_outputs(
    job: Job, samples: Samples, names: Sequence[str], first: Sequence[Any]
) -> List[Pair]:
    """Match the two models' outputs. Raises `InputError` if they have none in common."""
    ours = [End(t.name, t.shape) for t in samples.outputs]
    theirs = [End(name, np.asarray(value).shape) for name, value in zip(names, first)]
    pairs = pair(ours, theirs)
    if not pairs:
        raise InputError(
            "The two models have no common outputs. The first one's: "
            f"{', '.join(map(str, ours))}; the second one's: {', '.join(map(str, theirs))}.",
            "Nothing can be compared: give outputs the same names, or export the same ones.",
        )
    left = [str(end) for i, end in enumerate(ours) if i not in {p.ours for p in pairs}]
    extra = [str(end) for j, end in enumerate(theirs) if j not in {p.theirs for p in pairs}]
    if left:
        job.note(f"NOT compared, for the second model has no such output: {', '.join(left)}.")
    if extra:
        job.note(f"NOT compared, for the first model has no such output: {', '.join(extra)}.")
    _note_pairs(job, "output", pairs, ours, theirs)
    return pairs


def _note_pairs(
    job: Job, what: str, pairs: Sequence[Pair], ours: Sequence[End], theirs: Sequence[End]
) -> None:
    """Note each pair that is not simply the same name and shape on both sides."""
    for found in pairs:
        own, end = ours[found.ours], theirs[found.theirs]
        sizes = [int(size) for size in own.shape or ()]
        shape = format_shape(sizes)
        if not found.by_name:
            job.note(f"The {what} {own} is taken for the second model's {end}, by its place.")
        if found.is_turned:
            moved = [sizes[axis] for axis in found.axes or ()]
            job.note(
                f"The {what} '{own.name}' ({shape}) is transposed for the second model's "
                f"'{end.name}' ({format_shape(moved)})."
            )
        elif is_ambiguous(sizes):
            job.note(
                f"The sizes of the {what} '{own.name}' ({shape}) do not tell its layout: "
                "it is taken as it is."
            )


def _zip_pairs(inputs: Sequence[Tensor], pairs: Sequence[Pair]) -> List[Tuple[Tensor, Pair]]:
    by_place = sorted(pairs, key=lambda p: p.theirs)
    return [(replace(t, node=t.name), found) for t, found in zip(inputs, by_place)]


def _describe_pair(found: Pair, ours: Sequence[Tensor], theirs: Sequence[str]) -> Dict[str, Any]:
    return {**asdict(found), "name": ours[found.ours].name, "their_name": theirs[found.theirs]}


STAGE = Stage(
    name="compared",
    summary=__doc__ or "",
    consumes="reference.json",
    produces="comparison.json",
    packages=("torch", "torchvision", "onnx", "onnxruntime", "tensorflow", "numpy"),
    convert=convert,
    check=check,
    options=(
        Option("kind", str, "", "what the file is: torch, onnx, graph or tflite"),
        Option("file", str, "", "the second model's file in the volume"),
        Option("sha256", str, "", "its hash"),
        Option("arch", str, "", "what builds the model of a state_dict: FILE.py:CALLABLE"),
        Option("arch_args", str, "", "keyword arguments for it, as JSON"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
