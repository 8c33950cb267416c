"""Which process something belongs to, so that it can be told later whether that is still alive."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def owner() -> str:
    """This process: host, process id, and when it started, since ids are used again."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def is_alive(text: str) -> bool:
    """Whether the owner lives. One on another host counts as alive: nobody here can tell."""
    host, _, rest = text.partition(" ")
    number, _, started = rest.partition(" ")
    if not number.isdigit():
        return False
    if host != socket.gethostname():
        return True
    return started != "" and _started(int(number)) == started


def _started(number: int) -> str:
    """In clock ticks since the machine's start; '' if there is no such process."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
