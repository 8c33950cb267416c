"""The search for a CPython of a given version on this machine, and its exact identity."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from runner.errors import EnvironmentUnavailable
from runner.host.compat import tomllib
from runner.host.files import write_text
from runner.host.paths import ROOT, cache_folder, interpreters_folder
from runner.packages.pip_settings import make_uv_environment
from runner.schemas.report import InterpreterRecord

# Prints what an interpreter says about itself, and the hash of the file that holds it. Runs under
# any version.
PROBE = """
import hashlib, json, os, platform, sys
binary = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
try:
    with open("/proc/self/maps") as maps:
        binary = next((line.split()[-1] for line in maps if "libpython" in line), binary)
except OSError:
    pass
with open(binary, "rb") as file:
    sha256 = hashlib.sha256(file.read()).hexdigest()
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": platform.python_version(),
    "build": " ".join(platform.python_build() + (platform.python_compiler(),)),
    "sha256": sha256,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A CPython that really runs: its path, and its exact identity."""

    path: Path
    record: InterpreterRecord


def find_cpython(version: str, install: bool = True) -> Interpreter:
    """Find a CPython `version` ('3.8') that really runs.

    Tries PATH, pyenv's versions (its shims fail for inactive ones), those that archives brought and
    uv's own, and finally lets uv install the pinned one (if `install`). With `install`, the result
    is remembered: a machine's environments keep their interpreter, and later calls skip the search.
    Raises `EnvironmentUnavailable` if none of these has it.
    """
    remembered = _recall(version)
    if remembered is not None:
        return remembered
    for source, candidate in _find_candidates(version, install):
        found = _probe(candidate, version, source)
        if found is not None:
            if install:
                _remember(version, found)
            return found
    raise EnvironmentUnavailable(
        f"CPython {version} is not on this machine, and uv could not install it.",
        f"Install it, for example with `uv python install {version}` or `pyenv install {version}`.",
    )


def _find_candidates(version: str, install: bool) -> Iterator[tuple[str, Path]]:
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield "path", Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    with suppress(OSError):  # another user's folder, perhaps
        installed = list((pyenv / "versions").glob(f"{version}.*/bin/python{version}"))
        for path in sorted(installed, key=_parse_patch_release, reverse=True):
            yield "pyenv", path
    for path in sorted(interpreters_folder().glob(f"cpython-{version}.*/bin/python{version}")):
        yield "archive", path
    wanted, variables = _read_pin(version)
    for request in dict.fromkeys((wanted, version)):
        for path in _run_uv("python", "find", "--managed-python", request):
            yield "uv", path
    if install and _install_with_uv(wanted, variables):
        for path in _run_uv("python", "find", "--managed-python", wanted):
            yield "uv", path


def _parse_patch_release(executable: Path) -> int:
    digits = executable.parents[1].name.rpartition(".")[2]
    return int(digits) if digits.isdigit() else -1


def _read_pin(version: str) -> tuple[str, Mapping[str, str]]:
    """Read the release that uv is to install, and the variables that pin its build."""
    pins = tomllib.loads((ROOT / "images/cpython.toml").read_text())
    if version not in pins:
        return version, {}
    return pins[version]["version"], {"UV_PYTHON_CPYTHON_BUILD": pins[version]["build"]}


def _probe(executable: Path, version: str, source: str) -> Interpreter | None:
    """Ask an executable what it is; return None if it does not run, or is another version."""
    try:
        result = subprocess.run(
            [str(executable), "-I", "-c", PROBE], capture_output=True, text=True, check=False
        )
        said = json.loads(result.stdout)
        if said["implementation"] != "cpython" or not said["version"].startswith(f"{version}."):
            return None
        return Interpreter(executable, read_probe(result.stdout, source))
    except (OSError, ValueError, KeyError):
        return None


def read_probe(text: str | bytes, source: str) -> InterpreterRecord:
    """Parse the output of PROBE. Raises `ValueError` or `KeyError`."""
    said = json.loads(text)
    return InterpreterRecord(
        version=said["version"], build=said["build"], sha256=said["sha256"], source=source
    )


def _get_memory_path() -> Path:
    return cache_folder() / "cpython.json"


def _recall(version: str) -> Interpreter | None:
    """Return the interpreter that was found before, if its file is unchanged."""
    try:
        entry = json.loads(_get_memory_path().read_text())[version]
        path = Path(entry["path"])
        if entry["file"] != _read_file_state(path):
            return None
        return Interpreter(path, InterpreterRecord.model_validate(entry["record"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(version: str, found: Interpreter) -> None:
    with suppress(OSError):  # without a cache folder, every call searches again
        try:
            known = json.loads(_get_memory_path().read_text())
        except (OSError, ValueError):
            known = {}
        known[version] = {
            "path": str(found.path),
            "file": _read_file_state(found.path),
            "record": found.record.model_dump(),
        }
        write_text(_get_memory_path(), json.dumps(known, indent=1) + "\n")


def _read_file_state(path: Path) -> list[int]:
    """Return numbers that change when another file takes an executable's place."""
    state = path.stat()
    return [state.st_ino, state.st_size, state.st_mtime_ns]


def _run_uv(*arguments: str) -> list[Path]:
    result = subprocess.run(
        [find_uv_bin(), *arguments],
        env=make_uv_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return [Path(line) for line in result.stdout.split("\n") if line]


def _install_with_uv(version: str, variables: Mapping[str, str]) -> bool:
    result = subprocess.run(
        [find_uv_bin(), "python", "install", version],
        env={**make_uv_environment(), **variables},
        capture_output=True,
        check=False,
    )
    return result.returncode == 0
