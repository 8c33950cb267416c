"""Five networks through every toolchain, from one state_dict each.

    python benchmarks/toolchains.py [--engine process|docker|both] [--only 2022,2026] [--nets unet]

Makes the networks (benchmarks/peers/nets.py) in the environment of torch 1.5.1, with calibrated
BatchNorm, and converts each with `runner convert --toolchain`. Writes docs/toolchains.json and the
table of docs/toolchains.md; of what is not asked for both keep what they have.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `runner` is not installed

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment_python
from runner.toolchains.load import load_image, load_toolchains

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
RESULTS = ROOT / "docs" / "toolchains.json"
PAGE = ROOT / "docs" / "toolchains.md"
BEGIN, END = "<!-- table: benchmarks/toolchains.py -->", "<!-- end of the table -->"
# A network's class in nets.py, and its input.
NETS = {
    "example": ("DigitNet", "1x3x32x32"),
    "mobilenet_v2": ("MobileNetV2", "1x3x224x224"),
    "resnet18": ("ResNet18", "1x3x224x224"),
    "unet": ("UNet", "1x3x128x128"),
    "shufflenet_v2_x1_0": ("ShuffleNetV2", "1x3x224x224"),
}
SAMPLES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("process", "docker", "both"), default="process")
    parser.add_argument("--only", default="", help="toolchains, separated by commas")
    parser.add_argument("--nets", default="", help="networks, separated by commas")
    arguments = parser.parse_args()
    engines = ("process", "docker") if arguments.engine == "both" else (arguments.engine,)
    chains = [chain.title for chain in load_toolchains() if chain.accepts == "pytorch"]
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for net in choose(NETS, arguments.nets):
            weights = make_weights(net, Path(scratch))
            for chain in choose(chains, arguments.only):
                for engine in engines:
                    entry = convert(net, weights, chain, engine, Path(scratch))
                    results.setdefault(net, {}).setdefault(chain, {})[engine] = entry
                    print(net, chain, engine, describe(entry), sep="  ", flush=True)
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    write_table(results)


def choose(known: Iterable[str], wanted: str) -> list[str]:
    names = [name for name in wanted.split(",") if name]
    return [name for name in known if not names or name in names]


def make_weights(net: str, scratch: Path) -> Path:
    """Write a network's weights, in the form that every torch reads, and return their path."""
    image = load_image("torch")
    ProcessEngine().prepare([image], Observer())
    folder = scratch / f"weights-{net}"
    folder.mkdir()
    python = locate_environment_python(image)
    subprocess.run([python, PEERS / "make_model.py", net, "1", folder], check=True)
    return folder / "weights.pt"


def convert(net: str, weights: Path, chain: str, engine: str, scratch: Path) -> dict[str, Any]:
    """Convert by the real command, and return what its report says."""
    builder, shape = NETS[net]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "runner", "convert", "--model", weights),
                *("--arch", f"{PEERS / 'nets.py'}:{builder}", "--input", shape),
                *("--toolchain", chain, "--engine", engine, "--samples", str(SAMPLES)),
                *("--no-cache", "--no-diagnose", "--json", "--output", Path(folder) / "run"),
            ],
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=False,
        )
    if not done.stdout:
        return {"outcome": "refused", "why": done.stderr.strip().split("\n")[0]}
    report = json.loads(done.stdout)
    failed = next((s for s in report["stages"] if s["status"] == "failed"), None)
    if failed is not None:
        why = " ".join(failed["failure"].replace(str(Path.home()), "~").split())
        return {"outcome": "failed", "why": f"{failed['name']}: {why[:200]}"}
    last = report["stages"][-1]["report"]
    floors = [s["report"].get("noise_floor") for s in report["stages"] if s["report"]]
    floor = next((floor["outputs"] for floor in floors if floor and floor["outputs"]), None)
    return {
        "outcome": report["outcome"],
        "error": max(output["mean_abs"] for output in last["check"]["outputs"]),
        "floor": max(output["mean_abs"] for output in floor) if floor else None,
        "operators": sum(last["operators"].values()),
        "bytes": last["artifact"]["bytes"],
        "seconds": round(sum(stage["seconds"] for stage in report["stages"]), 1),
        "sha256": {
            stage["report"]["artifact"]["path"]: stage["report"]["artifact"]["sha256"]
            for stage in report["stages"]
        },
    }


def describe(entry: dict[str, Any]) -> str:
    if "why" in entry:
        return f"{entry['outcome']}: {entry['why']}"
    return f"{entry['outcome']}, error {entry['error']:.1e}, {entry['operators']} operators"


def write_table(results: dict[str, Any]) -> None:
    """Write the table between its two marks in the page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{make_table(results)}\n{END}{after}")


def make_table(results: dict[str, Any]) -> str:
    lines = []
    for net, chains in results.items():
        lines += [f"**{net}**", ""]
        lines.append(
            "| toolchain | result | mean error (noise floor) | operators | kB | same bytes |"
        )
        lines.append("|---|---|---|---|---|---|")
        lines += [f"| `{chain}` | {make_row(engines)} |" for chain, engines in chains.items()]
        lines.append("")
    return "\n".join(lines)


def make_row(engines: dict[str, Any]) -> str:
    entry = engines.get("process") or engines["docker"]
    if "why" in entry:
        return f"{entry['outcome']}: {entry['why'].replace('|', ' ')} | | | | "
    hashes = [engine["sha256"] for engine in engines.values() if "sha256" in engine]
    same = "one engine tried" if len(hashes) < 2 else "yes" if hashes[0] == hashes[1] else "no"
    floor = "unknown" if entry["floor"] is None else f"{entry['floor']:.1e}"
    operators = entry["operators"] or "not told"
    return (
        f"{entry['outcome']} | {entry['error']:.1e} ({floor}) | {operators} "
        f"| {entry['bytes'] / 1000:,.0f} | {same}"
    )


if __name__ == "__main__":
    main()
