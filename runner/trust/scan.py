"""Whether a model file could run code, or reach files, when the frameworks of 2020 load and run it.

An engine that isolates does not ask. Without one, what is let through has to be shown to hold
nothing of the kind; everything else needs --trust-model. docs/security.md gives the argument.

Everything here looks at bytes that were not run. What cannot be understood counts as code. Files of
torch are looked at by a process of its own (`python -m runner.trust.scan KIND FILE`), within
bounds: a contrived pickle can crash an unpickler, or keep it busy for ever, without running
anything.
"""

from __future__ import annotations

import mmap
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from runner.formats.model_file import Kind
from runner.host.paths import ROOT
from runner.trust.archives import ArchiveRefused, check_checkpoint, check_torchscript
from runner.trust.pickles import PickleRefused, check_legacy_file

# Operators of TensorFlow 2.2 and 2.4 that read or write files, call Python, or talk to others. A
# graph names its operators in plain bytes, in its functions too.
_GRAPH_OPERATORS = re.compile(
    rb"ReadFile|WriteFile|MatchingFiles|TextFile|ShardedFile|FileReader|Dataset|Iterator|Reader"
    rb"|PyFunc|PrintV2|SummaryWriter|SummaryDbWriter|SummaryFileWriter|Restore|SaveV2|SaveSlices"
    rb"|MergeV2Checkpoints|LoadAndRemapMatrix|GenerateVocabRemapping|FixedUnigramCandidateSampler"
    rb"|RecordInput|RemoteCall|DebugIdentity|DebugNumeric|DebugNan|debug_ops|Collective"
    rb"|Skipgram|DataService|ImmutableConst|Rpc|DecodeProto|EncodeProto|RemoteFusedGraph"
    # A string of 4 bytes, whatever field it is of: its length as a graph may write it, with bits
    # that are dropped, and as a TensorFlow Lite model may.
    rb"|(?:\x04\x00{0,7}|\x84[\x80-\xff]{0,9}[\x00-\x7f])Save|FlexSave"
)
# Of MODULE:CALLABLE, what is known to do no more than to build a model.
_BUILDS_A_MODEL = re.compile(r"torchvision\.models:[a-z]+[0-9a-z_]*", re.ASCII)
# What a model of each format may be taken for, by its file's name.
_BY_SUFFIX = {".onnx": Kind.ONNX, ".pb": Kind.FROZEN_GRAPH, ".tflite": Kind.TFLITE}
# For the check of one file, in seconds of the processor and bytes.
_MOST_SECONDS = 10
_MOST_BYTES = 4 << 30
# The key of `external_data`, by which an ONNX model names a file to read its weights from.
_EXTERNAL_DATA = re.compile(rb"location")


def asked_of(
    files: Mapping[Path, Kind],
    arch_file: Path | None = None,
    *,
    recorded: Collection[str] = (),
    trusted: bool,
) -> Callable[[], str]:
    """What an engine that does not isolate asks before it runs these files (see `code_in`).

    `recorded` are values of --arch that the user has not given himself: they call what they name.
    """

    def ask() -> str:
        if trusted:
            return ""
        if arch_file is not None:
            return f"{arch_file.name}, named by --arch, is a program."
        for arch in recorded:
            if arch and not _BUILDS_A_MODEL.fullmatch(arch):
                return f"The record says --arch {arch[:100]!r}, which may do anything."
        return next(filter(None, (code_in(path, kind) for path, kind in files.items())), "")

    return ask


def kind_of_artifact(path: Path) -> Kind:
    """What an artifact of a stage's is loaded as. Whatever is unknown counts as a program."""
    return _BY_SUFFIX.get(path.suffix, Kind.MODULE)


def code_in(path: Path, kind: Kind) -> str:
    """Why this file could run code of its own, as a sentence; empty where it cannot."""
    name = path.name
    if kind is Kind.ONNX:
        found = _search(path, _EXTERNAL_DATA)
        return f"{name} may read other files ('{found}' is in it)." if found else ""
    if kind in (Kind.FROZEN_GRAPH, Kind.TFLITE):  # which may hold TensorFlow's operators too
        found = _search(path, _GRAPH_OPERATORS)
        return f"{name} may read or write files ('{found}' is in it)." if found else ""
    if kind is Kind.MODULE:
        return f"{name} is a pickled module: to load it is to run what it says."
    command = [sys.executable, "-m", "runner.trust.scan", kind.name, str(path.absolute())]
    done = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, cwd=ROOT, check=False
    )
    if done.returncode:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else "it failed"
        return f"{name} could run code: it cannot be followed ({how})."
    return done.stdout.decode(errors="replace")


def code_in_torch_file(path: Path, kind: Kind) -> str:
    """As `code_in`, for files that torch reads; not for a process that has to live on."""
    name = path.name
    try:
        if kind is Kind.TORCHSCRIPT:
            check_torchscript(path)
        elif _is_zip(path):
            check_checkpoint(path)
        else:
            check_legacy_file(path)
    except (PickleRefused, ArchiveRefused) as refused:
        return f"{name} could run code: {refused}."
    except Exception as error:  # a damaged or contrived file raises anything at all
        return f"{name} could run code: it cannot be followed ({type(error).__name__})."
    return ""


def _main(kind: str, path: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    said = code_in_torch_file(Path(path), Kind[kind])
    sys.stdout.buffer.write(said.encode(errors="replace"))


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _search(path: Path, pattern: re.Pattern[bytes]) -> str:
    if not path.stat().st_size:  # of which no map can be made
        return ""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        found = pattern.search(data)
        return found[0].decode("ascii", "replace").strip("\x12\x04\ufffd") if found else ""


if __name__ == "__main__":
    _main(*sys.argv[1:])
