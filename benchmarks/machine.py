"""What this machine has worked, for benchmarks that count the processors' time."""

from __future__ import annotations

import os
from pathlib import Path


def count_cpu() -> float:
    """Count the seconds that this machine's cores have worked since it started (proc(5), stat).

    Of all processes: bubblewrap does not wait for what it isolates, so that the time of its
    children is nobody's.
    """
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
