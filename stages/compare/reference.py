"""The stage `reference`: the first of two models that are compared, whose outputs count as right.

It makes the samples and runs the model over them, as the first stage of a conversion does.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from stages.compare.opened import Opened, OpenEnd, list_output_names, open_model
from stages.kit.contract import Job, Option, Signature, Stage, Tensor, run_as_program, write_json
from stages.kit.given_model import look_at_run, match_requested_inputs, parse_inputs, resolve_shape
from stages.kit.matching import list_axis_orders, strip_tensor_name


def convert(job: Job) -> Signature:
    """Write the samples, the model's outputs for them, and an artifact that describes both."""
    from stages.kit import samples

    with job.phase("load"):
        opened = open_model(job, job.input, job.options["kind"])
    job.report["operators"] = opened.operators
    job.report["parameters"] = opened.parameters
    inputs = _resolve_inputs(job, opened)
    settings = job.request.get("check", {})
    with job.phase("samples"):
        draft = samples.make_inputs(job, inputs)
    make_predict = opened.prepare(inputs)
    with job.phase("reference"):
        first = make_predict()([array[0] for array in draft.input_arrays])
        names = list_output_names(opened, len(first))
        random = look_at_run(make_predict(), draft, job, "model", names)
        reference = samples.write_reference(draft, names, make_predict)
    reference = _measure_noise_floor(job, opened, reference, settings.get("noise_samples", 16))
    job.report["noise_floor"] = reference.noise_floor
    samples.save(job, replace(reference, random=random))
    signature = Signature(
        tuple(replace(t, node=t.name) for t in inputs),
        tuple(replace(t, node=t.name) for t in reference.outputs),
    )
    write_json(
        job.output,
        {
            "framework": opened.framework,
            "samples": reference.count,
            "inputs": [[t.name, list(t.shape), t.dtype] for t in signature.inputs],
            "outputs": [[t.name, list(t.shape), t.dtype] for t in signature.outputs],
        },
    )
    return signature


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Return None: there is nothing to compare the reference with."""
    return None


def _measure_noise_floor(job: Job, opened: Opened, reference: Any, samples: int) -> Any:
    """Return the samples with the framework's own rounding, where it can be measured."""
    if opened.measure_noise_floor is None:
        reason = f"{opened.framework} has no float64 run of the model"
        return replace(reference, noise_floor={"samples": 0, "outputs": None, "reason": reason})
    with job.phase("noise floor"):
        return opened.measure_noise_floor(reference, samples)


def _resolve_inputs(job: Job, opened: Opened) -> List[Tensor]:
    """Return the inputs with fixed shapes: as requested, else the model's, else the other's."""
    hints = json.loads(job.options["other_inputs"] or "[]")
    job.request["inputs"] = job.request.get("inputs") or parse_inputs(job.options["inputs"])
    if opened.infer is not None:
        asked = job.request.get("inputs") or job.request.get("check", {}).get("inputs")
        found = None if asked else _adopt_other_inputs(job, opened, hints)
        return found or opened.infer(job)
    by_name = match_requested_inputs(job, "model", [given.name for given in opened.inputs])
    tensors = []
    for index, given in enumerate(opened.inputs):
        spec = by_name.get(given.name) or _find_hint(given, index, hints)
        shape = resolve_shape(job, "model", given.name, given.shape, spec)
        tensors.append(_make_tensor(job, given, shape, spec))
    return tensors


def _make_tensor(job: Job, given: OpenEnd, shape: Sequence[int], spec: Dict[str, Any]) -> Tensor:
    dtype = given.dtype or "float32"
    low, high = spec.get("low"), spec.get("high")
    if np.dtype(dtype).kind in "iu" and high is None:
        low, high = given.low, given.high
        if not job.request.get("check", {}).get("inputs"):
            job.note(
                f"Values of '{given.name}' are drawn from {low or 0} to {int(high or 10) - 1}; "
                "your own: --inputs FILE."
            )
    return Tensor(given.name, tuple(shape), dtype, low=low, high=high)


def _find_hint(given: OpenEnd, index: int, hints: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """Return the other model's shape of an input as a spec, if it settles the open sizes here."""
    own = given.shape
    if own is None or not any(isinstance(size, str) for size in own[1:]):
        return {}
    same = [
        hint for hint in hints if strip_tensor_name(hint["name"]) == strip_tensor_name(given.name)
    ]
    for hint in same or hints[index : index + 1]:
        shape = _fix_batch_size(hint)
        for order in list_axis_orders(len(shape)) if shape is not None else ():
            turned = [shape[axis] for axis in order]
            if len(turned) == len(own) and all(
                isinstance(size, str) or size == other for size, other in zip(own, turned)
            ):
                return {"shape": turned}
    return {}


def _fix_batch_size(hint: Dict[str, Any]) -> List[int]:
    """Return the hint's shape with an open batch size set to 1; [] if any other size is open."""
    sizes = list(hint["shape"] or ())
    if sizes and isinstance(sizes[0], str):
        sizes[0] = 1
    return [] if any(isinstance(size, str) for size in sizes) else [int(size) for size in sizes]


def _adopt_other_inputs(
    job: Job, opened: Opened, hints: Sequence[Dict[str, Any]]
) -> Optional[List[Tensor]]:
    """Return the other model's inputs, as they are or with channels moved, if this one runs so.

    Only for PyTorch models, whose files declare no shapes; None if no layout runs.
    """
    shapes = [_fix_batch_size(hint) for hint in hints]
    if not hints or not all(shapes) or len(hints) != len(opened.inputs) or opened.runs is None:
        return None
    for choice in range(3):
        turned = []
        for given, shape, hint in zip(opened.inputs, shapes, hints):
            candidates = list_axis_orders(len(shape))
            order = candidates[min(choice, len(candidates) - 1)]
            turned.append(Tensor(given.name, tuple(shape[a] for a in order), hint["dtype"]))
        if opened.runs(turned):
            told = ", ".join(f"{t.name} {'x'.join(map(str, t.shape))}" for t in turned)
            job.note(f"Inputs as the other model has them: {told}.")
            return [
                _make_tensor(job, replace(given, dtype=tensor.dtype), tensor.shape, {})
                for given, tensor in zip(opened.inputs, turned)
            ]
    return None


STAGE = Stage(
    name="reference",
    summary=__doc__ or "",
    consumes="model.onnx",
    produces="reference.json",
    packages=("torch", "torchvision", "onnx", "onnxruntime", "tensorflow", "numpy"),
    convert=convert,
    check=check,
    options=(
        Option("kind", str, "", "what the file is: torch, onnx, graph or tflite"),
        Option("arch", str, "", "what builds the model of a state_dict: FILE.py:CALLABLE"),
        Option("arch_args", str, "", "keyword arguments for it, as JSON"),
        Option("inputs", str, "", "inputs as NAME=1x3x224x224:float32, comma-separated"),
        Option("other_inputs", str, "", "the other model's inputs, as JSON"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
