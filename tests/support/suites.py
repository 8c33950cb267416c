"""Sets of a suite's results, made up: as `runner suite run` leaves them, without any run."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner.host.paths import cache_folder
from runner.suite.results import LatencyRecord, Record, ResultSet, Timing

YARDSTICK = 1e-4


def digest(*names: str) -> str:
    return hashlib.sha256("/".join(names).encode()).hexdigest()


def record(model: str, toolchain: str = "2020-09", variant: str = "default", **more: Any) -> Record:
    """One conversion that passed, or what `more` says."""
    values: dict[str, Any] = {
        "key": digest(model, toolchain, variant),
        "outcome": "passed",
        "metric": "mean_abs",
        "tolerance": 1e-6,
        "error": 2.1e-7,
        "noise_floor": 9e-8,
        "bytes": 1_000_000,
        "operators": 70,
        "flex": 0,
        "artifact": digest(model, toolchain, variant, "file"),
        "seconds": 8.0,
        "run": f"runs/{model}/{toolchain}/{variant}",
    }
    return Record(model=model, toolchain=toolchain, variant=variant, **{**values, **more})


def results(
    records: Sequence[Record],
    folder: Path = Path("results"),
    timings: dict[str, Timing] | None = None,
    **latency: Any,
) -> ResultSet:
    """A set of these records, which are ordered by model, toolchain and variant."""
    told = {"runtime": "LiteRT 2.3.0", "machine": "a machine", **latency}
    return ResultSet(
        folder=folder,
        name="made up",
        models=list(dict.fromkeys(r.model for r in records)),
        toolchains=list(dict.fromkeys(r.toolchain for r in records)),
        variants=list(dict.fromkeys(r.variant for r in records)),
        records=records,
        latency=LatencyRecord(files=timings or {}, **told),
    )


def measure(
    records: Sequence[Record],
    chance: random.Random,
    seconds: Callable[[Record], float] = lambda record: 1e-3,
    sessions: int = 3,
    noise: float = 0.03,
    machine: float = 0.5,
) -> dict[str, Timing]:
    """Timings with noise of each file's own, and of the machine's, which the yardstick shares.

    `noise` and `machine` are deviations of the latency's logarithm; now and then a turn is spoilt.
    """
    timings = {r.artifact: Timing(sessions=[], yardstick=[]) for r in records if r.artifact}
    for _ in range(sessions):
        level = chance.lognormvariate(0, machine)
        stick = YARDSTICK * level * chance.lognormvariate(0, noise / 2)
        for r in records:
            if not r.artifact:
                continue
            spoilt = 1.3 if chance.random() < 0.02 else 1.0
            value = seconds(r) * level * chance.lognormvariate(0, noise) * spoilt
            timings[r.artifact].sessions.append(value)
            timings[r.artifact].yardstick.append(stick)
    return timings


def make_cache(folder: Path) -> Path:
    """A cache folder of its own for a worker, with this machine's environments in it."""
    folder.mkdir()
    for shared in ("environments", "cpython.json", "interpreters"):
        if (cache_folder() / shared).exists():
            (folder / shared).symlink_to(cache_folder() / shared)
    return folder
