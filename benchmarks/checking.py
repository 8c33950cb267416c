"""How fast the check runs, beside a bare loop over the same framework, and the runner's overhead.

    python benchmarks/checking.py [--model mobilenet_v2] [--size 224] [--samples 100] [--rounds 3]

Rounds interleave the two, since machines are noisy; the ratio is of the medians. Writes
benchmarks/checking.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from runner import convert
from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment
from runner.schemas.report import Report
from runner.toolchains.load import load_image

HERE = Path(__file__).resolve().parent
# Framework, the environment that has it, the artifact it runs.
LOOPS = [
    ("torch", "torch", "model.pt"),
    ("onnxruntime", "torch", "model.onnx"),
    ("tensorflow", "onnx-tf", "model.pb"),
    ("tflite", "tflite", "model.tflite"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenet_v2", help="of torchvision.models")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    images = [load_image(name) for name in ("torch", "onnx-tf", "tflite")]
    ProcessEngine().prepare(images, Observer())
    ours: dict[str, list[float]] = {name: [] for name, _, _ in LOOPS}
    bare: dict[str, list[float]] = {name: [] for name, _, _ in LOOPS}
    overheads: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = folder / "model.pt"
        run_in("torch", HERE / "make_model.py", arguments.model, arguments.size, model)
        inputs = folder / "inputs.npy"
        shape = f"1x3x{arguments.size}x{arguments.size}"
        run_in("torch", "-c", GENERATE, folder / "samples", arguments.samples, shape, inputs)
        for number in range(arguments.rounds):
            for engine in ("process", *docker_if_any()):
                report = convert(
                    model,
                    output=folder / f"{engine}-{number}",
                    engine=engine,
                    inputs=[shape],
                    samples=arguments.samples,
                )
                overheads.setdefault(engine, []).append(report.overhead_seconds)
                if engine == "process":
                    for name, seconds in check_seconds(report).items():
                        ours[name].append(seconds)
            for name, environment, artifact in LOOPS:
                path = model if name == "torch" else folder / f"process-{number}" / artifact
                output = run_in(environment, HERE / "bare_loop.py", name, path, inputs)
                bare[name].append(float(output.split()[-1]))
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    text = table(arguments, ours, bare, overheads)
    (HERE / "checking.md").write_text(text)
    print(text)


GENERATE = """
import sys
from pathlib import Path
from stages.kit.contract import Tensor
from stages.kit.samples import generate_inputs
folder, count, shape, target = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
generate_inputs(folder, [Tensor("input", tuple(map(int, shape.split("x"))), "float32")], count, 0)
(folder / "input-0.npy").replace(target)
"""


def check_seconds(report: Report) -> dict[str, float]:
    """Seconds of each framework's loop over all samples, the comparison included."""
    torch, onnx_tf, tflite = (record.report for record in report.stages)
    assert torch and onnx_tf and tflite and torch.check and onnx_tf.check and tflite.check
    return {
        "torch": torch.phases["reference"],
        "onnxruntime": torch.check.seconds,
        "tensorflow": onnx_tf.check.seconds,
        "tflite": tflite.check.seconds,
    }


def run_in(environment: str, *arguments: object) -> str:
    """Run Python in a stage's environment; its output."""
    python = locate_environment(load_image(environment)) / "bin" / "python"
    command = [str(python), *map(str, arguments)]
    result = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True)
    return result.stdout


def docker_if_any() -> list[str]:
    return (
        ["docker"]
        if subprocess.run(["docker", "info"], capture_output=True).returncode == 0
        else []
    )


def table(
    arguments: argparse.Namespace,
    ours: dict[str, list[float]],
    bare: dict[str, list[float]],
    overheads: dict[str, list[float]],
) -> str:
    lines = [
        "# The speed of the check",
        "",
        f"Written by `python benchmarks/checking.py`: {arguments.model} at {arguments.size}×"
        f"{arguments.size}, {arguments.samples} samples, median of {arguments.rounds} interleaved "
        f"rounds, {platform.machine()}, {len(os.sched_getaffinity(0))} cores.",
        "",
        "A bare loop is one session with default threads, outputs thrown away. Ours compares every "
        "output with PyTorch's as well.",
        "",
        "| framework | ours, s | bare loop, s | ratio |",
        "|---|---:|---:|---:|",
    ]
    for name in ours:
        mine, theirs = median(ours[name]), median(bare[name])
        lines.append(f"| {name} | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} |")
    lines += ["", "The runner's overhead: wall time less set-up and the stages' own.", ""]
    lines += ["| engine | overhead, s |", "|---|---:|"]
    lines += [f"| {engine} | {median(values):.2f} |" for engine, values in overheads.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
