"""Checks whether a model file could run code, or reach files, when a framework loads and runs it.

An engine that isolates its stages does not ask. Without one, a file is let through only if it is
shown to hold nothing of the kind; all others need --trust-model. docs/security.md explains why.

Nothing is run here, and what cannot be understood counts as code. Torch files are checked in a
separate process (`python -m runner.trust.scan FORMAT FILE`) with resource limits: a contrived
pickle can crash an unpickler, or keep it busy forever, without running anything.
"""

from __future__ import annotations

import mmap
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runner.host.paths import ROOT
from runner.schemas.inspection import Format
from runner.toolchains.load import load_all_images
from runner.trust.archives import ArchiveRefused, check_checkpoint, check_torchscript
from runner.trust.pickles import PickleRefused, check_legacy_file

# Limits on the check of one file: seconds of CPU time, and bytes of memory.
_MOST_SECONDS = 10
_MOST_BYTES = 4 << 30
# The key in `external_data` that names a file from which an ONNX model reads weights.
_EXTERNAL_DATA = re.compile(rb"location")


@dataclass(frozen=True)
class Rules:
    """What in a file counts as reaching beyond the process, in any environment that loads it."""

    graph: re.Pattern[bytes]
    torchscript: re.Pattern[bytes]
    builders: re.Pattern[str]


@cache
def join_rules() -> Rules:
    """Join what all images say about their frameworks: a file may be loaded in any of them."""
    reaches = [image.reach for image in load_all_images()]
    never = r"(?!)"

    def join_patterns(patterns: Iterable[str]) -> str:
        return "|".join(f"(?:{pattern})" for pattern in dict.fromkeys(patterns)) or never

    return Rules(
        graph=re.compile(join_patterns(p for r in reaches for p in r.graph).encode()),
        torchscript=re.compile(join_patterns(p for r in reaches for p in r.torchscript).encode()),
        builders=re.compile(join_patterns(p for r in reaches for p in r.builders), re.ASCII),
    )


def make_trust_check(
    files: Mapping[Path, Format],
    arch_file: Path | None = None,
    *,
    recorded: Collection[str] = (),
    trusted: bool,
) -> Callable[[], str]:
    """Return the check that an engine without isolation makes before running these files.

    The check returns what `find_code` does. `recorded` are values of --arch that the user did not
    give: they call what they name.
    """

    def check() -> str:
        if trusted:
            return ""
        if arch_file is not None:
            return f"{arch_file.name}, named by --arch, is a program."
        for arch in recorded:
            if arch and not join_rules().builders.fullmatch(arch):
                return f"The record says --arch {arch[:100]!r}, which may do anything."
        return next(filter(None, (find_code(path, form) for path, form in files.items())), "")

    return check


def find_code(path: Path, file_format: Format) -> str:
    """Say why this file could run code of its own, as a sentence; '' where it cannot."""
    name = path.name
    if file_format == "onnx":
        found = _search(path, _EXTERNAL_DATA)
        return f"{name} may read other files ('{found}' is in it)." if found else ""
    # Each of these may hold TensorFlow operators.
    if file_format in ("frozen-graph", "graph", "tflite"):
        found = _search(path, join_rules().graph)
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


def find_code_in_torch_file(path: Path, file_format: str) -> str:
    """Say the same as `find_code`, for torch files; it may crash or exhaust its process."""
    name = path.name
    try:
        if file_format == "torchscript":
            check_torchscript(path, join_rules().torchscript)
        elif _is_zip(path):
            check_checkpoint(path)
        else:
            check_legacy_file(path)
    except (PickleRefused, ArchiveRefused) as refused:
        return f"{name} could run code: {refused}."
    except Exception as error:  # a damaged or contrived file can raise anything
        return f"{name} could run code: it cannot be followed ({type(error).__name__})."
    return ""


def _main(file_format: str, path: str) -> None:
    import resource  # where no engine isolates the stages, which is on Linux

    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    said = find_code_in_torch_file(Path(path), file_format)
    sys.stdout.buffer.write(said.encode(errors="replace"))


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _search(path: Path, pattern: re.Pattern[bytes]) -> str:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return ""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        found = pattern.search(data)
        return found[0].decode("ascii", "replace").strip("\x12\x04\ufffd") if found else ""


if __name__ == "__main__":
    _main(*sys.argv[1:])
