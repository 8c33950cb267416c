"""Which process something belongs to, so that it can be told later whether that is still alive."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.host.files import remove_tree

_PR_SET_PDEATHSIG = 1


def owner() -> str:
    """This process: host, and `process_id`."""
    return f"{socket.gethostname()} {process_id().replace('-', ' ')}"


def is_alive(text: str) -> bool:
    """Whether the owner lives. One on another host counts as alive: nobody here can tell."""
    host, _, rest = text.partition(" ")
    process = rest.replace(" ", "-")
    if not is_process_id(process):
        return False
    return host != socket.gethostname() or is_running(process)


def process_id() -> str:
    """This process, on this machine, as a part of a file's name.

    Its id, when it started, since ids are used again, and in which namespace it has this id:
    containers may share a host's name, its temporary folder and its Docker engine.
    """
    return f"{os.getpid()}-{_started(os.getpid())}-{_namespace()}"


def is_process_id(text: str) -> bool:
    return re.fullmatch(r"[0-9]+-[0-9]+-[0-9]+", text) is not None


def is_running(text: str) -> bool:
    """Whether there still is the process that has this `process_id`.

    One of another namespace counts as running: nobody here can tell.
    """
    number, started, namespace = text.split("-")
    return namespace != _namespace() or _started(int(number)) == started


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A temporary folder whose name says whose it is, so that it is found if that one is killed."""
    prefix = f"runner-{purpose}-{process_id()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        remove_tree(folder)


def find_abandoned_scratch() -> list[Path]:
    """Temporary folders of processes of this machine that are no more."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob("runner-*-*-*-*-*")):
        process = "-".join(path.name.split("-")[-4:-1])
        if not is_process_id(process) or path.is_symlink():
            continue
        try:
            ours = path.stat().st_uid == os.getuid()
        except OSError:
            continue
        if ours and not is_running(process):
            found.append(path)
    return found


def make_death_signal() -> Callable[[], None] | None:
    """For a child to call before it runs its program: SIGTERM reaches it when this process ends.

    However this process ends, SIGKILL included. None where the system has no such thing.
    """
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it ended in between
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def _started(number: int) -> str:
    """In clock ticks since the machine's start; '' if there is no such process."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _namespace() -> str:
    """The namespace of process ids that this process lives in."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)
