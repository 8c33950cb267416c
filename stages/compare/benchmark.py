"""The stage `benchmark`: .tflite files in this environment's interpreter, timed in turns.

Each file is first tried in a process of its own, which may crash: on a few samples, if the volume
holds a run's, so that its error is known. Those that run are then timed in rounds, each of which
takes all files in another order, so that the noise of the machine hits them alike.
"""

from __future__ import annotations

import json
import random
import statistics
import time
import traceback
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from stages.compare.children import run_in_child
from stages.compare.few_samples import FewSamples, open_few
from stages.frameworks.tflite_runtime import (
    Runtime,
    count_operators,
    locate_tensors,
    make_predict,
    number_tensors,
)
from stages.kit.contract import (
    InputError,
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
            _fill(interpreter)
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


def _fill(interpreter: Any) -> None:
    """Set every input: standard normal numbers, or zeros where they are whole."""
    generator = np.random.RandomState(0)
    for detail in interpreter.get_input_details():
        shape, dtype = [int(size) for size in detail["shape"]], np.dtype(detail["dtype"])
        if dtype.kind not in "fiub":
            raise InputError(f"The input '{detail['name']}' is no tensor of numbers.")
        drawn = generator.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        interpreter.set_tensor(detail["index"], drawn.astype(dtype))


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
            _fill(interpreter)
            if few is not None and file.get("signature"):
                _feed(interpreter, Signature.from_dict(file["signature"]), few)
            timed[place] = interpreter
    least = job.options["seconds"]
    times: Dict[int, List[float]] = {place: [] for place in timed}
    # One whose single run takes more than two turns sits some rounds out.
    every = {place: 1 + int(_turn(found, 0.0) / least / 2) for place, found in timed.items()}
    order = random.Random(0)
    for number in range(job.options["rounds"]):
        for place in order.sample(list(timed), len(timed)):
            if number % every[place] == 0:
                times[place].append(_turn(timed[place], least))
        report_progress("measure", number + 1, job.options["rounds"])
    for place, found in times.items():
        rows[place]["latency"].append({"threads": threads, **_summarize(found)})


def _feed(interpreter: Any, known: Signature, few: FewSamples) -> None:
    """Give the interpreter the first sample: values may change the time, as of subnormals."""
    sizes = {d["index"]: (list(d["shape"]), d["dtype"]) for d in interpreter.get_input_details()}
    for tensor, array in zip(number_tensors(interpreter, known).inputs, few.input_arrays):
        value = array[0].transpose(tensor.axes) if tensor.axes else array[0]
        shape, dtype = sizes.get(int(tensor.node), ([], None))
        if list(value.shape) == shape:
            interpreter.set_tensor(int(tensor.node), np.ascontiguousarray(value.astype(dtype)))


def _turn(interpreter: Any, seconds: float) -> float:
    """Return the median seconds of a run, over `seconds` and at least one; the first is to warm up.

    Another model's turn has emptied the caches in between.
    """
    interpreter.invoke()
    times: List[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _summarize(times: Sequence[float]) -> Dict[str, Any]:
    """Summarize the turns of all rounds: their median, quartiles and extremes, in seconds."""
    low, high = np.percentile(times, [25, 75])
    return {
        "turns": len(times),
        "least": min(times),
        "low": float(low),
        "median": statistics.median(times),
        "high": float(high),
        "most": max(times),
    }


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
