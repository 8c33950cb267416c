"""Process identity: which process something belongs to, and whether that is still alive."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.host.files import remove_tree

_PR_SET_PDEATHSIG = 1
_PROC = Path("/proc")


def get_owner() -> str:
    """Identify this process by its host and its `get_process_id`."""
    return f"{socket.gethostname()} {get_process_id().replace('-', ' ')}"


def is_alive(text: str) -> bool:
    """Tell whether an owner is alive; one on another host counts as alive: nobody here can tell."""
    host, _, rest = text.partition(" ")
    process = rest.replace(" ", "-")
    if not is_process_id(process):
        return False
    return host != socket.gethostname() or is_running(process)


def get_process_id() -> str:
    """Identify this process on this machine, in a form that fits into the name of a file.

    The parts are its id, its start time (ids are reused) and its PID namespace (containers may
    share a host's name, its temporary folder and its Docker engine).
    """
    return f"{os.getpid()}-{_read_start_time(os.getpid())}-{_get_namespace()}"


def is_process_id(text: str) -> bool:
    return re.fullmatch(r"[0-9]+-[0-9]+-[0-9]+", text) is not None


def is_running(text: str) -> bool:
    """Tell whether the process that has this `get_process_id` still exists.

    One of another namespace counts as running: nobody here can tell.
    """
    number, started, namespace = text.split("-")
    return namespace != _get_namespace() or _read_start_time(int(number)) == started


@contextmanager
def make_scratch_folder(purpose: str) -> Iterator[Path]:
    """Make a temporary folder named after this process, so that it is found if that is killed."""
    prefix = f"runner-{purpose}-{get_process_id()}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        remove_tree(folder)


def find_abandoned_scratch() -> list[Path]:
    """Find the user's temporary folders of processes of this machine that no longer exist."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob("runner-*-*-*-*-*")):
        process = "-".join(path.name.split("-")[-4:-1])
        if not is_process_id(process) or path.is_symlink():
            continue
        try:
            # Windows gives each user a temporary folder of their own.
            ours = not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()
        except OSError:
            continue
        if ours and not is_running(process):
            found.append(path)
    return found


def make_death_signal() -> Callable[[], None] | None:
    """Return a function for a child to call before exec: it gets SIGTERM when this process ends.

    That holds even if SIGKILL ends this process. None if the system has no such thing.
    """
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError, TypeError):  # macOS has no prctl, Windows no such library
        return None
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # the parent ended in between
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def _read_start_time(number: int) -> str:
    """Read when a process started, in clock ticks since boot; '' if there is no such process.

    It is '0' for any process that exists, or may exist, where the system does not say when.
    """
    if not (_PROC / "self").exists():
        return "0" if _may_exist(number) else ""
    try:
        return (_PROC / f"{number}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _get_namespace() -> str:
    """Return the PID namespace of this process; '0' where there is no such thing."""
    return str((_PROC / "self/ns/pid").stat().st_ino) if (_PROC / "self").exists() else "0"


def _may_exist(number: int) -> bool:
    if sys.platform == "win32":
        return True  # there, os.kill() would end it
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
