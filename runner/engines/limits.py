"""The limits of a stage: all of them, in one place. `runner doctor` shows them.

Both engines keep them, each by its own means; docs/security.md says which are hard and which are
watched. `--limit NAME=VALUE` changes one, `--timeout` is short for `--limit timeout=...`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from runner.errors import BadInput
from runner.host.files import human_bytes

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
# Stages get this much of the machine's memory, so that the machine itself keeps breathing.
_MEMORY_SHARE = 0.85
# Of the machine's memory; below it a stage is ended where nothing else bounds all that it takes.
_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Limits:
    """What one stage may use. Bytes, seconds, counts.

    `memory` is 0 for a share of the machine's; `timeout` is 0 for none. `disk` bounds everything
    that a stage leaves in the volume and in its temporary folder, `files` how many files that is;
    `free` is what must be left on the disk. `output` is what a stage may print, of which `log`
    bytes are kept: the beginning and the end.
    """

    timeout: int = 6 * 3600
    memory: int = 0
    processes: int = 1024
    disk: int = 64 * 10**9
    files: int = 100_000
    temporary: int = 1 << 30
    free: int = 256 * 10**6
    output: int = 1 << 30
    log: int = 16 << 20

    def stage_memory(self, machine: int) -> int:
        """Bytes of memory for a stage on a machine that has this much."""
        return self.memory or int(machine * _MEMORY_SHARE)

    def describe(self) -> str:
        """One line for `runner doctor`."""
        memory = human_bytes(self.memory) if self.memory else f"{_MEMORY_SHARE:.0%} of memory"
        timeout = f"{self.timeout} s" if self.timeout else "no timeout"
        return (
            f"A stage gets {timeout}, {memory}, {self.processes} processes, "
            f"{human_bytes(self.disk)} of disk in at most {self.files} files, "
            f"{human_bytes(self.temporary)} of /tmp; of {human_bytes(self.output)} of output "
            f"{human_bytes(self.log)} are kept."
        )


DEFAULTS = Limits()
NAMES = tuple(field.name for field in fields(Limits))
# Where 0 means something: no timeout, a share of the memory, no reserve.
_MAY_BE_ZERO = ("timeout", "memory", "free")


def parse_limits(items: Sequence[str], timeout: int | None = None) -> Limits:
    """Limits from `NAME=VALUE` items; values may end in k, m, g or t. Raises `BadInput`."""
    changes = {}
    for item in items:
        name, equals, value = item.partition("=")
        number = parse_number(value)
        if name not in NAMES or not equals or number is None:
            raise BadInput(
                f"--limit {item} is not of the form NAME=NUMBER.",
                f"Such as memory=4g or processes=200; the names are {', '.join(NAMES)}.",
            )
        changes[name] = number
    if timeout is not None:
        changes["timeout"] = timeout
    for name, number in changes.items():
        if number < (0 if name in _MAY_BE_ZERO else 1) or number >= 1 << 62:
            raise BadInput(f"The limit {name}={number} is out of range.")
    return replace(DEFAULTS, **changes)


def parse_number(text: str) -> int | None:
    """A count or bytes, such as 4096, 500k or 4g; None if it is neither."""
    match = re.fullmatch(r"(\d{1,20})([kmgt]?)b?", text.strip().lower(), re.ASCII)
    return int(match[1]) * _UNITS[match[2]] if match else None


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def least_memory() -> int:
    """Bytes of memory that have to be left on this machine."""
    return int(machine_memory() * _LEAST_SHARE)


def available_memory() -> int | None:
    """Bytes that programs can still get without swapping; None where the system does not say."""
    try:
        rows = dict(row.split(":", 1) for row in Path("/proc/meminfo").read_text().splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
