"""What quantising stages have in common, whichever tool makes the file.

They are for any interpreter and release; the toolchain of 2020 has stages of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, Optional, Sequence

from stages.frameworks.tflite_runtime import (
    Runtime,
    count_operators,
    locate_tensors,
    make_predict,
)
from stages.kit.contract import InputError, Job, Option, Signature, Stage, StageError, flag
from stages.kit.samples import open_samples
from stages.quantize.check.latency import measure_latency
from stages.quantize.check.quality import GATE, compare_quality

CALIBRATED = ("int8", "int16x8")


def make_stage(
    mode: str,
    make: Callable[[Job], bytes],
    *,
    summary: str,
    consumes: str,
    packages: Sequence[str],
    ends: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Stage:
    """Make the stage of a mode; `make` returns the quantised model, and always imports `imports`.

    `ends` are the types that an int8 model's inputs and outputs may have besides float.
    """
    options = GATE
    if mode in CALIBRATED:
        options += (
            Option("calibration", str, "", "the file of calibration samples in the volume"),
            Option("noise", flag, False, "calibrate on normal noise"),
        )
    if ends:
        options += (Option("io", str, "float", f"inputs and outputs: float, {' or '.join(ends)}"),)

    def convert(job: Job) -> Signature:
        asked = job.options.get("io", "float")
        if asked not in ("float", *ends):
            raise InputError(
                f"This tool makes no model with ends of type '{asked}'.",
                f"--quantize-io is one of {', '.join(('float', *ends))}.",
            )
        content = make(job)
        if not isinstance(content, (bytes, bytearray)) or not content:
            raise StageError("The converter returned no model.")
        job.output.write_bytes(content)
        return _locate(job)

    return Stage(
        name=mode,
        summary=summary,
        consumes=consumes,
        produces=f"model.{mode}.tflite",
        packages=tuple(packages),
        convert=convert,
        check=check,
        imports=tuple(imports),
        options=options,
    )


def read_float_signature(job: Job) -> Signature:
    """Return the float model's signature, with its layout, which the quantised one has too."""
    told = job.request.get("float")
    return Signature.from_dict(told) if told else job.require_upstream_signature()


def _locate(job: Job) -> Signature:
    """Find inputs and outputs in the written file; their order of axes is the float model's."""
    known = read_float_signature(job)
    found = locate_tensors(job, job.output, known)
    if not job.request.get("float"):
        return found
    return Signature(
        tuple(replace(f, axes=k.axes) for f, k in zip(found.inputs, known.inputs)),
        tuple(replace(f, axes=k.axes) for f, k in zip(found.outputs, known.outputs)),
    )


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run this environment's interpreter on every sample and judge it; None without samples."""
    runtime = Runtime()
    job.report["operators"] = count_operators(runtime.open(job.artifact))
    samples = open_samples(job.volume)
    if samples is None:
        job.note("The volume holds no samples, so the model was not checked.")
        return None
    assert job.signature is not None
    signature = job.signature
    job.report["latency"] = measure_latency(job, runtime)
    return compare_quality(
        job, samples, runtime.name, lambda: make_predict(runtime.open(job.artifact), signature)
    )
