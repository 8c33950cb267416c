"""Model files of PyTorch, and whatever else a user names: `identify_source`, `summarize`."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fuzz import seeds
from fuzz.harness import Harness
from runner.cli.inspection import render_inspection
from runner.errors import RunnerError
from runner.planning.source import identify_source, summarize
from runner.toolchains.load import load_toolchains

_PICKLE = (
    b"(",
    b"t",
    b"0",
    b"2",
    b"}",
    b"]",
    b")",
    b"R",
    b"b",
    b"s",
    b"u",
    b"e",
    b"q\x01",
    b"h\x01",
)
PICKLES = (
    *(*_PICKLE, b"\x85", b"\x86", b"\x87", b"\x93", b"\x94", b"\x81", b"\x92", b"\x8f", b"\x90"),
    *(b"Q", b"I9\n", b"\x8a\xff", b"\x8b\xff\xff\xff\x7f", b"cos\nsystem\n", b"X\x05\0\0\0model"),
    *(b"ccollections\nOrderedDict\n", b"\x8c\x05model", b"h\x00\x86q\x00", b"j\xff\xff\xff\xff"),
)


def read(data: bytes, folder: Path) -> bool:
    """Identify and summarise a file; whether it is told to be some model's."""
    path = folder / "file.bin"
    path.write_bytes(data)
    taken = False
    for chain in (chain for chain in load_toolchains() if chain.default):
        try:
            identify_source(chain, path)
            taken = True
        except RunnerError:
            pass
    try:
        found = summarize(path)
    except RunnerError:
        return taken
    found.to_json()
    Console(file=open("/dev/null", "w"), width=100).print(render_inspection(found))  # noqa: SIM115
    return taken or found.format != "other"


def _files() -> Sequence[bytes]:
    return [
        seeds.torch_zip(seeds.state_dict()),
        seeds.torch_zip(b"\x80\x02}.", script=True),
        seeds.zipped({"m/data.pkl": seeds.module(), "m/version": b"3\n"}, zipfile.ZIP_DEFLATED),
        seeds.legacy(seeds.state_dict()),
        seeds.legacy(seeds.module()),
        seeds.zipped({"model.weights.h5": b"x"}),
        b"\x89HDF\r\n\x1a\n" + b"\x02" + bytes(60) + b"model_config 2.4.0",
        b"\x10\0\0\0\0\0\0\0" + b'{"a":{"shape":[]}}',
        *(seeds.onnx_model(), seeds.graph_def(), seeds.saved_model(), seeds.tflite()),
    ]


def _pickles() -> Sequence[bytes]:
    made = [seeds.state_dict(), seeds.checkpoint(), seeds.module(), seeds.state_dict(4)]
    pairs = (
        b"\x80\x02ccollections\nOrderedDict\n](X\x01\0\0\0aK\x01\x86X\x01\0\0\0bK\x02\x86e\x85R."
    )
    return [*made, pairs]


def _pickled(data: bytes, folder: Path) -> bool:
    taken = False
    for file in (seeds.legacy(data), seeds.torch_zip(data), seeds.torch_zip(data, script=True)):
        taken |= read(file, folder)
    return taken


HARNESSES = [
    Harness("model-file", _files, read, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"TFL3")),
    Harness("pickle", _pickles, _pickled, PICKLES),
]
