"""Whether a file could run code: `runner.trust.scan` says so of whatever it is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fuzz import seeds
from fuzz.harness import Harness
from fuzz.parsers.models import PICKLES
from runner.trust.scan import find_code, find_code_in_torch_file

_SCRIPT = b"def forward(self,\n    x: Tensor) -> Tensor:\n  return torch.add(x, x, alpha=1)\n"
_WORDS = (b"ops.prim.", b"ops.aten.save", b"getattr(self, ", b"torch.save(", b"from_file", b"PK")


def _script(data: bytes, folder: Path) -> bool:
    """In this process: TorchScript's pickles are looked at, and not run."""
    path = folder / "model.pt"
    path.write_bytes(data)
    return find_code_in_torch_file(path, "torchscript") == ""


def _graph(data: bytes, folder: Path) -> bool:
    path = folder / "model.bin"
    path.write_bytes(data)
    return "" in {
        find_code(path, "onnx"),
        find_code(path, "frozen-graph"),
        find_code(path, "tflite"),
    }


def _weights(data: bytes, folder: Path) -> bool:
    """A pickle in both formats, followed by the process that does so."""
    path = folder / "model.pt"
    taken = False
    for content in (seeds.legacy(data), seeds.torch_zip(data)):
        path.write_bytes(content)
        said = find_code(path, "state-dict")
        assert said == "" or said.startswith("model.pt could run code: ")
        taken |= said == ""
    return taken


def _scripts() -> Sequence[bytes]:
    members = {
        "m/data.pkl": b"\x80\x02c__torch__\nNet\n)\x81.",
        "m/constants.pkl": b"\x80\x02).",
        "m/code/__torch__.py": _SCRIPT,
        "m/version": b"2\n",
        "m/data/0": bytes(48),
    }
    return [seeds.zipped(members)]


HARNESSES = [
    Harness("trust-torchscript", _scripts, _script, _WORDS),
    Harness("trust-graph", lambda: [seeds.graph_def(), seeds.onnx_model()], _graph),
    Harness("trust-weights", lambda: [seeds.state_dict(), seeds.checkpoint()], _weights, PICKLES),
]
