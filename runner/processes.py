"""Running a program whose lines are shown as they come, and which never outlives its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runner.errors import EnvironmentUnavailable
from runner.owner import ending_with_me

# Time for a program to clean up after itself: mmdebstrap unmounts and removes its folder.
GRACE_SECONDS = 20


@dataclass(frozen=True)
class Finished:
    """How a program ended, and every line of its output and errors."""

    status: int
    lines: tuple[str, ...]


class Programs:
    """Programs that several threads run, so that they can be ended together.

    An interrupt reaches the main thread alone: the others would go on with their next program.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def run(
        self,
        command: Sequence[str],
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Finished:
        """Run a program and hand its lines on. Whatever interrupts the caller ends it too."""
        lines: list[str] = []
        process = self._start(command, environment, folder)
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
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """End every program that is running, and let no other start."""
        with self._lock:
            self._ended = True
            running = tuple(self._running)
        _end(*running)

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str] | None, folder: Path | None
    ) -> subprocess.Popen[str]:
        with self._lock:
            if self._ended:
                raise EnvironmentUnavailable(f"'{command[0]}' was not started any more.")
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
                    # SIGKILL leaves us no time to end it.
                    preexec_fn=ending_with_me(),
                )
            except FileNotFoundError:
                raise EnvironmentUnavailable(
                    f"The program '{command[0]}' is not on this machine.",
                    "Install it, or see runner doctor.",
                ) from None
            self._running.add(process)
            return process


def run_showing_lines(
    command: Sequence[str],
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """Run one program and hand its lines on. Whatever interrupts the caller ends it too."""
    return Programs().run(command, on_line, environment, folder)


def _sweep(process: subprocess.Popen[str]) -> None:
    process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(*processes: subprocess.Popen[str]) -> None:
    """End programs together: while one is waited for, no other goes on."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        if all(process.poll() is not None for process in processes):
            return
