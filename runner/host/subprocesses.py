"""Running programs whose lines are shown as they come, and which never outlive their caller."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import EnvironmentUnavailable
from runner.host.process_identity import make_death_signal
from runner.host.text import split_lines

# How many of the last lines of a program are kept for its caller.
_KEPT_LINES = 1000
# How long output is still read after a program's end: its background processes may hold it open.
_AFTERWARDS_SECONDS = 1.0
# Time for a program to clean up after itself: mmdebstrap unmounts and removes its folder.
GRACE_SECONDS = 20


@dataclass(frozen=True)
class Finished:
    """How a program ended, and the last lines of its output and errors."""

    status: int
    lines: tuple[str, ...]


class Programs:
    """Programs that several threads run, and that can be ended together.

    An interrupt reaches the main thread only: the others would go on with their next program.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(
        self,
        command: Sequence[str],
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> Finished:
        """Run a program and pass its lines on; whatever interrupts the caller ends it too.

        `descriptors` are file descriptors that it inherits.
        """
        return self.follow(self.start(command, environment, folder, descriptors), on_line)

    def follow(self, process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> Finished:
        """Pass on the lines of a program that `start` has started, until it ends."""
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        try:
            for line in split_lines(_read_output(process)):
                lines.append(line)
                on_line(line)
            return Finished(process.wait(), tuple(lines))
        except BaseException:
            _end(process)
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()
            with self._lock:
                self._running.discard(process)

    @property
    def ended(self) -> bool:
        return self._ended

    def end(self) -> None:
        """End every running program, and let no other start."""
        with self._lock:
            self._ended = True
            running = tuple(self._running)
        _end(*running)

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program, for `follow`; it is ended by `end`, and with this process."""
        with self._lock:
            if self._ended:
                raise EnvironmentUnavailable(f"'{command[0]}' was not started any more.")
            try:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    cwd=folder,
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    # Its own group, so that its children can be ended with it.
                    start_new_session=True,
                    # If we are killed by SIGKILL, we cannot end it.
                    preexec_fn=make_death_signal(),
                )
            except FileNotFoundError:
                raise EnvironmentUnavailable(
                    f"The program '{command[0]}' is not on this machine.",
                    "Install it, or see runner doctor.",
                ) from None
            self._running.add(process)
        # Its background processes would otherwise hold its output open, and outlive it.
        threading.Thread(target=_sweep, args=(process,), daemon=True).start()
        return process


def run_together(jobs: Sequence[Callable[[Programs], None]], width: int) -> None:
    """Run jobs in threads, at most `width` at a time, that start their programs through `Programs`.

    Whatever interrupts the caller, or fails in one of them, ends the programs of all.
    """
    programs = Programs()
    with ThreadPoolExecutor(width) as pool:
        try:
            for started in [pool.submit(job, programs) for job in jobs]:
                started.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            programs.end()
            raise


def run_showing_lines(
    command: Sequence[str],
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """Run one program and pass its lines on; whatever interrupts the caller ends it too."""
    return Programs().run(command, on_line, environment, folder)


def _read_output(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield what a program prints until it ends, even if something else holds its output open."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    if not hasattr(select, "poll"):  # Windows, where no stage runs
        yield from iter(lambda: os.read(descriptor, 1 << 16), b"")
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    over: float | None = None
    while True:
        if poll.poll(100):
            block = os.read(descriptor, 1 << 16)
            if not block:
                return
            yield block
        elif over is not None:
            return
        if over is None and process.poll() is not None:
            over = time.monotonic()
        if over is not None and time.monotonic() > over + _AFTERWARDS_SECONDS:
            return


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a program and its process group."""
    _end_group(process, forcibly=True)


def _end_group(process: subprocess.Popen[Any], forcibly: bool) -> None:
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL if forcibly else signal.SIGTERM)
        else:  # Windows has no groups to end; nothing that is started there leaves children
            process.kill()


def _sweep(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    kill(process)


def _end(*processes: subprocess.Popen[bytes]) -> None:
    """End programs together: none goes on while another is waited for."""
    for forcibly in (False, True):
        for process in processes:
            _end_group(process, forcibly)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        if all(process.poll() is not None for process in processes):
            return
