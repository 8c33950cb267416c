"""Make the models of architectures, traced and scripted. Runs in the torch environment.

    python make.py FOLDER [NAME ...]

FOLDER/KEY-traced and FOLDER/KEY-scripted become volumes for the stages, with `model.pt` and the
request of the first stage. FOLDER/architectures.json tells what is known of each architecture, and
torch's reason where one does not script.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Dict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from architectures import registry

MODULES = (
    *("classification", "detection", "segmentation", "reading", "speech", "language", "graph"),
    *("generative", "recommendation", "video", "decisions"),
)
SAMPLES = 8


def main() -> None:
    folder, *names = sys.argv[1:]
    for module in MODULES:
        importlib.import_module("architectures." + module)
    torch.set_num_threads(1)
    unknown = set(names) - set(registry.ARCHITECTURES)
    if unknown:
        sys.exit("no such architecture: " + ", ".join(sorted(unknown)))
    found = {}
    # A process each: what torch 1.5.1's compiler keeps of one script breaks others.
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        wanted = names or list(registry.ARCHITECTURES)
        for made in pool.imap(make, [(folder, name) for name in wanted], chunksize=1):
            found[made["name"]] = made
    Path(folder, "architectures.json").write_text(json.dumps(found, indent=1))


def make(task: Any) -> Dict[str, Any]:
    """Write the models of one architecture; return what is known of it."""
    folder, name = task
    warnings.filterwarnings("ignore")
    architecture = registry.ARCHITECTURES[name]
    module = registry.build(name)
    key = re.sub(r"[^a-z0-9]+", "_", name.lower().replace("+", "p")).strip("_")
    save(Path(folder, key + "-traced"), architecture, lambda path: torch.save(module, path))
    scripted, reason = registry.script(module)
    if scripted is not None:
        save(Path(folder, key + "-scripted"), architecture, lambda path: scripted.save(path))
    return {
        "name": name,
        "key": key,
        "field": architecture.field,
        "year": architecture.year,
        "paper": architecture.paper,
        "parameters": sum(p.numel() for p in module.parameters()),
        "does_not_script": reason,
    }


def save(volume: Path, architecture: registry.Architecture, write: Any) -> None:
    (volume / "requests").mkdir(parents=True, exist_ok=True)
    write(str(volume / "model.pt"))
    inputs = []
    for number, given in enumerate(architecture.inputs):
        entry: Dict[str, Any] = {"name": "input_{}".format(number), "shape": list(given.shape)}
        entry["dtype"] = given.dtype
        if given.below:
            entry.update(low=0, high=given.below)
        inputs.append(entry)
    request = {"check": {"samples": SAMPLES}, "inputs": inputs}
    (volume / "requests" / "torch.json").write_text(json.dumps(request))


if __name__ == "__main__":
    main()
