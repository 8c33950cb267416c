"""Conversions an hour: a suite beside a shell loop of `runner convert`, and a cluster beside both.

    python benchmarks/suites/speed.py [--nets 8] [--toolchains 2020-09] [--rounds 1]

All three convert the same nets without the cache, in turns. CPU seconds are the machine's, so
nothing else should run. The cluster is a scheduler and as many workers on this machine, which get
models and give results by content; its start is not in its seconds. Writes
benchmarks/suites/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from distributed import Client

from benchmarks.machine import count_cpu
from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment_python
from runner.host.paths import cache_folder
from runner.suite.cluster import compute_width
from runner.suite.results import read_results
from runner.toolchains.load import load_image

HERE = Path(__file__).resolve().parent
SAMPLES = "100"
ENVIRONMENT = {**os.environ, "RUNNER_TRUST_MODEL": "true", "RUNNER_STAGE_CACHE": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", type=int, default=8)
    parser.add_argument("--toolchains", default="2020-09")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    toolchains = arguments.toolchains.split(",")
    with tempfile.TemporaryDirectory(prefix="suite-speed-") as name:
        folder = Path(name)
        image = load_image("torch")
        ProcessEngine().prepare([image], Observer())
        python = locate_environment_python(image)
        make = [python, HERE / "nets.py", folder / "nets", str(arguments.nets)]
        subprocess.run(make, check=True)
        (folder / "suite.toml").write_text(
            f'models = ["nets/*.pt"]\ntoolchains = {json.dumps(toolchains)}\n'
            f"[defaults]\nsamples = {SAMPLES}\n[latency]\nsessions = 0\n"
        )
        ways: dict[str, Callable[[], float | None]] = {
            "a shell loop of `runner convert`": lambda: loop(folder, toolchains),
            "`runner suite run`": lambda: suite(folder),
            "`runner suite run --scheduler`": lambda: cluster(folder),
        }
        walls: dict[str, list[float]] = {way: [] for way in ways}
        starts: list[float] = []
        cpus: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(arguments.rounds):
            for way in sorted(ways, reverse=bool(number % 2)):
                before, begin = count_cpu(), time.perf_counter()
                start = ways[way]()
                walls[way].append(time.perf_counter() - begin - (start or 0.0))
                starts += [start] if start else []
                cpus[way].append(count_cpu() - before)
                print(f"{way}: {walls[way][-1]:.1f} s", file=sys.stderr, flush=True)
        total = arguments.nets * len(toolchains)
        text = describe(walls, cpus, median(starts), total, toolchains, arguments)
    (HERE / "speed.md").write_text(text)
    print(text)


def loop(folder: Path, toolchains: list[str]) -> None:
    script = " && ".join(
        f'for m in nets/*.pt; do "{sys.executable}" -m runner convert --model $m --quiet '
        f"--output plain/{chain}/$(basename $m) --toolchain {chain} --samples {SAMPLES} "
        "--engine process || exit 1; done"
        for chain in toolchains
    )
    shutil.rmtree(folder / "plain", ignore_errors=True)
    subprocess.run(["bash", "-c", script], cwd=folder, env=ENVIRONMENT, check=True)


def suite(folder: Path, *options: str) -> None:
    shutil.rmtree(folder / "suite-results", ignore_errors=True)
    command = [sys.executable, "-m", "runner", "suite", "run", "suite.toml", "--quiet"]
    subprocess.run(
        [*command, "--engine", "process", *options], cwd=folder, env=ENVIRONMENT, check=True
    )
    outcomes = {record.outcome for record in read_results(folder / "suite-results").records}
    assert outcomes <= {"passed", "rounding"}, outcomes


def cluster(folder: Path) -> float:
    """Run on a scheduler and workers that are started for it; return how long these took."""
    own = folder / "cluster"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    file = own / "scheduler.json"
    log = (own / "log").open("wb")
    begin = time.perf_counter()
    python = [sys.executable, "-m"]
    where = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    started: list[subprocess.Popen[Any]] = [
        subprocess.Popen(
            [*python, "distributed.cli.dask_scheduler", "--no-dashboard", *where],
            stdout=log,
            stderr=log,
        )
    ]
    cache = own / "cache"  # of this round alone: a worker keeps what it made
    cache.mkdir()
    for shared in ("environments", "cpython.json", "interpreters"):
        if (cache_folder() / shared).exists():
            (cache / shared).symlink_to(cache_folder() / shared)
    size = ["--nthreads", "1", "--nworkers", str(compute_width()), "--no-dashboard"]
    places = ["--scheduler-file", str(file), "--local-directory", str(own / "dask")]
    started.append(
        subprocess.Popen(
            [*python, "distributed.cli.dask_worker", *size, *places],
            stdout=log,
            stderr=log,
            env={**ENVIRONMENT, "RUNNER_CACHE_DIR": str(cache)},
        )
    )
    try:
        while not file.is_file():
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        with Client(address) as client:
            client.wait_for_workers(compute_width(), timeout=60)
        start = time.perf_counter() - begin
        suite(folder, "--scheduler", address)
        return start
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
        log.close()


def describe(
    walls: dict[str, list[float]],
    cpus: dict[str, list[float]],
    start: float,
    total: int,
    toolchains: list[str],
    arguments: argparse.Namespace,
) -> str:
    first, local, remote = walls
    rows = "\n".join(
        f"| {way} | {median(walls[way]):.0f} | {3600 * total / median(walls[way]):.0f} "
        f"| {median(cpus[way]) / total:.1f} |"
        for way in walls
    )
    faster = median(a / b for a, b in zip(walls[first], walls[local], strict=True))
    overhead = median(b / a for a, b in zip(walls[local], walls[remote], strict=True)) - 1
    return f"""# The speed of a suite

Written by `python benchmarks/suites/speed.py`: {arguments.nets} small nets with
{", ".join(toolchains)}, {total} conversions of {SAMPLES} samples, process engine, no cache;
{len(os.sched_getaffinity(0))} cores, {arguments.rounds} round(s) in turns. Load average when it
ended: {os.getloadavg()[1]:.1f} (over five minutes).

| | seconds | conversions an hour | CPU seconds each |
|---|---:|---:|---:|
{rows}

The suite makes {faster:.2f} times as many conversions an hour as the loop, its own start included.
A cluster on the same machine, once its scheduler and workers are there ({start:.1f} s), takes
{overhead:+.1%} of the time of the suite by itself.
"""


if __name__ == "__main__":
    main()
