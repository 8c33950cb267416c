"""An image to build on: here, pulled, or refused with a reason."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from runner.engines.docker import images
from runner.engines.docker.base_image import copy_cpython
from runner.errors import EnvironmentUnavailable
from runner.host.subprocesses import Finished
from runner.packages.cpython import find_cpython

REFERENCE = "registry.example/base:1"


def make_client(here: bool) -> Any:
    """A Docker client that has the image, or no image at all."""

    def get(reference: str) -> None:
        if not here:
            raise docker.errors.ImageNotFound(reference)

    return SimpleNamespace(images=SimpleNamespace(get=get))


@pytest.mark.parametrize(
    ("status", "lines", "reason"),
    [
        (0, ("Pulling", "Status: Downloaded"), ""),
        (0, (), ""),
        (1, ("Pulling", "Error: no such host"), "Error: no such host"),
        (125, (), "docker pull ended with exit status 125"),
    ],
)
def test_a_failed_pull_always_has_a_reason(
    monkeypatch: pytest.MonkeyPatch, status: int, lines: tuple[str, ...], reason: str
) -> None:
    commands: list[Sequence[str]] = []

    def pull(command: Sequence[str], on_line: Callable[[str], None]) -> Finished:
        commands.append(command)
        return Finished(status, lines)

    monkeypatch.setattr(images, "run_showing_lines", pull)
    assert images._obtain(make_client(here=False), REFERENCE, print) == reason
    assert [(*command[:2], command[-1]) for command in commands] == [("docker", "pull", REFERENCE)]


def test_an_image_that_is_here_is_not_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "run_showing_lines", None)
    assert images._obtain(make_client(here=True), REFERENCE, print) == ""


def test_an_interpreter_is_copied_with_its_shared_library(tmp_path: Path) -> None:
    """The library's name has the ABI's flags up to Python 3.7: libpython3.7m.so.1.0."""
    tried = []
    for version in ("3.7", "3.8", "3.11", "3.12"):
        try:
            executable = find_cpython(version).path
        except EnvironmentUnavailable:
            continue
        copy_cpython(executable, version, tmp_path / version)
        copied = tmp_path / version / "bin" / f"python{version}"
        linked = subprocess.run(["ldd", str(executable.resolve())], capture_output=True, text=True)
        needed = re.findall(r"(libpython\S+) =>", linked.stdout)
        assert copied.is_file()
        assert all((tmp_path / version / "lib" / name).is_file() for name in needed), needed
        tried.append(version)
    assert "3.8" in tried  # the default toolchain's
