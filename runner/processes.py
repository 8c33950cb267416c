"""Running a program whose lines are shown as they come, and which never outlives its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.errors import EnvironmentUnavailable

# Time for a program to clean up after itself: mmdebstrap unmounts and removes its folder.
GRACE_SECONDS = 20

_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Finished:
    """How a program ended, and every line of its output and errors."""

    status: int
    lines: tuple[str, ...]


def run_showing_lines(
    command: Sequence[str],
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """Run a program and hand its lines on. Whatever interrupts the caller ends the program too."""
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Its own group, so that its children can be ended with it.
            start_new_session=True,
        )
    except FileNotFoundError:
        raise EnvironmentUnavailable(
            f"The program '{command[0]}' is not on this machine.",
            "Install it, or see runner doctor.",
        ) from None
    _running.add(process)
    # What it leaves running in the background would hold its output open, and outlive it.
    threading.Thread(target=_sweep, args=(process,), daemon=True).start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            on_line(lines[-1])
        return Finished(process.wait(), tuple(lines))
    except BaseException:
        _end(process)
        raise
    finally:
        _running.discard(process)


def end_running() -> None:
    """End every program that is running now: an interrupt reaches the main thread alone."""
    for process in tuple(_running):
        _end(process)


def _sweep(process: subprocess.Popen[str]) -> None:
    process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return
