"""What the processes of a stage use, as /proc tells it: for machines without a control group."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from runner.engines.watch import Use


def tree_use(root: int) -> Use:
    """Memory and processes of a process and its descendants.

    In a process namespace that is all there are; otherwise what left its parent is not counted.
    """
    parents: dict[int, list[int]] = defaultdict(list)
    memory: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        status = _status(name)
        if "PPid" in status:
            number = int(name)
            parents[int(status["PPid"])].append(number)
            # Not files that are mapped: the samples are, and cost no memory of their own.
            pages = [status.get("RssAnon", "0"), status.get("RssShmem", "0")]
            memory[number] = sum(int(text.split()[0]) for text in pages) * 1024
    waiting, seen = [root], set()
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.add(number)
            waiting += parents[number]
    return Use(memory=sum(memory.get(number, 0) for number in seen), processes=len(seen))


def processes_of_user(user: int) -> int:
    """How many threads a user has now, whom the kernel counts as processes."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            status = _status(name)
            if status.get("Uid", "").split()[:1] == [str(user)]:
                count += int(status.get("Threads", "1"))
    return count


def _status(number: str) -> dict[str, str]:
    try:
        text = Path(f"/proc/{number}/status").read_text(errors="replace")
    except OSError:  # gone in this moment
        return {}
    return {
        key: value.strip() for key, _, value in (row.partition(":") for row in text.split("\n"))
    }
