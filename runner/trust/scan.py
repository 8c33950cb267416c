"""Whether a model file could run code, or reach files, when a framework loads and runs it.

An engine that isolates does not ask. Without one, what is let through has to be shown to hold
nothing of the kind; everything else needs --trust-model. docs/security.md gives the argument.

Everything here looks at bytes that were not run. What cannot be understood counts as code. Files of
torch are looked at by a process of its own (`python -m runner.trust.scan FORMAT FILE`), within
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
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runner.host.paths import ROOT
from runner.schemas.inspection import Format
from runner.toolchains.load import all_images
from runner.trust.archives import ArchiveRefused, check_checkpoint, check_torchscript
from runner.trust.pickles import PickleRefused, check_legacy_file

# For the check of one file, in seconds of the processor and bytes.
_MOST_SECONDS = 10
_MOST_BYTES = 4 << 30
# The key of `external_data`, by which an ONNX model names a file to read its weights from.
_EXTERNAL_DATA = re.compile(rb"location")


@dataclass(frozen=True)
class Rules:
    """What in a file counts as reaching beyond the process, over the environments that load it."""

    graph: re.Pattern[bytes]
    torchscript: re.Pattern[bytes]
    builders: re.Pattern[str]


@cache
def all_rules() -> Rules:
    """Join what every image says of its framework: a file may be loaded in any of them."""
    reaches = [image.reach for image in all_images()]
    never = r"(?!)"

    def joined(patterns: Iterable[str]) -> str:
        return "|".join(f"(?:{pattern})" for pattern in dict.fromkeys(patterns)) or never

    return Rules(
        graph=re.compile(joined(p for r in reaches for p in r.graph).encode()),
        torchscript=re.compile(joined(p for r in reaches for p in r.torchscript).encode()),
        builders=re.compile(joined(p for r in reaches for p in r.builders), re.ASCII),
    )


def make_trust_check(
    files: Mapping[Path, Format],
    arch_file: Path | None = None,
    *,
    recorded: Collection[str] = (),
    trusted: bool,
) -> Callable[[], str]:
    """Return what an engine that does not isolate asks before it runs these files (see `code_in`).

    `recorded` are values of --arch that the user has not given himself: they call what they name.
    """

    def check() -> str:
        if trusted:
            return ""
        if arch_file is not None:
            return f"{arch_file.name}, named by --arch, is a program."
        for arch in recorded:
            if arch and not all_rules().builders.fullmatch(arch):
                return f"The record says --arch {arch[:100]!r}, which may do anything."
        return next(filter(None, (code_in(path, form) for path, form in files.items())), "")

    return check


def code_in(path: Path, file_format: Format) -> str:
    """Say why this file could run code of its own, as a sentence; '' where it cannot."""
    name = path.name
    if file_format == "onnx":
        found = _search(path, _EXTERNAL_DATA)
        return f"{name} may read other files ('{found}' is in it)." if found else ""
    # Either may hold TensorFlow's operators.
    if file_format in ("frozen-graph", "graph", "tflite"):
        found = _search(path, all_rules().graph)
        return f"{name} may read or write files ('{found}' is in it)." if found else ""
    if file_format == "torch-module":
        return f"{name} is a pickled module: to load it is to run what it says."
    command = [sys.executable, "-m", "runner.trust.scan", file_format, str(path.absolute())]
    done = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, cwd=ROOT, check=False
    )
    if done.returncode:
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else "it failed"
        return f"{name} could run code: it cannot be followed ({how})."
    return done.stdout.decode(errors="replace")


def code_in_torch_file(path: Path, file_format: str) -> str:
    """Say what `code_in` says, of files that torch reads; not for a process that has to live on."""
    name = path.name
    try:
        if file_format == "torchscript":
            check_torchscript(path, all_rules().torchscript)
        elif _is_zip(path):
            check_checkpoint(path)
        else:
            check_legacy_file(path)
    except (PickleRefused, ArchiveRefused) as refused:
        return f"{name} could run code: {refused}."
    except Exception as error:  # a damaged or contrived file raises anything at all
        return f"{name} could run code: it cannot be followed ({type(error).__name__})."
    return ""


def _main(file_format: str, path: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    said = code_in_torch_file(Path(path), file_format)
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
