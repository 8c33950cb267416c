"""The watchdog, which ends a stage that exceeds its limits: time, disk usage, output.

The engines' own limits (control groups, rlimits) are hard where there are any. For the rest, a
thread looks every quarter of a second and ends the stage, which can overshoot in that time.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from runner.engines.limits import Limits, compute_least_memory
from runner.host.files import format_bytes
from runner.host.text import strip_control

_PERIOD = 0.25
_SECONDS_BETWEEN_ENDS = 1.0
# How many looks in a row may see something vanish, which hides its contents.
_MOST_VANISHED = 40


@dataclass(frozen=True)
class ResourceUsage:
    """What a stage uses at one moment: bytes and files on disk, bytes left there, and the rest.

    `hidden` names a folder that cannot be looked into; `vanished` is set if something went away
    while it was looked at. `available` is how much memory the machine has left.
    """

    disk: int = 0
    files: int = 0
    free: int | None = None
    memory: int = 0
    processes: int = 0
    hidden: str = ""
    vanished: bool = False
    available: int | None = None


@dataclass(frozen=True)
class LimitExceeded:
    """The limit that was reached, and what to do about it."""

    reason: str
    remedy: str


def check_limits(
    use: ResourceUsage, limits: Limits, memory: int, first: ResourceUsage
) -> LimitExceeded | None:
    """Return the limit that was reached, or None.

    `memory` is the stage's, in bytes; `first` is what the first look saw.
    """
    if use.hidden:
        # The stage chose this name, and may have used any bytes.
        place = strip_control(use.hidden.encode(errors="replace").decode())
        return LimitExceeded(
            f"The stage made a folder that cannot be looked into, {place}, and was ended.",
            "No stage does so: do not trust this model.",
        )
    if use.disk > limits.disk:
        return LimitExceeded(
            f"The stage wrote more than {format_bytes(limits.disk)}, and was ended.",
            "If that is right for this model, allow more: --limit disk=200g; or take fewer "
            "--samples.",
        )
    if use.files > limits.files:
        return LimitExceeded(
            f"The stage made more than {limits.files} files, and was ended.",
            "No stage needs so many: do not trust this model (--limit files=N allows more).",
        )
    if memory and use.memory > memory:
        return LimitExceeded(
            f"The stage used more than {format_bytes(memory)} of memory, and was ended.",
            "Use a machine with more memory, smaller inputs or fewer --samples; or allow more: "
            "--limit memory=16g.",
        )
    if use.processes > limits.processes:
        return LimitExceeded(
            f"The stage started more than {limits.processes} processes, and was ended.",
            "If that is right for this model, allow more: --limit processes=5000.",
        )
    # A machine that was this full before is up to the user: the stage says what it lacks.
    least = compute_least_memory()
    if use.available is not None and use.available < least <= (first.available or 0):
        return LimitExceeded(
            f"Less than {format_bytes(least)} of the machine's memory are left, and the stage was "
            "ended.",
            "Use a machine with more memory, smaller inputs or fewer --samples.",
        )
    if use.free is not None and use.free < limits.free <= (first.free or 0):
        return LimitExceeded(
            f"Less than {format_bytes(limits.free)} of the disk are left, and the stage was ended.",
            "Free some of it, or name another --output; with fewer --samples it needs less.",
        )
    return None


class Watch:
    """Watches a running stage, and ends it at the first limit that it reaches."""

    def __init__(
        self,
        limits: Limits,
        memory: int,
        look: Callable[[], ResourceUsage | None],
        end: Callable[[], None],
    ) -> None:
        self.exceeded: LimitExceeded | None = None
        self._limits, self._memory = limits, memory
        self._look, self._end = look, end
        self._printed = 0
        self._first: ResourceUsage | None = None
        self._vanished = 0  # number of looks in a row
        self._finished = threading.Event()
        self._deadline = time.monotonic() + limits.timeout if limits.timeout else None

    def count_output(self, line: str) -> None:
        """Count a line of the stage's output, and end a stage that prints too much."""
        self._printed += len(line) + 1
        if self._printed > self._limits.output and self.exceeded is None:
            self.stop(
                LimitExceeded(
                    f"The stage printed more than {format_bytes(self._limits.output)}, and was "
                    "ended; its log has the beginning and the end.",
                    "If that is right for this model, allow more: --limit output=10g.",
                )
            )

    def stop(self, breach: LimitExceeded) -> None:
        self.exceeded = self.exceeded or breach
        self._end()

    @contextmanager
    def run_in_background(self) -> Iterator[Watch]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._finished.set()
            thread.join(timeout=5)

    def _run(self) -> None:
        while not self._finished.wait(_PERIOD):
            try:
                found = self._examine()
            except Exception as error:
                # Nothing watches any more, so the stage must not go on.
                found = LimitExceeded(
                    f"The stage could not be watched ({error}), and was ended.", ""
                )
            # A busy engine may not have ended it at once.
            while found is not None and not self._finished.is_set():
                self.stop(found)
                self._finished.wait(_SECONDS_BETWEEN_ENDS)

    def _examine(self) -> LimitExceeded | None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            return LimitExceeded(
                f"The stage ran for more than {self._limits.timeout} seconds, and was ended.",
                "If it only needs longer, allow it: --timeout SECONDS (0: no limit). Fewer "
                "--samples take less time.",
            )
        try:
            use = self._look()
        except OSError:
            use = ResourceUsage(vanished=True)
        if use is None:
            return None
        if use.free is not None:
            self._first = self._first or use
        self._vanished = self._vanished + 1 if use.vanished else 0
        if self._vanished > _MOST_VANISHED:
            use = replace(use, hidden="something in it is renamed or removed all the time")
        return check_limits(use, self._limits, self._memory, self._first or use)


def measure_disk(folders: Sequence[str], most_files: int) -> ResourceUsage:
    """Measure bytes, files and free bytes of folders that a stage writes into; follow no link.

    File descriptors keep track of a folder that is renamed meanwhile, and a single open listing per
    level bounds the memory, however many names there are.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    deepest = 100
    disk = files = 0
    hidden = ""
    vanished = False

    def look_into(name: str, above: int | None, depth: int) -> None:
        nonlocal disk, files, hidden, vanished
        try:
            folder = os.open(name, flags, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                vanished = True  # removed, or something else by now
            else:  # not accessible
                hidden = f"{error.strerror}: {name[:60]}"
            return
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    files += 1
                    if files > most_files or hidden:
                        return
                    try:
                        state = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        vanished = True
                        continue
                    # The apparent size too: a sparse file is copied out in full.
                    disk += max(state.st_blocks * 512, state.st_size)
                    if not stat.S_ISDIR(state.st_mode):
                        continue
                    if depth == deepest:
                        hidden = f"nested more than {deepest} deep: {entry.name[:60]}"
                        return
                    look_into(entry.name, folder, depth + 1)
        except OSError as error:  # its contents are not accessible
            hidden = f"{error.strerror}: {name[:60]}"
        finally:
            os.close(folder)

    for root in folders:
        look_into(root, None, 1)
    if hidden:
        return ResourceUsage(hidden=hidden)
    free = min(s.f_bavail * s.f_frsize for s in map(os.statvfs, folders))
    return ResourceUsage(disk=disk, files=files, free=free, vanished=vanished)
