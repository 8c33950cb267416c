"""The stage `tflite`: a float .tflite file made elsewhere, whose own outputs are the reference."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any, Dict, List, Optional

import numpy as np

from stages.frameworks.tflite_runtime import Runtime, make_predict
from stages.frameworks.tflite_runtime import check as check_again
from stages.kit.contract import InputError, Job, Signature, Stage, Tensor, run_as_program
from stages.kit.given_model import look_at_run, match_requested_inputs, resolve_shape
from stages.kit.matching import strip_tensor_name
from stages.kit.samples import bound_integers, make_inputs, save, write_reference


def convert(job: Job) -> Signature:
    """Write the file as it is, the samples and its own outputs for them.

    Raises `InputError` for a file that is quantised already, or that does not run.
    """
    runtime = Runtime()
    try:
        interpreter = runtime.open(job.input)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"{runtime.name} cannot load '{job.input.name}': {' '.join(str(error).split())}",
            "See what it is: runner inspect FILE.",
        ) from None
    _require_float(job, interpreter)
    ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    names = _list_names(ins)
    asked = match_requested_inputs(job, "model", names)
    inputs = [_describe(job, d, n, asked.get(n, {})) for d, n in zip(ins, names)]
    with job.phase("samples"):
        draft = make_inputs(job, inputs)
    ends = [Tensor(n, (), "float32", str(d["index"])) for d, n in zip(outs, _list_names(outs))]
    ends = [replace(t, dtype=np.dtype(d["dtype"]).name) for t, d in zip(ends, outs)]
    opened = Signature(tuple(inputs), tuple(ends))

    def make() -> Any:
        return make_predict(runtime.open(job.input), opened)

    with job.phase("reference"):
        random = look_at_run(make(), draft, job, "model", [t.name for t in ends])
        made = write_reference(draft, [t.name for t in ends], make)
    reason = f"{runtime.name} has no float64 run of the model"
    floor = {"samples": 0, "outputs": None, "reason": reason}
    job.report["noise_floor"] = floor
    save(job, replace(made, random=random, noise_floor=floor))
    shutil.copyfile(str(job.input), str(job.output))
    return Signature(
        opened.inputs, tuple(replace(t, node=e.node) for t, e in zip(made.outputs, ends))
    )


def _require_float(job: Job, interpreter: Any) -> None:
    quantised = [
        detail["name"]
        for detail in interpreter.get_tensor_details()
        if len(detail["quantization_parameters"]["scales"])
        or np.dtype(detail["dtype"]) == np.float16
    ]
    if quantised:
        raise InputError(
            f"'{job.input.name}' is quantised already, at {len(quantised)} tensors, such as "
            f"'{quantised[0]}'.",
            "Name the float model that it was made of.",
        )


def _list_names(details: Any) -> List[str]:
    """Return the ends' names without what converters add; whole where that makes two the same."""
    whole = [detail["name"] for detail in details]
    short = [strip_tensor_name(name) for name in whole]
    return short if len(set(short)) == len(short) else whole


def _describe(job: Job, detail: Dict[str, Any], name: str, spec: Dict[str, Any]) -> Tensor:
    shape = resolve_shape(job, "model", name, [int(size) for size in detail["shape"]], spec)
    dtype = np.dtype(detail["dtype"])
    if dtype.kind not in "fiub":
        raise InputError(f"The input '{name}' is not a tensor of numbers.")
    low, high = spec.get("low"), spec.get("high")
    tensor = Tensor(name, shape, dtype.name, str(detail["index"]), low=low, high=high)
    return bound_integers(job, tensor)


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the file once more: what differs from run to run, or never varies, is no reference."""
    return check_again(job)


STAGE = Stage(
    name="tflite",
    summary=__doc__ or "",
    consumes="given.tflite",
    produces="model.tflite",
    packages=("ai-edge-litert", "numpy"),
    convert=convert,
    check=check,
)

if __name__ == "__main__":
    run_as_program(STAGE)
