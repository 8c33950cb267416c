"""What commands cost, and what this machine has worked, for the benchmarks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time, and of the processors' time, of which the page says whose."""

    wall: float
    cpu: float


def count_cpu() -> float:
    """Count the seconds that this machine's cores have worked since it started (proc(5), stat).

    Of all processes: bubblewrap does not wait for what it isolates, so that the time of its
    children is nobody's.
    """
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
