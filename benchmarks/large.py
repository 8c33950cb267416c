"""A large model by this project, and by the bare tools of its stages, one after the other.

    python benchmarks/large.py [--arch vgg11] [--work FOLDER]

Makes a traced archive of one of torchvision's architectures, converts it with one sample, and runs
the call of each tool that does the stage's work, in the same environment. Writes
benchmarks/large.md: seconds, and the peak memory as a multiple of the model. Nothing else should
run; takes some minutes and 10 GB of memory for 531 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment_python
from runner.toolchains.load import load_image, load_toolchain

HERE = Path(__file__).resolve().parent
MAKE = """
import sys, torch, torchvision
torch.manual_seed(0)
model = getattr(torchvision.models, sys.argv[1])(pretrained=False).eval()
torch.jit.save(torch.jit.trace(model, torch.rand(1, 3, 224, 224)), sys.argv[2])
torch.save(model.state_dict(), sys.argv[3])
"""
# The tools by themselves. A traced archive is not exported by torch 1.5.1 alone: the module is.
BARE = {
    "torch": """
import sys, torch, torchvision
model = getattr(torchvision.models, sys.argv[2])(pretrained=False).eval()
model.load_state_dict(torch.load("weights.pt"))
torch.onnx.export(model, torch.rand(1, 3, 224, 224), "bare.onnx", opset_version=11,
    input_names=["input"], output_names=["output"])
""",
    "onnx-tf": """
import onnx, onnx_tf.backend
onnx_tf.backend.prepare(onnx.load("bare.onnx"), device="CPU").export_graph("bare.pb")
""",
    # onnx-tf's graph is NCHW, which no CPU converts: this project's stands in for it.
    "tflite": """
import sys
import tensorflow as tf
converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
    sys.argv[1] + "/model.pb", ["input"], ["output"], {"input": [1, 3, 224, 224]})
open("bare.tflite", "wb").write(converter.convert())
""",
}
PEAK = """
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="vgg11")
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (arguments.work or Path(scratch)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        text = measure(arguments.arch, work)
    (HERE / "large.md").write_text(text)
    print(text)


def measure(arch: str, work: Path) -> str:
    toolchain = load_toolchain()
    images = {stage.name: load_image(stage.image) for stage in toolchain.stages}
    ProcessEngine().prepare(list(images.values()), Observer())
    pythons = {name: locate_environment_python(image) for name, image in images.items()}
    run([pythons["torch"], "-c", MAKE, arch, "model.pt", "weights.pt"], work)
    size = (work / "model.pt").stat().st_size
    begin = time.perf_counter()
    run(
        [
            *(sys.executable, "-m", "runner", "convert", "--model", "model.pt", "--samples", "1"),
            *("--input", "1x3x224x224", "--engine", "process", "--output", "run", "--quiet"),
        ],
        work,
        {"RUNNER_STAGE_CACHE": "0", "RUNNER_TRUST_MODEL": "true"},
    )
    wall = time.perf_counter() - begin
    report = json.loads((work / "run" / "report.json").read_text())
    rows = []
    for record in report["stages"]:
        name = record["name"]
        begin = time.perf_counter()
        program = BARE[name] + PEAK
        said = run([pythons[name], "-W", "ignore", "-c", program, str(work / "run"), arch], work)
        bare, peak = time.perf_counter() - begin, int(said.split()[-1]) * 1024
        own = record["report"]
        check = own["phases"]["check"] + own["phases"].get("noise floor", 0)
        rows.append(
            f"| {name} | {record['seconds']:.0f} | {check:.0f} "
            f"| {own['peak_memory_bytes'] / size:.1f} | {bare:.0f} | {peak / size:.1f} |"
        )
    table = "\n".join(rows)
    return f"""# A large model

Written by `python benchmarks/large.py`: {arch} as a traced archive of {size / 1e6:.0f} MB, one
sample, process engine, {len(os.sched_getaffinity(0))} cores. The whole command took {wall:.0f} s,
which is {wall / (size / 1e8):.1f} s for 100 MB; {report["overhead_seconds"]:.0f} s of it were the
host's: reading, hashing, copying and syncing files. Beside each stage, the call of its tool alone,
its imports included. Memory is the process's peak, as a multiple of the model.

| stage | seconds | of these: checks | memory | tool alone: seconds | memory |
|---|---:|---:|---:|---:|---:|
{table}

No stage needs more memory than its tool. PyTorch's exporter and TensorFlow's converter hold the
weights several times by themselves, so three times the model is out of their reach.
"""


def run(command: list[Any], folder: Path, environment: dict[str, str] | None = None) -> str:
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout


if __name__ == "__main__":
    main()
