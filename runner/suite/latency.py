"""The latency of the models that a suite made: all of them in turns, in several sessions.

A session is a process of its own. What differs between sessions of one file is noise: of the
machine, of its memory's layout, of whatever else runs there.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from runner.conversion.benchmark import TOOL, Measurable, measure
from runner.conversion.measurement import Measurement
from runner.conversion.observer import Observer
from runner.engines.select import prepare_engine
from runner.host.machine import count_cores
from runner.schemas.benchmark import FileResult
from runner.suite.results import LatencyRecord, Timing, find_median
from runner.suite.settings import LatencyTable
from runner.toolchains.load import load_image
from runner.toolchains.tools import load_tool

# Measured in turn with the others, several times over: what it takes tells how fast the machine is
# just then. Made by benchmarks/yardstick.py; no set is comparable across a change of it.
_YARDSTICK = Path(__file__).with_name("yardstick.tflite")
_YARDSTICKS = 4
# One process opens no more files than that at a time.
_MOST_FILES = 200


def measure_latency(
    files: Mapping[str, Path], table: LatencyTable, engine: str = "auto"
) -> LatencyRecord:
    """Measure .tflite files, by their sha256, on one thread in today's interpreter.

    Raises `EnvironmentUnavailable` if that cannot be had.
    """
    image = load_image(load_tool(TOOL).runtime)
    choice = prepare_engine(engine, [image], Observer())
    measurement = Measurement(threads=(1,), rounds=table.rounds, seconds=table.seconds)
    record = LatencyRecord(machine=describe_machine(), files={})
    named = list(files.items())
    for begin in range(0, len(named), _MOST_FILES):
        few = [Measurable(sha256, path) for sha256, path in named[begin : begin + _MOST_FILES]]
        sticks = [Measurable(f"yardstick {n}", _YARDSTICK) for n in range(_YARDSTICKS)]
        step = max(1, len(few) // _YARDSTICKS)
        turns = list(few)
        for number, stick in enumerate(sticks):
            turns.insert(number * (step + 1), stick)
        for _ in range(table.sessions):
            found = measure(turns, [image], measurement, choice, Observer()).runtimes[0]
            record.runtime = found.runtime
            results = {result.file: result for result in found.files}
            level = find_median([_read_median(results.get(stick.name)) for stick in sticks])
            for file in few:
                timing = record.files.setdefault(file.name, Timing(sessions=[]))
                result = results.get(file.name)
                if seconds := _read_median(result):
                    timing.sessions.append(seconds)
                    timing.yardstick.append(level or 0.0)
                else:
                    timing.failure = (result.failure if result else found.failure)[:300]
    return record


def _read_median(result: FileResult | None) -> float:
    """Return the median latency in seconds; 0 where the file does not run."""
    return result.latency[0].median if result is not None and result.latency else 0.0


def merge_latency(before: LatencyRecord, now: LatencyRecord) -> LatencyRecord:
    """Add what was measured now; what another machine or interpreter measured is dropped."""
    same = (before.runtime, before.machine) == (now.runtime, now.machine)
    return now.model_copy(update={"files": {**(before.files if same else {}), **now.files}})


def describe_machine() -> str:
    """Name this machine by what its latencies depend on: the processor, and how many cores."""
    name = platform.processor() or platform.machine()
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(row.split(":", 1)[1].strip() for row in rows if row.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {count_cores()} cores"
