"""Timing .tflite models in an interpreter: what a run is given, a turn of runs, what is told of it.

Models that are to be compared take turns, so that the noise of the machine hits them alike.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Dict, List, Sequence

import numpy as np

from stages.frameworks.tflite_runtime import number_tensors, quantize_end
from stages.kit.contract import InputError, Signature


def fill_inputs(interpreter: Any) -> None:
    """Set every input: standard normal numbers, or zeros where they are whole."""
    generator = np.random.RandomState(0)
    for detail in interpreter.get_input_details():
        shape, dtype = [int(size) for size in detail["shape"]], np.dtype(detail["dtype"])
        if dtype.kind not in "fiub":
            raise InputError(f"The input '{detail['name']}' is no tensor of numbers.")
        drawn = generator.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        interpreter.set_tensor(detail["index"], drawn.astype(dtype))


def feed_sample(interpreter: Any, known: Signature, arrays: Sequence[np.ndarray]) -> None:
    """Give the interpreter the first sample: values may change the time, as of subnormals.

    `arrays` have the shape (samples, *shape), one per input of the signature.
    """
    details = {detail["index"]: detail for detail in interpreter.get_input_details()}
    for tensor, array in zip(number_tensors(interpreter, known).inputs, arrays):
        value = array[0].transpose(tensor.axes) if tensor.axes else array[0]
        detail = details.get(int(tensor.node))
        if detail is not None and list(value.shape) == list(detail["shape"]):
            value = quantize_end(value, detail).astype(detail["dtype"])
            interpreter.set_tensor(detail["index"], np.ascontiguousarray(value))


def take_turn(interpreter: Any, seconds: float) -> float:
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


def summarize_turns(times: Sequence[float]) -> Dict[str, Any]:
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
