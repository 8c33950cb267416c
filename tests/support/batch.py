"""Run one stage on many nets in one process, so that its imports are paid once.

    python batch.py STAGE FOLDER FIXES [NET ...]

FOLDER/NET is a net's volume. FIXES may be 'requested': then the requests in the volume name them.
Runs in the stage's own environment (Python 3.8); the torch stage also makes the models that are not
there (tests/support/nets.py). What comes of a net is in its report; see `stages/kit/contract.py`.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path

from stages.kit import contract

CONSUMES = {"onnx": "given.onnx", "onnx-tf": "model.onnx", "tflite": "model.pb"}
MODULES = {
    "torch": "torch_to_onnx",
    "onnx": "given_onnx",
    "onnx-tf": "onnx_to_graph",
    "tflite": "graph_to_tflite",
}


def main():
    stage, folder, fixes = sys.argv[1:4]
    names = sys.argv[4:]
    module = importlib.import_module("stages.convert." + MODULES[stage])
    for name in names:
        volume = Path(folder) / name
        if stage == "torch":
            if not (volume / "model.pt").exists():
                make(volume, name)
        elif not (volume / CONSUMES[stage]).exists():
            continue
        arguments = ["--volume", str(volume)]
        if stage != "tflite" and fixes != "requested":
            arguments.append("--fixes=" + fixes)
        log = open(str(volume / (stage + ".log")), "w")
        with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            contract.main(module.STAGE, arguments)


def make(volume, name):
    """Write a net's model and what to feed it."""
    import nets
    import torch

    model = nets.build(name)
    _, shapes, kinds = {**nets.NETS, **nets.REFUSED}[name]
    path = volume / "requests" / "torch.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    given = json.loads(path.read_text()) if path.exists() else {}
    save = torch.jit.save if isinstance(model, torch.jit.ScriptModule) else torch.save
    save(model, str(volume / "model.pt"))
    inputs = [
        {"name": "input_{}".format(i), "shape": list(shape), "dtype": kind}
        for i, (shape, kind) in enumerate(zip(shapes, kinds))
    ]
    path.write_text(json.dumps({"check": {"samples": 8}, "inputs": inputs, **given}))


if __name__ == "__main__":
    main()
