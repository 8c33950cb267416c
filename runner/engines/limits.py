"""All resource limits of a stage in one place. `runner doctor` shows them.

Both engines enforce them, each by its own means; docs/security.md says which are hard and which are
watched. `--limit NAME=VALUE` changes one; `--timeout` is short for `--limit timeout=...`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from runner.errors import UsageError
from runner.host.files import format_bytes
from runner.host.machine import read_machine_memory

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
# The share of the machine's memory that stages get, so that the machine stays responsive.
_MEMORY_SHARE = 0.85
# If less than this share of memory is left, a stage that nothing else fully bounds is ended.
_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Limits:
    """What one stage may use, in bytes, seconds and counts.

    `memory` is 0 for a share of the machine's; `timeout` is 0 for none. `disk` limits everything
    that a stage leaves in the volume and in its temporary folder, `files` how many files that is;
    `free` is what must remain on the disk. `output` is what a stage may print, of which `log`
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

    def compute_stage_memory(self, machine: int) -> int:
        """Return the bytes of memory for a stage on a machine that has `machine` bytes."""
        return self.memory or int(machine * _MEMORY_SHARE)

    def describe(self) -> str:
        """Describe the limits in one line for `runner doctor`."""
        memory = format_bytes(self.memory) if self.memory else f"{_MEMORY_SHARE:.0%} of memory"
        timeout = f"{self.timeout} s" if self.timeout else "no timeout"
        return (
            f"A stage gets {timeout}, {memory}, {self.processes} processes, "
            f"{format_bytes(self.disk)} of disk in at most {self.files} files, "
            f"{format_bytes(self.temporary)} of /tmp; of {format_bytes(self.output)} of output "
            f"{format_bytes(self.log)} are kept."
        )


DEFAULTS = Limits()
NAMES = tuple(field.name for field in fields(Limits))
# Where 0 means something: no timeout, a share of the memory, no reserve.
_MAY_BE_ZERO = ("timeout", "memory", "free")


def parse_limits(items: Sequence[str], timeout: int | None = None) -> Limits:
    """Parse `NAME=VALUE` items, whose values may end in k, m, g or t. Raises `UsageError`."""
    changes = {}
    for item in items:
        name, equals, value = item.partition("=")
        number = parse_number(value)
        if name not in NAMES or not equals or number is None:
            raise UsageError(
                f"--limit {item} is not of the form NAME=NUMBER.",
                f"Such as memory=4g or processes=200; the names are {', '.join(NAMES)}.",
            )
        changes[name] = number
    if timeout is not None:
        changes["timeout"] = timeout
    for name, number in changes.items():
        if number < (0 if name in _MAY_BE_ZERO else 1) or number >= 1 << 62:
            raise UsageError(f"The limit {name}={number} is out of range.")
    return replace(DEFAULTS, **changes)


def parse_number(text: str) -> int | None:
    """Parse a count or a number of bytes, such as 4096, 500k or 4g; None if it is neither."""
    match = re.fullmatch(r"(\d{1,20})([kmgt]?)b?", text.strip().lower(), re.ASCII)
    return int(match[1]) * _UNITS[match[2]] if match else None


def compute_least_memory() -> int:
    """Return how many bytes of memory must stay available on this machine."""
    return int(read_machine_memory() * _LEAST_SHARE)
