"""Whose things are: what a live process has made is never taken for left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from runner.engines.process.environments import _held
from runner.errors import EnvironmentUnavailable
from runner.host.process_identity import find_abandoned_scratch, get_owner, get_process_id, is_alive
from runner.host.subprocesses import Programs

CODE = """
from runner.host.process_identity import get_owner, make_scratch_folder

with make_scratch_folder("owned") as folder:
    print(folder, get_owner(), sep="\\n", flush=True)
    input()
"""
OTHER_NAMESPACE = ("bwrap", "--bind", "/", "/", "--dev", "/dev", "--unshare-pid", "--proc", "/proc")


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    """A process that has a scratch folder, this folder, and what it says whose it is."""
    process = subprocess.Popen(
        [*request.param, sys.executable, "-c", CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    folder, name = (process.stdout.readline().rstrip("\n") for _ in range(2))
    yield process, Path(folder), name
    process.communicate("\n")


@pytest.mark.parametrize("runner", [()], indirect=True)
def test_what_a_killed_process_has_left(runner: tuple[subprocess.Popen[str], Path, str]) -> None:
    process, folder, name = runner
    assert is_alive(name) and folder not in find_abandoned_scratch()
    process.kill()
    process.wait()
    assert not is_alive(name)
    assert folder in find_abandoned_scratch()
    folder.rmdir()


@pytest.mark.parametrize("runner", [OTHER_NAMESPACE], indirect=True)
def test_a_process_in_another_namespace(runner: tuple[subprocess.Popen[str], Path, str]) -> None:
    """It shares the host's name and temporary folder, and its id means another process here."""
    _, folder, name = runner
    assert folder.is_dir() and folder not in find_abandoned_scratch()
    assert is_alive(name)


def test_an_id_that_is_used_again() -> None:
    number, started, namespace = get_process_id().split("-")
    host = get_owner().split(" ")[0]
    assert is_alive(get_owner())
    assert not is_alive(f"{host} {number} {int(started) - 1} {namespace}")
    assert is_alive(f"not-{host} {number} {int(started) - 1} {namespace}")
    assert not is_alive("")


def test_who_waits_for_another_run_can_be_ended(tmp_path: Path) -> None:
    shown: list[str] = []
    programs, lock = Programs(), FileLock(tmp_path / "lock")
    with FileLock(tmp_path / "lock"), pytest.raises(EnvironmentUnavailable):
        threading.Timer(1.5, programs.end).start()
        with _held(lock, programs, lambda text, fraction: shown.append(text)):
            pass
    assert not lock.is_locked
    with _held(lock, Programs(), lambda text, fraction: shown.append(text)):
        assert lock.is_locked
    assert not lock.is_locked and "waiting for another run" in shown
