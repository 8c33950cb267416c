"""An open batch through the chain: published architectures and the test nets, at 1, 2 and 7.

    python benchmarks/open_batch.py [--only ResNeXt,BERT] [--nets] [--work FOLDER]

Converts each architecture of benchmarks/architectures/, or with --nets each net of
tests/support/nets.py, with the first size of its inputs open, in batches of a stage, and reads
what the check found at each size, against PyTorch's own run at that size. Writes
docs/open-batch.json and the tables of docs/open-batch.md after each batch; of what is not asked for
both keep what they have. A run that was cut short goes on in the same FOLDER.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from batches import BATCH, DOCS, HERE, ROOT, STAGES, prepare, run, run_batch

BEGIN, END = "<!-- written by benchmarks/open_batch.py -->", "<!-- to here -->"
SUPPORT = ROOT / "tests" / "support"
# The nets of torchvision come first, and the architectures are of the same families.
_LARGE = 20
MAKE = (
    f"import sys; sys.path.insert(0, {str(SUPPORT)!r}); from pathlib import Path; import batch; "
    "[batch.make(Path(sys.argv[1]) / name, name) for name in sys.argv[2:]]"
)
LIST = "import sys, nets; open(sys.argv[1], 'w').write(' '.join(nets.NETS))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--nets", action="store_true", help="the nets of the tests")
    parser.add_argument("--work", type=Path, help="keep the files here")
    arguments = parser.parse_args()
    prepare()
    names = [name for name in arguments.only.split(",") if name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        entries = make_nets(folder, names) if arguments.nets else make_models(folder, names)
        # Of the others, the first size is that of something else.
        entries = [
            entry
            for entry in entries
            if open_inputs(folder / entry["key"] / "requests" / "torch.json")
        ]
        for first in range(0, len(entries), BATCH):
            batch = entries[first : first + BATCH]
            for stage in STAGES:
                done = f"reports/{stage}.json"
                keys = [e["key"] for e in batch if not (folder / e["key"] / done).exists()]
                run_batch(stage, folder, keys)
            found = [{**entry, **judge(folder / entry["key"])} for entry in batch]
            for entry in found:
                print(entry["name"], describe(entry), sep="  ", flush=True)
            write_results(found)


def make_models(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """Make the architectures; return an entry each, with its folder's name as `key`."""
    made = (folder / "architectures.json").exists()
    if not made and run("torch", HERE / "architectures" / "make.py", folder, *names):
        raise SystemExit("the models could not be made")
    listed = json.loads((folder / "architectures.json").read_text()).values()
    return [
        {"name": entry["name"], "field": entry["field"], "key": f"{entry['key']}-traced"}
        for entry in listed
    ]


def make_nets(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """Return an entry each for the nets of the tests, but for sweeps; the stage makes them."""
    listed = folder / "nets.txt"
    code = f"import sys; sys.path.insert(0, {str(SUPPORT)!r}); {LIST}"
    if run("torch", "-c", code, listed):
        raise SystemExit("the nets could not be listed")
    found = [name for name in listed.read_text().split() if not name.startswith("sweep_")]
    found = found[_LARGE:] if not names else found
    wanted = [name for name in found if not names or name in names]
    new = [name for name in wanted if not (folder / name / "model.pt").exists()]
    if new and run("torch", "-c", MAKE, folder, *new):
        raise SystemExit("the nets could not be made")
    return [{"name": name, "field": "test net", "key": name} for name in wanted]


def open_inputs(request: Path) -> bool:
    """Open the first size of each input of a request whose first size is 1; tell if any is."""
    data = json.loads(request.read_text())
    for entry in data["inputs"]:
        if entry["shape"][:1] == [1]:
            entry["dims"] = ["N", *[""] * (len(entry["shape"]) - 1)]
    request.write_text(json.dumps(data))
    return any("dims" in entry for entry in data["inputs"])


def judge(volume: Path) -> dict[str, Any]:
    """Tell how far a model came: the error at each size, or why it was refused."""
    fixes: set[str] = set()
    for stage in STAGES:
        file = volume / "reports" / f"{stage}.json"
        if not file.exists():
            return {"good": False, "reason": f"{stage}: the process ended"}
        report = json.loads(file.read_text())
        if report["status"] != "ok":
            text = report["error"]["message"].strip().splitlines()[0]
            return {"good": False, "reason": f"{stage}: {text[:400]}"}
        fixes |= {fix for fix in report.get("fixes", ()) if fix.startswith("open-")}
    flex = sorted(name for name in report["operators"] if name.startswith("Flex"))
    check = report["check"]
    errors = {1: max((o["mean_abs"] or 0.0 for o in check["outputs"]), default=0.0)}
    errors.update({at["size"]: at["value"] for at in check["sizes"]})
    found = {
        "good": check["verdict"] in ("passed", "rounding") and not flex and len(errors) == 3,
        "verdict": check["verdict"],
        "errors": errors,
        "fixes": sorted(fixes),
        "operators": sum(report["operators"].values()),
    }
    if not found["good"]:
        wrong = [f"at {at['size']}: {at['failure']}" for at in check["sizes"] if at["failure"]]
        found["reason"] = "tflite: " + "; ".join(wrong or flex or [check["verdict"]])
    return found


def describe(entry: dict[str, Any]) -> str:
    """Describe a result in one line."""
    if "errors" not in entry or entry.get("reason"):
        return entry["reason"]
    errors = ", ".join(f"{size}: {value:.1e}" for size, value in entry["errors"].items())
    return f"{errors}; {entry['operators']} operators; {', '.join(entry['fixes']) or 'no fix'}"


def write_results(found: list[dict[str, Any]]) -> None:
    """Write the results, and the tables of the page between its marks."""
    results = DOCS / "open-batch.json"
    kept = json.loads(results.read_text()) if results.exists() else {}
    kept.update({entry["name"]: entry for entry in found})
    results.write_text(json.dumps(kept, indent=1) + "\n")
    page = DOCS / "open-batch.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    entries = list(json.loads(results.read_text()).values())
    page.write_text(f"{before}{BEGIN}\n{write_tables(entries)}{END}{after}")


def write_tables(entries: list[dict[str, Any]]) -> str:
    """Write what converts, with its errors, and what is refused, with its reason."""
    good = [entry for entry in entries if entry["good"]]
    lines = [
        f"**Of {len(entries)} networks {len(good)} convert with an open batch and match PyTorch at "
        "1, 2 and 7.**",
        "",
        "| network | field | error at 1 | at 2 | at 7 | operators | fixes |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in good:
        errors = [f"{entry['errors'][size]:.1e}" for size in ("1", "2", "7")]
        cells = [entry["name"], entry["field"], *errors, f"{entry['operators']:,}"]
        lines.append(f"| {' | '.join([*cells, ', '.join(entry['fixes'])])} |")
    lines += ["", "| refused | why |", "|---|---|"]
    for entry in entries:
        if not entry["good"]:
            why = re.sub(r"\s+", " ", entry["reason"]).replace("|", "\\|")
            lines.append(f"| {entry['name']} | {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
