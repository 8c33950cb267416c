"""Finding a CPython of a given version on this machine, and telling exactly which one it is."""

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
from runner.packages.pip_settings import uv_environment
from runner.schemas.report import InterpreterRecord

# Prints what an interpreter says of itself, and the hash of the file that holds it. It runs under
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
    """A CPython that really runs: where it is, and which one exactly."""

    path: Path
    record: InterpreterRecord


def find_cpython(version: str, install: bool = True) -> Interpreter:
    """Find a CPython `version` ('3.8') that really runs.

    Looks at PATH, at pyenv's versions (its shims fail for inactive ones), at those that archives
    brought, at uv's own, and finally lets uv install the pinned one (if `install`). What is found
    then is remembered: one machine's environments keep their interpreter, and nobody asks again.
    Raises `EnvironmentUnavailable` if none of these has it.
    """
    remembered = _remembered(version)
    if remembered is not None:
        return remembered
    for source, candidate in _candidates(version, install):
        found = _probe(candidate, version, source)
        if found is not None:
            if install:
                _remember(version, found)
            return found
    raise EnvironmentUnavailable(
        f"CPython {version} is not on this machine, and uv could not install it.",
        f"Install it, for example with `uv python install {version}` or `pyenv install {version}`.",
    )


def _candidates(version: str, install: bool) -> Iterator[tuple[str, Path]]:
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield "path", Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    with suppress(OSError):  # another user's folder, perhaps
        installed = list((pyenv / "versions").glob(f"{version}.*/bin/python{version}"))
        for path in sorted(installed, key=_patch_release, reverse=True):
            yield "pyenv", path
    for path in sorted(interpreters_folder().glob(f"cpython-{version}.*/bin/python{version}")):
        yield "archive", path
    wanted, variables = _pinned(version)
    for request in dict.fromkeys((wanted, version)):
        for path in _uv("python", "find", "--managed-python", request):
            yield "uv", path
    if install and _uv_installs(wanted, variables):
        for path in _uv("python", "find", "--managed-python", wanted):
            yield "uv", path


def _patch_release(executable: Path) -> int:
    digits = executable.parents[1].name.rpartition(".")[2]
    return int(digits) if digits.isdigit() else -1


def _pinned(version: str) -> tuple[str, Mapping[str, str]]:
    """The release that uv is to install, and the variables that pin its build."""
    pins = tomllib.loads((ROOT / "images/cpython.toml").read_text())
    if version not in pins:
        return version, {}
    return pins[version]["version"], {"UV_PYTHON_CPYTHON_BUILD": pins[version]["build"]}


def _probe(executable: Path, version: str, source: str) -> Interpreter | None:
    """Ask an executable what it is; None if it does not run, or is another."""
    try:
        result = subprocess.run(
            [str(executable), "-I", "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        said = json.loads(result.stdout)
        if said["implementation"] != "cpython" or not said["version"].startswith(f"{version}."):
            return None
        return Interpreter(executable, read_probe(result.stdout, source))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return None


def read_probe(text: str | bytes, source: str) -> InterpreterRecord:
    """Read what PROBE has printed. Raises `ValueError` or `KeyError`."""
    said = json.loads(text)
    return InterpreterRecord(
        version=said["version"], build=said["build"], sha256=said["sha256"], source=source
    )


def _memory() -> Path:
    return cache_folder() / "cpython.json"


def _remembered(version: str) -> Interpreter | None:
    """The interpreter that was found before, if its file is as it was."""
    try:
        entry = json.loads(_memory().read_text())[version]
        path = Path(entry["path"])
        if entry["file"] != _file_state(path):
            return None
        return Interpreter(path, InterpreterRecord.model_validate(entry["record"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(version: str, found: Interpreter) -> None:
    with suppress(OSError):  # without a cache folder it is asked again each time
        try:
            known = json.loads(_memory().read_text())
        except (OSError, ValueError):
            known = {}
        known[version] = {
            "path": str(found.path),
            "file": _file_state(found.path),
            "record": found.record.model_dump(),
        }
        write_text(_memory(), json.dumps(known, indent=1) + "\n")


def _file_state(path: Path) -> list[int]:
    """What changes when another file takes an executable's place."""
    state = path.stat()
    return [state.st_ino, state.st_size, state.st_mtime_ns]


def _uv(*arguments: str) -> list[Path]:
    result = subprocess.run(
        [find_uv_bin(), *arguments],
        env=uv_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return [Path(line) for line in result.stdout.split("\n") if line]


def _uv_installs(version: str, variables: Mapping[str, str]) -> bool:
    result = subprocess.run(
        [find_uv_bin(), "python", "install", version],
        env={**uv_environment(), **variables},
        capture_output=True,
        check=False,
    )
    return result.returncode == 0
