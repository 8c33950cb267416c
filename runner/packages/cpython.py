"""Finding a CPython of a given version on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from uv import find_uv_bin

from runner.errors import EnvironmentUnavailable
from runner.host.paths import interpreters_folder
from runner.packages.pip_settings import uv_environment


def find_cpython(version: str, install: bool = True) -> Path:
    """The executable of a CPython `version` ('3.8') that really runs.

    Looks at PATH, at pyenv's versions (its shims fail for inactive ones), at those that archives
    brought, at uv's own, and finally lets uv install one (if `install`). Raises
    `EnvironmentUnavailable` if none of these has it.
    """
    for candidate in _candidates(version, install):
        if _runs(candidate, version):
            return candidate
    raise EnvironmentUnavailable(
        f"CPython {version} is not on this machine, and uv could not install it.",
        f"Install it, for example with `uv python install {version}` or `pyenv install {version}`.",
    )


def _candidates(version: str, install: bool) -> Iterator[Path]:
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    with suppress(OSError):  # another user's folder, perhaps
        installed = list((pyenv / "versions").glob(f"{version}.*/bin/python{version}"))
        yield from sorted(installed, key=_patch_release, reverse=True)
    yield from sorted(interpreters_folder().glob(f"cpython-{version}.*/bin/python{version}"))
    yield from _uv("python", "find", "--managed-python", version)
    if install and _uv_installs(version):
        yield from _uv("python", "find", "--managed-python", version)


def _patch_release(executable: Path) -> int:
    digits = executable.parents[1].name.rpartition(".")[2]
    return int(digits) if digits.isdigit() else -1


def _runs(executable: Path, version: str) -> bool:
    script = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    try:
        result = subprocess.run(
            [str(executable), "-I", "-c", script],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.stdout.split() == ["cpython", version]


def _uv(*arguments: str) -> list[Path]:
    result = subprocess.run(
        [find_uv_bin(), *arguments],
        env=uv_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return [Path(line) for line in result.stdout.split("\n") if line]


def _uv_installs(version: str) -> bool:
    result = subprocess.run(
        [find_uv_bin(), "python", "install", version],
        env=uv_environment(),
        capture_output=True,
        check=False,
    )
    return result.returncode == 0
