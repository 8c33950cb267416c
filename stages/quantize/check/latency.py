"""A quantised model's latency beside the float one's, in turns in one interpreter."""

from __future__ import annotations

import random
import time
from typing import Any, Dict, List, Optional

from stages.frameworks.tflite_runtime import Runtime
from stages.frameworks.timing import feed_sample, fill_inputs, summarize_turns, take_turn
from stages.kit.contract import Job, Signature, StageError
from stages.kit.samples import open_samples
from stages.kit.tracing import get_first_line

# How many turns each model takes of how many seconds; no further ones after so many in all.
_ROUNDS, _SECONDS, _MOST_SECONDS = 12, 0.02, 3.0


def measure_latency(job: Job, runtime: Runtime) -> Optional[Dict[str, Any]]:
    """Time the job's model and the float one, and return what a report has as `latency`.

    The float model is `request["float_file"]` in the volume; None without one, or if one of the
    two cannot be timed, which a note says.
    """
    told = job.request.get("float_file")
    if not told or not (job.volume / told).is_file():
        return None
    try:
        with job.phase("latency"):
            return _measure(job, runtime, told)
    except (RuntimeError, ValueError, TypeError, StageError) as error:
        job.note(f"The latency could not be measured: {get_first_line(error)}")
        return None


def _measure(job: Job, runtime: Runtime, told: str) -> Dict[str, Any]:
    assert job.signature is not None
    samples = open_samples(job.volume)
    models = {
        "float_model": (job.volume / told, Signature.from_dict(job.request["float"])),
        "quantized": (job.artifact, job.signature),
    }
    timed: Dict[str, Any] = {}
    for name, (path, known) in models.items():
        timed[name] = runtime.open(path)
        timed[name].allocate_tensors()
        fill_inputs(timed[name])
        if samples is not None:
            feed_sample(timed[name], known, samples.input_arrays)
    times: Dict[str, List[float]] = {name: [] for name in timed}
    order = random.Random(0)
    begin = time.perf_counter()
    for _ in range(_ROUNDS):
        for name in order.sample(list(timed), len(timed)):
            times[name].append(take_turn(timed[name], _SECONDS))
        if time.perf_counter() - begin > _MOST_SECONDS:
            break
    found = {name: {"threads": 1, **summarize_turns(turns)} for name, turns in times.items()}
    return {"runtime": runtime.name, **found}
