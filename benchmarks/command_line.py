"""What the command itself costs: its help, a wrong option, a conversion whose stages are cached.

    python benchmarks/command_line.py [--rounds 9] [--beside RUNNER]

Each command takes its turn beside `python -c pass`, and is told as a multiple of it: seconds tell
as much of the machine and its load. `--beside` names the `runner` of another checkout or
environment, which takes turns too. Byte code and caches are warm.
Writes benchmarks/command_line.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.machine import Cost

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "examples" / "mbv2.pt"
ENGINES = ("process", "docker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--beside", type=Path)
    arguments = parser.parse_args()
    runners = {"": Path(sys.executable).with_name("runner")}
    if arguments.beside:
        runners["the other's "] = arguments.beside
    with tempfile.TemporaryDirectory(prefix="command-line-") as name:
        commands: dict[str, list[str | Path]] = {"python -c pass": [sys.executable, "-c", "pass"]}
        for whose, runner in runners.items():
            commands |= make_commands(whose, runner)
        costs: dict[str, list[Cost]] = {title: [] for title in commands}
        for number in range(-1, arguments.rounds):
            for title, command in commands.items():
                cost = measure(command, Path(name))
                if number >= 0:  # the first round warms the caches
                    costs[title].append(cost)
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    text = render(costs, arguments.rounds)
    (HERE / "command_line.md").write_text(text)
    print(text)


def make_commands(whose: str, runner: Path) -> dict[str, list[str | Path]]:
    convert = ("convert", "--model", MODEL, "--samples", "1", "--quiet")
    return {
        f"{whose}runner --help": [runner, "--help"],
        f"{whose}runner convert --no-such-option": [runner, "convert", "--no-such-option"],
        **{
            f"{whose}runner convert, cached, --engine {engine}": [
                *(runner, *convert, "--engine", engine)
            ]
            for engine in ENGINES
        },
    }


def measure(command: list[str | Path], folder: Path) -> Cost:
    """Run a command to its end, and return what it cost."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode not in (0, 2):
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr.decode()}")
    user = after.children_user - before.children_user
    return Cost(wall, user + after.children_system - before.children_system)


def render(costs: dict[str, list[Cost]], rounds: int) -> str:
    base = costs["python -c pass"]
    rows = [
        f"| `{title}` | {median(c.wall for c in found):.2f} | {median(c.cpu for c in found):.2f} "
        f"| {median(c.wall / b.wall for c, b in zip(found, base, strict=True)):.1f} |"
        for title, found in costs.items()
    ]
    return "\n".join(
        [
            "# The speed of the command itself",
            "",
            "Written by `python benchmarks/command_line.py`: each in turn, with warm caches; the",
            f"median of {rounds} rounds, Python {platform.python_version()}, {platform.machine()}, "
            f"{len(os.sched_getaffinity(0))} cores. The processor time is that of",
            "the command and its children, not of the Docker daemon. The ratio is of wall times, "
            "round by round.",
            "",
            "| | seconds | of processor time | ratio to `python -c pass` |",
            "|---|---:|---:|---:|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
