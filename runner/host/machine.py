"""What this machine is and has, where Linux, macOS and Windows say so in different ways."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

# The only platform that the wheels of the stages' environments are for.
STAGES = ("linux", "x86_64")


def describe_platform() -> str:
    """Describe the platform in two words, such as 'macOS arm64'."""
    name = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)
    return f"{name} {platform.machine()}"


def runs_stages() -> bool:
    """Tell whether stages can run here without a container."""
    return (sys.platform, platform.machine()) == STAGES


def count_cores() -> int:
    """Count the cores that this process may use."""
    return len(list_own_cores()) or os.cpu_count() or 1


def list_own_cores() -> list[int]:
    """List the cores that this process is kept to; none where the system keeps it to no few."""
    # macOS and Windows have no such call.
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def keep_to_cores(cores: Collection[int]) -> None:
    """Keep this process, and what it starts, to these cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def read_machine_memory() -> int:
    """Return the size of this machine's memory in bytes, or 0 if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return 0


def read_available_memory() -> int | None:
    """Return the bytes of memory left without swapping, or None if the system does not say."""
    try:
        rows = dict(
            row.split(":", 1)
            for row in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        )
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def allocate(file: IO[bytes], size: int) -> None:
    """Fill an empty file up to `size` bytes on the disk. Raises `OSError`."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.write(bytes(size))
        file.flush()


def interrupt_on_signals() -> None:
    """Make SIGTERM, and the end of the terminal, clean up as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)
