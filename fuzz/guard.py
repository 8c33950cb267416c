"""Bounds on one example: memory and processor time, so that too much of either is a finding."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Inputs of the fuzzer are small, so no parser has a reason for more.
MOST_SECONDS = 10.0
MOST_BYTES = 1 << 30
MOST_GROWTH = 512 << 20


class TooSlow(BaseException):
    """Not an `Exception`: a parser that takes those for damaged input must not swallow it."""


class TooLarge(BaseException):
    """The process has grown by more than an example may take."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise `TooSlow` or `TooLarge` if the block takes too much; above 1 GB, `MemoryError`.

    What counts is the time of the processor, so that a busy machine makes no findings.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    peak = _peak()
    old = signal.signal(signal.SIGPROF, _stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, before[1]))
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
        resource.setrlimit(resource.RLIMIT_AS, before)
    if _peak() - peak > MOST_GROWTH:
        raise TooLarge(f"{_peak() - peak:,} bytes for one example")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _stop(number: int, frame: Any) -> None:
    raise TooSlow(f"more than {MOST_SECONDS:.0f} seconds of the processor for one example")
