"""The stage `benchmark`: .tflite files in this environment's interpreter, timed in turns.

Each file is first tried in a process of its own, which may crash: on a few samples, if the volume
holds a run's, so that its error is known. Those that run are then timed in rounds, each of which
takes all files in another order, so that the noise of the machine hits them alike.
"""

from __future__ import annotations

import json
import random
import traceback
from typing import Any, Dict, List, Optional, Sequence

from stages.compare.children import run_in_child
from stages.compare.few_samples import FewSamples, open_few
from stages.frameworks.tflite_runtime import (
    Runtime,
    count_operators,
    locate_tensors,
    make_predict,
    number_tensors,
)
from stages.frameworks.timing import feed_sample, fill_inputs, summarize_turns, take_turn
from stages.kit.contract import (
    Job,
    Option,
    Signature,
    Stage,
    StageError,
    report_progress,
    run_as_program,
    write_json,
)
from stages.kit.samples import adapt_layout, compare_few

_LONGEST_MESSAGE = 400


def convert(job: Job) -> Signature:
    """Write the artifact: what came of each file, and its latency."""
    files = json.loads(job.input.read_text())
    threads = [int(number) for number in job.options["threads"].split(",")]
    with job.phase("load"):
        runtime = Runtime()
    with job.phase("try"):
        few = open_few(job.volume)
        rows = []
        for number, file in enumerate(files):
            rows.append(_try_in_child(job, runtime, file, few))
            report_progress("try", number + 1, len(files))
    with job.phase("measure"):
        for count in threads if runtime.takes_threads else threads[:1]:
            _measure(job, runtime, files, rows, few, count)
    write_json(
        job.output,
        {"runtime": runtime.name, "takes_threads": runtime.takes_threads, "files": rows},
    )
    return Signature((), ())


def check(job: Job) -> None:
    """Return None: what is compared is in the artifact."""


def _try_in_child(
    job: Job, runtime: Runtime, file: Dict[str, Any], few: Optional[FewSamples]
) -> Dict[str, Any]:
    found = run_in_child(job, lambda: _try(job, runtime, file, few))
    row = {"file": file["path"], "failure": "", "error": None, "operators": {}, "latency": []}
    return {**row, **found}


def _try(
    job: Job, runtime: Runtime, file: Dict[str, Any], few: Optional[FewSamples]
) -> Dict[str, Any]:
    """Open a file and run it; return its operators, and its error if there are samples."""
    path = job.volume / file["path"]
    try:
        interpreter = runtime.open(path)
        operators = count_operators(interpreter)
        interpreter.allocate_tensors()
        if few is None:
            fill_inputs(interpreter)
            interpreter.invoke()
            return {"operators": operators}
        predict = _prepare(job, runtime, file, few)
        return {"operators": operators, "error": _compare(predict, few)}
    except (RuntimeError, ValueError, TypeError, StageError) as error:
        traceback.print_exc()
        return {"failure": " ".join(str(error).split())[:_LONGEST_MESSAGE] or repr(error)}


def _prepare(job: Job, runtime: Runtime, file: Dict[str, Any], few: FewSamples) -> Any:
    """Return a function that runs the file on arrays as the samples have them."""
    path = job.volume / file["path"]
    interpreter = runtime.open(path)
    if file.get("signature"):
        known = number_tensors(interpreter, Signature.from_dict(file["signature"]))
    else:
        known = locate_tensors(job, path, Signature(few.inputs, few.outputs))
    return adapt_layout(lambda: make_predict(interpreter, known), known)()


def _compare(predict: Any, few: FewSamples) -> Dict[str, Any]:
    """Run the samples, and return the worst output's error."""
    count = len(few.output_arrays[0])
    results = compare_few(predict, few.input_arrays, few.outputs, few.output_arrays, count)
    errors = [result["mean_abs"] for result in results]
    return {
        "samples": count,
        "mean_abs": None if None in errors else max(errors),
        "max_abs": max((r["max_abs"] for r in results if r["max_abs"] is not None), default=None),
        "nonfinite": sum(r["nonfinite"] for r in results if not r["reference_nonfinite"]),
        "other_shape": any(r["actual_shape"] is not None for r in results),
    }


def _measure(
    job: Job,
    runtime: Runtime,
    files: Sequence[Dict[str, Any]],
    rows: Sequence[Dict[str, Any]],
    few: Optional[FewSamples],
    threads: int,
) -> None:
    """Time the files that run, in turns, and add the figures to their rows."""
    timed: Dict[int, Any] = {}
    for place, (file, row) in enumerate(zip(files, rows)):
        if not row["failure"]:
            interpreter = runtime.open(job.volume / file["path"], threads)
            interpreter.allocate_tensors()
            fill_inputs(interpreter)
            if few is not None and file.get("signature"):
                known = Signature.from_dict(file["signature"])
                feed_sample(interpreter, known, few.input_arrays)
            timed[place] = interpreter
    least = job.options["seconds"]
    times: Dict[int, List[float]] = {place: [] for place in timed}
    # One whose single run takes more than two turns sits some rounds out.
    every = {place: 1 + int(take_turn(found, 0.0) / least / 2) for place, found in timed.items()}
    order = random.Random(0)
    for number in range(job.options["rounds"]):
        for place in order.sample(list(timed), len(timed)):
            if number % every[place] == 0:
                times[place].append(take_turn(timed[place], least))
        report_progress("measure", number + 1, job.options["rounds"])
    for place, found in times.items():
        rows[place]["latency"].append({"threads": threads, **summarize_turns(found)})


STAGE = Stage(
    name="benchmark",
    summary=__doc__ or "",
    consumes="benchmark/files.json",
    produces="benchmark.json",
    packages=("ai-edge-litert", "tensorflow", "numpy"),
    convert=convert,
    check=check,
    options=(
        Option("threads", str, "1", "numbers of threads, comma-separated"),
        Option("rounds", int, 15, "how often each file takes a turn"),
        Option("seconds", float, 0.1, "how long a turn is"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
