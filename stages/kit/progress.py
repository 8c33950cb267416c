"""Ending a stage that waits for ever, such as one whose threads wait for each other.

Honest work computes, reads or writes. A process that did none of it for ten minutes never will.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import sys
import threading
from pathlib import Path
from typing import Callable, Tuple

# Seconds between two looks, and how many looks in a row without progress end a stage. Counted, not
# timed: a machine that slept, or whose clock was set, has made one look too late.
_PERIOD = 10.0
_MOST_IDLE = 60
# Seconds of CPU in a period that are progress: 1 % of a core. Looking takes less.
_LEAST_CPU = _PERIOD / 100


def watch_progress(end: Callable[[str], None]) -> Callable[[], None]:
    """Call `end`, from a thread, with a reason once the process has made no progress for long.

    Where every thread waits is printed before. A child process, if there is one, is waited for.
    Return what ends the watch.
    """
    ended = threading.Event()
    threading.Thread(target=_watch, args=(end, ended), daemon=True).start()
    return ended.set


def _watch(end: Callable[[str], None], ended: threading.Event) -> None:
    idle = 0
    cpu, transfers = _measure()
    while idle < _MOST_IDLE:
        # Not time.sleep: under libfaketime, as in the tests, it fails when the clock jumps.
        select.poll().poll(_PERIOD * 1000)
        if ended.is_set():
            return
        before = cpu, transfers
        cpu, transfers = _measure()
        moved = cpu - before[0] > _LEAST_CPU or transfers != before[1] or _has_children()
        idle = 0 if moved else idle + 1
    faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
    minutes = _MOST_IDLE * _PERIOD / 60
    end(f"The stage made no progress: it waited for {minutes:.0f} minutes without computing.")


def _measure() -> Tuple[float, int]:
    """Return the process's seconds of CPU, and how often it waited for a disk."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    disk = usage.ru_inblock + usage.ru_oublock + usage.ru_majflt
    return usage.ru_utime + usage.ru_stime, disk


def _has_children() -> bool:
    """Tell whether a child process is alive, whose work counts too; False where nobody knows."""
    try:
        tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
        return any((task / "children").read_text().strip() for task in tasks)
    except OSError:
        return False
