"""A hundred published architectures through the chain, traced and scripted.

    python benchmarks/architectures.py [--only ResNeXt,BERT] [--work FOLDER]

Makes each model (benchmarks/architectures/), converts it with all fixes, in batches of a stage, and
judges it as the tests of the fixes do: within 1e-6, or twice PyTorch's own float32 rounding, by the
operators that are built into TensorFlow Lite. Writes docs/architectures.json and
docs/architectures.md; of architectures that are not asked for both keep what they have.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from batches import BATCH, DOCS, HERE, STAGES, prepare, run, run_batch

WAYS = ("traced", "scripted")
TOLERANCE = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--work", type=Path, help="keep the files here")
    arguments = parser.parse_args()
    prepare()
    names = [name for name in arguments.only.split(",") if name]
    with tempfile.TemporaryDirectory() as scratch:
        found = convert(arguments.work or Path(scratch), names)
    results = DOCS / "architectures.json"
    kept = json.loads(results.read_text()) if names and results.exists() else {}
    for entry in found:
        shown = {way: entry.get(way) for way in WAYS}
        print(entry["name"], *(f"{way}: {describe(shown[way])}" for way in WAYS), sep="  ")
    kept.update({entry["name"]: entry for entry in found})
    results.write_text(json.dumps(kept, indent=1) + "\n")
    (DOCS / "architectures.md").write_text(write_page(list(kept.values())))


def convert(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """Make and convert architectures, all of them where none is named; one entry each."""
    folder.mkdir(parents=True, exist_ok=True)
    if run("torch", HERE / "architectures" / "make.py", folder, *names):
        raise SystemExit("the models could not be made")
    entries = list(json.loads((folder / "architectures.json").read_text()).values())
    volumes = [f"{entry['key']}-{way}" for entry in entries for way in WAYS]
    volumes = [volume for volume in volumes if (folder / volume).is_dir()]
    for first in range(0, len(volumes), BATCH):
        batch = volumes[first : first + BATCH]
        for stage in STAGES:
            run_batch(stage, folder, batch)
        print(f"{first + len(batch)} of {len(volumes)} models", file=sys.stderr, flush=True)
    for entry in entries:
        for way in WAYS:
            volume = folder / f"{entry['key']}-{way}"
            entry[way] = judge(volume) if volume.is_dir() else None
    return entries


def judge(volume: Path) -> dict[str, Any]:
    """Tell how far a model came: its worst output's error, or why it was refused."""
    for stage in STAGES:
        file = volume / "reports" / f"{stage}.json"
        if not file.exists():
            return {"good": False, "reason": f"{stage}: the process ended"}
        report = json.loads(file.read_text())
        if report["status"] != "ok":
            text = report["error"]["message"].strip().splitlines()[0]
            return {"good": False, "reason": f"{stage}: {text[:300]}"}
    operators = report["operators"]
    flex = sorted(name for name in operators if name.startswith("Flex"))
    outputs = report["check"]["outputs"]
    wrong = {output["verdict"] for output in outputs} & {"shape", "nonfinite"}
    if wrong or flex:
        reason = (
            f"outputs of a wrong kind: {', '.join(sorted(wrong))}" if wrong else ", ".join(flex)
        )
        return {"good": False, "reason": f"tflite: {reason}", "operators": sum(operators.values())}
    worst = max(outputs, key=lambda output: output["mean_abs"] / allow(output))
    found = {
        "good": worst["mean_abs"] < allow(worst),
        "mean_abs": worst["mean_abs"],
        "noise_floor": worst["noise_floor"],
        "operators": sum(operators.values()),
    }
    if not found["good"]:
        found["reason"] = "tflite: more than rounding"
    return found


def allow(output: dict[str, Any]) -> float:
    """Return the mean error that an output may have."""
    return max(TOLERANCE, 2 * (output["noise_floor"] or 0.0))


def describe(result: dict[str, Any] | None) -> str:
    """Describe a result in a cell of a table."""
    if result is None:
        return "does not script"
    if "mean_abs" not in result:
        return "**" + result["reason"].replace("|", "\\|") + "**"
    floor = result["noise_floor"]
    times = f", {result['mean_abs'] / floor:.1f} × rounding" if floor else ""
    text = f"{result['mean_abs']:.1e}{times}, {result['operators']:,} operators"
    return text if result["good"] else f"**{text}**"


def write_page(entries: list[dict[str, Any]]) -> str:
    """Write docs/architectures.md."""
    traced = sum(entry["traced"]["good"] for entry in entries)
    scripted = [entry for entry in entries if entry["scripted"] is not None]
    good = sum(entry["scripted"]["good"] for entry in scripted)
    lines = [
        "# Published architectures",
        "",
        "Written by `python benchmarks/architectures.py`.",
        "",
        f"**Of {len(entries)} published architectures {traced} convert traced, and {good} of the "
        f"{len(scripted)} that torch 1.5.1 scripts convert scripted.**",
        "",
        "They were listed by name before any was tried, and none was left out since. Each is this "
        "project's own code ([benchmarks/architectures](../benchmarks/architectures)), small, with "
        "the operators and idioms of the paper and of code that people write for it, in the form "
        "that torch 1.5.1 scripts where it has one. *Traced* is a pickled module, *scripted* what "
        "`torch.jit.script` makes of it. One converts if its worst output's mean absolute error is "
        "below 1e-6, or below twice PyTorch's own float32 rounding, by TensorFlow Lite's builtin "
        "operators alone.",
        "",
        "| architecture | field | year | paper | traced | scripted |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        cells = [entry["name"], entry["field"], str(entry["year"]), entry["paper"]]
        cells += [describe(entry[way]) for way in WAYS]
        lines.append("| " + " | ".join(cells) + " |")
    refused = [entry for entry in entries if entry["does_not_script"]]
    if refused:
        lines += ["", "What does not script, by torch's own words:", ""]
        lines += [f"- {entry['name']}: {entry['does_not_script']}" for entry in refused]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
