"""The programs that a worker keeps for its conversions: see `runner.suite.jobs.job`.

To import what a conversion needs takes a tenth of a small one's time, and it is the same for all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runner.host.paths import PACKAGE
from runner.host.process_identity import make_death_signal
from runner.host.subprocesses import kill
from runner.suite.jobs.job import ENDED

_idle: list[subprocess.Popen[str]] = []
_lock = threading.Lock()


def run_job(file: Path, on_line: Callable[[str], None]) -> int:
    """Do the job in a file, in a process of its own; pass on its lines and return its status.

    The status is negative if a signal ended the process.
    """
    with _lock:
        server = _idle.pop() if _idle else None
    if server is None or server.poll() is not None:
        server = _start()
    try:
        status = _ask(server, file, on_line)
    except BaseException:
        kill(server)
        raise
    if status is None:
        kill(server)
        return server.wait() or -1
    with _lock:
        _idle.append(server)
    return status


def _start() -> subprocess.Popen[str]:
    found = (str(PACKAGE.parent), os.environ.get("PYTHONPATH", ""))
    return subprocess.Popen(
        [sys.executable, "-m", "runner.suite.jobs.job"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        # If this worker is killed, it cannot end it.
        preexec_fn=make_death_signal(),
    )


def _ask(server: subprocess.Popen[str], file: Path, on_line: Callable[[str], None]) -> int | None:
    """Return the status of the job's process; None if the server itself has ended."""
    assert server.stdin is not None and server.stdout is not None
    with suppress(BrokenPipeError):
        # As it is now: the server has that of its own start.
        server.stdin.write(json.dumps([str(file), dict(os.environ)]) + "\n")
        server.stdin.flush()
    for line in server.stdout:
        line = line.rstrip("\n")
        status = _read_status(line)
        if status is not None:
            return status
        on_line(line)
    return None


def _read_status(line: str) -> int | None:
    try:
        event = json.loads(line)
        return int(event["status"]) if event["event"] == ENDED else None
    except (ValueError, TypeError, KeyError):
        return None
