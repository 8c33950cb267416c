"""The cold set-up of the stages' environments beside bare `uv pip sync` of the same locks.

    python benchmarks/setting_up.py [--rounds 3]

The two take turns, each with empty caches, so that everything is downloaded. Bare uv is timed one
environment after the other, as a script of a few lines would do it. Writes
benchmarks/setting_up.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from uv import find_uv_bin

from runner.packages.cpython import find_cpython
from runner.packages.pip_settings import make_uv_environment
from runner.toolchains.load import load_image, load_toolchain

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ways: dict[str, Callable[[Path], None]] = {"runner": by_the_runner, "bare uv": by_bare_uv}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds):
        # Whoever comes second finds the mirror's own caches warm: so they take turns at that too.
        for name in sorted(ways, reverse=bool(number % 2)):
            with tempfile.TemporaryDirectory(prefix="setting-up-") as scratch:
                start = time.perf_counter()
                ways[name](Path(scratch))
                seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    pairs = zip(seconds["runner"], seconds["bare uv"], strict=True)
    text = f"""# The speed of a cold set-up

Written by `python benchmarks/setting_up.py`: all three environments of the process engine, from
empty caches; median of {arguments.rounds} rounds that take turns, {platform.machine()},
{len(os.sched_getaffinity(0))} cores.

| | seconds |
|---|---:|
| `runner images build --engine process` | {median(seconds["runner"]):.1f} |
| `uv venv` and `uv pip sync`, three times | {median(seconds["bare uv"]):.1f} |
| ratio, round by round | {median(ours / bare for ours, bare in pairs):.2f} |
"""
    (HERE / "setting_up.md").write_text(text)
    print(text)


def by_the_runner(folder: Path) -> None:
    run(
        [sys.executable, "-m", "runner", "images", "build", "--engine", "process"],
        {"RUNNER_CACHE_DIR": str(folder / "cache"), "UV_CACHE_DIR": str(folder / "uv")},
    )


def by_bare_uv(folder: Path) -> None:
    for name in load_toolchain().images:
        image = load_image(name)
        venv, environment = folder / name, {"UV_CACHE_DIR": str(folder / "uv")}
        run([find_uv_bin(), "venv", "--python", find_cpython(image.python).path, venv], environment)
        sync = [find_uv_bin(), "pip", "sync", "--require-hashes", "--python", venv, image.lock]
        run(sync, environment)


def run(command: list[str | Path], variables: dict[str, str]) -> None:
    subprocess.run(
        [*map(str, command)],
        env={**make_uv_environment(), **variables},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
