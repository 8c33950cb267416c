"""What a whole conversion costs on this machine: wall and processor time, and starting ahead.

    python benchmarks/conversion.py [--rounds 5] [--samples 1]

Converts the example, and a net of two layers, on both engines, in turns with the same command that
starts no stage before its turn. Without the cache; environments, images and byte code are there.
Processor time is the machine's, the engines' included, so nothing else should run. Writes
benchmarks/conversion.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.machine import Cost, count_cpu
from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment_python
from runner.toolchains.load import load_image

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "mbv2.pt"
ENGINES = ("process", "docker")
# The command, whose stages are started ahead or not.
PROGRAM = """
import sys
from runner.cli.app import entry_point
from runner.engines.docker import engine as docker
from runner.engines.process import engine as process
if sys.argv.pop(1) == "0":
    docker.may_start_ahead = process.may_start_ahead = lambda cores, memory: False
entry_point()
"""
SMALL = """
import sys, torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
torch.jit.save(torch.jit.trace(net.eval(), torch.rand(1, 3, 16, 16)), sys.argv[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="conversion-") as name:
        folder = Path(name)
        image = load_image("torch")
        ProcessEngine().prepare([image], Observer())
        python = str(locate_environment_python(image))
        subprocess.run([python, "-c", SMALL, str(folder / "small.pt")], check=True)
        models = {"two layers": (folder / "small.pt", "1x3x16x16"), "example": (EXAMPLE, "")}
        rows = []
        for engine in ENGINES:
            for title, (model, shape) in models.items():
                costs: dict[int, list[Cost]] = {1: [], 0: []}
                for number in range(-1, arguments.rounds):
                    for ahead in costs:
                        command = list_arguments(model, shape, engine, arguments.samples)
                        cost = measure([str(ahead), *command], folder)
                        if number >= 0:  # the first round warms the caches
                            costs[ahead].append(cost)
                rows.append(describe(title, engine, costs[1], costs[0]))
                print(rows[-1], file=sys.stderr, flush=True)
    text = render(rows, arguments)
    (HERE / "conversion.md").write_text(text)
    print(text)


def list_arguments(model: Path, shape: str, engine: str, samples: int) -> list[str]:
    return [
        *("convert", "--model", str(model), "--samples", str(samples), "--engine", engine),
        *(("--input", shape) if shape else ()),
        *("--no-cache", "--trust-model", "--quiet"),
    ]


def measure(arguments: Sequence[str], folder: Path) -> Cost:
    with tempfile.TemporaryDirectory(dir=folder) as output:
        before, begin = count_cpu(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments, "--output", f"{output}/run"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return Cost(time.perf_counter() - begin, count_cpu() - before)


def describe(title: str, engine: str, ahead: Sequence[Cost], alone: Sequence[Cost]) -> str:
    own = [median(cost.wall / cost.cpu for cost in costs) for costs in (ahead, alone)]
    ratio = median(a.wall / b.wall for a, b in zip(ahead, alone, strict=True))
    return (
        f"| {title} | {engine} | {median(c.wall for c in ahead):.1f} "
        f"| {median(c.cpu for c in ahead):.1f} | {own[0]:.2f} "
        f"| {median(c.wall for c in alone):.1f} | {own[1]:.2f} | {ratio:.2f} |"
    )


def render(rows: Sequence[str], arguments: argparse.Namespace) -> str:
    table = "\n".join(rows)
    return f"""# The time of a conversion

Written by `python benchmarks/conversion.py`: in turns with the same command that starts no stage
before its turn; {arguments.samples} sample(s), no cache, median of {arguments.rounds} rounds,
{len(os.sched_getaffinity(0))} cores. Processor time is the whole machine's; the
ratio is of wall to processor time.

| model | engine | wall s | processor s | ratio | not ahead: wall s | ratio | wall, ahead / not |
|---|---|---:|---:|---:|---:|---:|---:|
{table}
"""


if __name__ == "__main__":
    main()
