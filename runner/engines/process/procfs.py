"""What the processes of a stage use, as /proc tells it: for machines without a control group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from runner.engines.watchdog import ResourceUsage


def measure_tree(root: int) -> ResourceUsage:
    """Memory and processes of a process and its descendants.

    In a process namespace that is all there are; otherwise what left its parent is not counted.
    """
    children: dict[int, list[int]] = defaultdict(list)
    memory: dict[int, int] = {}
    for number, status in _all():
        children[int(status.get("PPid", "0"))].append(number)
        # Not files that are mapped: the samples are, and cost no memory of their own.
        pages = [status.get("RssAnon", "0"), status.get("RssShmem", "0")]
        memory[number] = sum(int(text.split()[0]) for text in pages) * 1024
    waiting, seen = [root], set()
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.add(number)
            waiting += children[number]
    return ResourceUsage(memory=sum(memory.get(number, 0) for number in seen), processes=len(seen))


def count_threads_of_user(user: int) -> int:
    """How many threads a user has now, whom the kernel counts as processes."""
    return sum(
        int(status.get("Threads", "1"))
        for _, status in _all()
        if status.get("Uid", "").split()[:1] == [str(user)]
    )


def _all() -> Iterator[tuple[int, dict[str, str]]]:
    """Every process's number, and the rows of its status."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # A process may have a line feed of any kind but this one in its name.
            rows = (folder / "status").read_bytes().decode(errors="replace").split("\n")
        except OSError:  # gone in this moment
            continue
        pairs = (row.partition(":") for row in rows)
        yield int(folder.name), {key: value.strip() for key, _, value in pairs}
