"""The resource usage of a stage's processes by /proc, for machines without a control group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from runner.engines.watchdog import ResourceUsage


def measure_tree(*roots: int) -> ResourceUsage:
    """Measure the memory and the number of processes: these and their descendants.

    In a process namespace these are all processes; elsewhere, one that left its parent is not
    counted.
    """
    children: dict[int, list[int]] = defaultdict(list)
    memory: dict[int, int] = {}
    for number, status in _iterate_processes():
        children[int(status.get("PPid", "0"))].append(number)
        # Not mapped files: the samples are mapped, and cost no memory of their own.
        pages = [status.get("RssAnon", "0"), status.get("RssShmem", "0")]
        memory[number] = sum(int(text.split()[0]) for text in pages) * 1024
    waiting, seen = list(roots), set()
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.add(number)
            waiting += children[number]
    return ResourceUsage(memory=sum(memory.get(number, 0) for number in seen), processes=len(seen))


def count_threads_of_user(user: int) -> int:
    """Count a user's threads, which the kernel counts as processes."""
    return sum(
        int(status.get("Threads", "1"))
        for _, status in _iterate_processes()
        if status.get("Uid", "").split()[:1] == [str(user)]
    )


def _iterate_processes() -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each process, and the rows of its status."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # A process's name may contain any kind of line break but this one.
            rows = (folder / "status").read_bytes().decode(errors="replace").split("\n")
        except OSError:  # it has just ended
            continue
        pairs = (row.partition(":") for row in rows)
        yield int(folder.name), {key: value.strip() for key, _, value in pairs}
