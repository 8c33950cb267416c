"""The stage `elsewhere`: quantised models in this interpreter, judged as by their own.

An older interpreter may run a newer file without a complaint, and wrongly.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import replace
from typing import Any, Dict

from stages.compare.children import run_in_child
from stages.frameworks.tflite_runtime import Runtime, make_predict, number_tensors
from stages.kit.contract import (
    InputError,
    Job,
    Signature,
    Stage,
    StageError,
    report_progress,
    run_as_program,
    write_json,
)
from stages.kit.samples import Samples, open_samples
from stages.quantize.check.latency import measure_latency
from stages.quantize.check.quality import GATE, compare_quality

_LONGEST_MESSAGE = 400
# What is computed wrongly shows at once; and int16x8 takes thirty times as long as int8.
_MOST_SAMPLES = 200


def convert(job: Job) -> Signature:
    """Write the artifact: what came of each file. Raises `InputError` without samples."""
    files = json.loads(job.input.read_text())
    with job.phase("load"):
        runtime = Runtime()
    samples = open_samples(job.volume)
    if samples is None:
        raise InputError("The volume holds no samples.", "Run the first stage before this one.")
    few = replace(samples, count=min(samples.count, _MOST_SAMPLES), stress=())
    rows = []
    with job.phase("try"):
        for number, file in enumerate(files):
            rows.append(
                {
                    "mode": file["mode"],
                    "failure": "",
                    "check": None,
                    "latency": None,
                    **run_in_child(job, lambda file=file: _try(job, runtime, file, few)),  # type: ignore[misc]
                }
            )
            report_progress("try", number + 1, len(files))
    write_json(job.output, {"runtime": runtime.name, "files": rows})
    return Signature((), ())


def _try(job: Job, runtime: Runtime, file: Dict[str, Any], samples: Samples) -> Dict[str, Any]:
    """Judge one file; or say in `failure` why the interpreter refuses it."""
    path = job.volume / file["path"]
    try:
        known = number_tensors(runtime.open(path), Signature.from_dict(file["signature"]))
        own = replace(job, signature=known, artifact=path)
        found = compare_quality(
            own, samples, runtime.name, lambda: make_predict(runtime.open(path), known)
        )
        return {"check": found, "latency": measure_latency(own, runtime)}
    except (RuntimeError, ValueError, TypeError, StageError) as error:
        traceback.print_exc()
        return {"failure": " ".join(str(error).split())[:_LONGEST_MESSAGE] or repr(error)}


def check(job: Job) -> None:
    """Return None: what was found is in the artifact."""


STAGE = Stage(
    name="elsewhere",
    summary=__doc__ or "",
    consumes="elsewhere/files.json",
    produces="elsewhere.json",
    packages=("ai-edge-litert", "tensorflow", "numpy"),
    convert=convert,
    check=check,
    options=GATE,
)

if __name__ == "__main__":
    run_as_program(STAGE)
