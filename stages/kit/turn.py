"""Waiting for a stage's turn: what is started early does its imports, and goes on when told to."""

from __future__ import annotations

import importlib
import select
import sys
import threading
import time
from pathlib import Path
from typing import List, Sequence, Tuple

_PERIOD = 0.005
# Whoever started it starts another, if its turn comes even later.
_MOST_SECONDS = 1800.0


def wait_for_turn(imports: Sequence[str], file: Path) -> Tuple[float, float]:
    """Import modules and wait for a file.

    Return when it appeared and when the imports were done, in seconds since the epoch. Ends the
    process if nobody writes the file in half an hour, or reads what the process prints.

    The file stays: Docker sets its owner and times after it appears, and fails if it is gone.
    """
    seen: List[float] = []
    waiter = threading.Thread(target=_wait, args=(file, seen), daemon=True)
    waiter.start()
    try:
        for name in imports:
            importlib.import_module(name)
    except Exception:  # the conversion imports it again, and reports what is wrong
        pass
    done = time.time()
    waiter.join()
    if not seen:
        sys.exit("The stage's turn never came.")
    return seen[0], done


def _wait(file: Path, seen: List[float]) -> None:
    end = time.monotonic() + _MOST_SECONDS
    # Reports nothing but that nobody reads what this process prints: who started it is gone.
    output = select.poll()
    output.register(1, 0)
    while time.monotonic() < end:
        if file.exists():
            seen.append(time.time())
            return
        # Not time.sleep: under libfaketime, as in the tests, it fails when the clock jumps.
        if output.poll(_PERIOD * 1000):
            return
