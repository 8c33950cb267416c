"""The measurement of all results: in today's interpreter, and in that of each toolchain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from runner.conversion.benchmark import measure
from runner.conversion.measurement import Measurement
from runner.conversion.observer import Observer
from runner.engines.select import Choice
from runner.schemas.benchmark import Benchmark
from runner.side_by_side.candidates import BENCHMARK
from runner.side_by_side.comparison import Run, merge
from runner.side_by_side.environments import Prepared

# In its own interpreter a file is timed beside the others, but not compared: few rounds do.
_ROUNDS_AT_HOME = 5


def measure_all(
    runs: Mapping[str, Run],
    prepared: Prepared,
    measurement: Measurement,
    view: Observer,
    output: Path,
) -> Benchmark | None:
    """Measure every result in the tools' own interpreter, and in that of each toolchain.

    None if there is nothing to measure, or nothing to measure in.
    """
    files = [file for run in runs.values() if (file := run.measure()) is not None]
    choice: Choice | None = prepared.choice
    if not files or choice is None:
        return None
    plans = [run.candidate.plan for run in runs.values() if run.candidate.plan is not None]
    images = {name: image for plan in plans for name, image in plan.images.items()}
    names = {file.name for file in files}
    homes = dict.fromkeys(
        run.candidate.chain.stages[-1].image for name, run in runs.items() if name in names
    )
    own = list(prepared.tools)
    others = [images[name] for name in homes if name not in {image.name for image in own}]
    shorter = replace(measurement, rounds=min(measurement.rounds, _ROUNDS_AT_HOME))
    logs = output / BENCHMARK
    found = measure(files, own, measurement, choice, view, logs)
    return merge(found, measure(files, others, shorter, choice, view, logs))
