"""This project beside today's converters: the same networks, weights, inputs and runtimes.

    python benchmarks/peers.py [--models mobilenet_v2,unet] [--rounds 100] [--conversions 3]

Installs everything locked into the cache folder, converts, measures in interleaved rounds, and
writes docs/benchmarks.md, docs/benchmarks.svg and docs/benchmarks.json. `--lock` writes the locks
of the peers' environments instead, `--page` the page again from docs/benchmarks.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `runner` is not installed

from peers.environments import Environment, environments, install, write_lock
from peers.page import page
from peers.tools import TOOLS, Tool, Work, list_tools

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment
from runner.host.subprocesses import run_showing_lines
from runner.toolchains.load import load_image, load_toolchain

HERE = Path(__file__).resolve().parent / "peers"
DOCS = HERE.parents[1] / "docs"
SHAPES = {
    "mobilenet_v2": (1, 3, 224, 224),
    "resnet18": (1, 3, 224, 224),
    "mobilenet_v3": (1, 3, 224, 224),
    "shufflenet_v2_x1_0": (1, 3, 224, 224),
    "resnext50_32x4d": (1, 3, 224, 224),
    "unet": (1, 3, 128, 128),
}
COSTS = ("wall_s", "cpu_s", "peak_mib")
# The faithful chain takes minutes, and its time is no one's target.
FAITHFUL_CONVERSIONS = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(SHAPES))
    parser.add_argument("--samples", type=int, default=50, help="inputs to compare outputs on")
    parser.add_argument("--rounds", type=int, default=100, help="interleaved rounds of the latency")
    parser.add_argument("--seconds", type=float, default=0.04, help="of one file in one round")
    parser.add_argument("--conversions", type=int, default=3, help="interleaved, the median counts")
    parser.add_argument("--work", type=Path, help="keep the files here")
    parser.add_argument(
        "--only-conversions", action="store_true", help="measure these anew; keep the latencies"
    )
    parser.add_argument("--lock", action="store_true", help="write the locks, then stop")
    parser.add_argument("--page", action="store_true", help="write the page again, then stop")
    arguments = parser.parse_args()
    if arguments.lock:
        for environment in environments():
            write_lock(environment)
        return
    results = DOCS / "benchmarks.json"
    if not arguments.page:
        for environment in environments():
            say(f"environment {environment.name}")
            install(environment)
        chains = [load_toolchain(tool.toolchain) for tool in TOOLS if tool.ours]
        names = dict.fromkeys(image for chain in chains for image in chain.images)
        ProcessEngine().prepare([load_image(name) for name in names], Observer())
        with tempfile.TemporaryDirectory() as scratch:
            measure_all(arguments, arguments.work or Path(scratch), results)
    text = page(json.loads(results.read_text()))
    (DOCS / "benchmarks.md").write_text(text)
    plot = [install(Environment("plot")).python, HERE / "plot" / "plot.py", results]
    run([*plot, DOCS / "benchmarks.svg"])
    print(text)


def measure_all(arguments: argparse.Namespace, folder: Path, results: Path) -> None:
    """Convert and measure network by network; `results` is written after each.

    Networks that are not asked for keep what a run of that day, machine and settings found.
    """
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "runtimes": {
            "LiteRT": f"ai-edge-litert {Environment('runtime').version_of('ai-edge-litert')}",
            "TF 2.4": "the interpreter of TensorFlow 2.4.0",
        },
        "samples": arguments.samples,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "conversions": arguments.conversions,
        "tools": {tool.name: describe(tool) for tool in TOOLS},
        "models": {},
    }
    if results.exists():
        earlier = json.loads(results.read_text())
        models = earlier.pop("models")
        if all(earlier[key] == found.get(key) for key in earlier):
            found["models"] = models
    for name in arguments.models.split(","):
        work = Work(name, SHAPES[name], folder / name)
        work.folder.mkdir(parents=True, exist_ok=True)
        say(f"{name}: weights, inputs, PyTorch's outputs")
        run([stage_python("torch"), HERE / "make_model.py", name, arguments.samples, work.folder])
        rows = convert_all(work, arguments.conversions)
        if arguments.only_conversions:
            for tool, row in found["models"][name]["tools"].items():
                row.update({key: rows[tool][key] for key in COSTS if key in rows[tool]})
            results.write_text(json.dumps(found, indent=1) + "\n")
            continue
        for runtime, python in (
            ("LiteRT", Environment("runtime").python),
            ("TF 2.4", stage_python("tflite")),
        ):
            say(f"{name}: {runtime}")
            for tool, measured in measure(arguments, work, python, rows).items():
                merge(rows[tool], runtime, measured)
        add_ratios(rows)
        found["models"][name] = {"shape": list(work.shape), "tools": rows}
        results.write_text(json.dumps(found, indent=1) + "\n")


def convert_all(work: Work, count: int) -> dict[str, dict[str, Any]]:
    """Convert with every tool, `count` times in turn; a row a tool."""
    tools = list_tools(work.name)
    runs: dict[str, list[dict[str, Any]]] = {tool.name: [] for tool in tools}
    for number in range(count):
        for tool in tools:
            if "--faithful" in tool.options and number >= FAITHFUL_CONVERSIONS:
                continue
            say(f"{work.name}: conversion {number + 1} of {count} by {tool.title}")
            runs[tool.name].append(convert(tool, work))
    return {tool.name: summary(tool, work, runs[tool.name]) for tool in tools}


def convert(tool: Tool, work: Work) -> dict[str, Any]:
    """One conversion, measured."""
    target = tool.result(work)
    target.unlink(missing_ok=True)
    if tool.ours:
        shutil.rmtree(target.parent, ignore_errors=True)
    file = work.folder / "measured.json"
    command = [sys.executable, str(HERE / "measured.py"), str(file), *tool.command(work)]
    # One file a tool and network, for when one fails.
    finished = run_showing_lines(command, lambda line: None, folder=work.folder)
    (work.folder / f"{tool.name}.log").write_text("\n".join(finished.lines))
    measured = dict(json.loads(file.read_text()))
    report = target.with_name("report.json")
    if tool.ours and report.is_file():  # its stages are not seen from outside
        stages = [stage["report"] or {} for stage in json.loads(report.read_text())["stages"]]
        peaks = [stage.get("peak_memory_bytes") or 0 for stage in stages]
        measured["peak_mib"] = max(measured["peak_mib"], *(peak / 2**20 for peak in peaks))
    return measured


def summary(tool: Tool, work: Work, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if tool.result(work).is_file():
        row["bytes"] = tool.result(work).stat().st_size
        for key in COSTS:
            row[key] = round(median(run[key] for run in runs), 2)
    else:
        row["failure"] = failure(tool, work)
    return row


def failure(tool: Tool, work: Work) -> str:
    """Why a tool left no file: the stage and its message, or the last line of its output."""
    report = tool.result(work).with_name("report.json")
    if tool.ours and report.is_file():
        for stage in json.loads(report.read_text())["stages"]:
            if stage["status"] == "failed":
                text = stage["failure"].strip().splitlines()
                errors = [line for line in text if "error:" in line] or text
                return f"{stage['name']}: {errors[0][:160]}"
    lines = (work.folder / f"{tool.name}.log").read_text().strip().splitlines()
    return lines[-1][:160] if lines else "no output"


def measure(
    arguments: argparse.Namespace, work: Work, python: Path, rows: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Measure the files that there are in one runtime."""
    request = {
        "models": {
            tool.name: str(tool.result(work))
            for tool in list_tools(work.name)
            if "failure" not in rows[tool.name]
        },
        "inputs": str(work.folder / "inputs.npy"),
        "reference": str(work.folder / "reference.npy"),
        "rounds": arguments.rounds,
        "threads": [1, 2],
        "seconds": arguments.seconds,
    }
    asked, answered = work.folder / "request.json", work.folder / "answer.json"
    asked.write_text(json.dumps(request))
    run([python, HERE / "runtime" / "measure.py", asked, answered])
    return dict(json.loads(answered.read_text())["models"])


def merge(row: dict[str, Any], runtime: str, found: dict[str, Any]) -> None:
    """Take what a runtime found; the file's own figures once, from the first."""
    for key in ("layout", "operators"):
        if key in found:
            row.setdefault(key, found[key])
    if "failure" in found:
        row.setdefault("refused", {})[runtime] = found["failure"]
        return
    row.setdefault("errors", {})[runtime] = {k: found[k] for k in ("mean_abs", "max_abs")}
    times = {t: [s and round(1e3 * s, 4) for s in seconds] for t, seconds in found["times"].items()}
    row.setdefault("milliseconds", {})[runtime] = times


def add_ratios(rows: dict[str, dict[str, Any]]) -> None:
    """Latency as median, and as the median over the rounds of its ratio to the best peer's."""
    peers = [tool.name for tool in TOOLS if not tool.ours]
    times = {name: row.pop("milliseconds", {}) for name, row in rows.items()}
    for name, row in rows.items():
        row["latency"] = {}
        for runtime, by_threads in times[name].items():
            for threads, own in by_threads.items():
                rivals = [times[p][runtime][threads] for p in peers if runtime in times[p]]
                found: dict[str, float] = {"ms": round(median(filter(None, own)), 3)}
                if rivals:  # where any peer's file runs there
                    best = min(rivals, key=lambda times: median(filter(None, times)))
                    pairs = zip(own, best, strict=True)
                    found["ratio"] = round(median(a / b for a, b in pairs if a and b), 3)
                row["latency"][f"{runtime}, {threads}"] = found


def describe(tool: Tool) -> dict[str, Any]:
    size = tool.environment.megabytes() if tool.environment else None
    facts = {"title": tool.title, "starts_from": tool.starts_from, "ours": tool.ours}
    return {**facts, "environment_mb": size}


def stage_python(image: str) -> Path:
    return locate_environment(load_image(image)) / "bin" / "python"


def run(command: Sequence[object]) -> None:
    finished = run_showing_lines([*map(str, command)], lambda line: None)
    if finished.status:
        raise SystemExit("\n".join(finished.lines[-20:]))


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.machine()}, {cores} cores, Linux"


def say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
