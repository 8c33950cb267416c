"""Hard bounds on memory and processes by a control group, where one can be made.

That is mostly as root, on the machine itself. The kernel does not count the processes of root by
rlimits, so for root this is the one hard bound there is. Elsewhere rlimits bound each process, and
the watch the sum of them.
"""

from __future__ import annotations

import os
import secrets
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runner.host.process_identity import is_process_id, is_running, process_id

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "runner-"
# Joins the groups before anything else, and becomes the command. The groups come first, then '--'.
_JOIN = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 125; shift; done
shift
exec "$@"
"""


@dataclass(frozen=True)
class ControlGroup:
    """The folders of one group: one a controller (version 1), or one for all (version 2)."""

    folders: tuple[Path, ...]

    def wrap_command(self, command: list[str]) -> list[str]:
        """The command, run in the group from its first instruction on."""
        return ["/bin/sh", "-c", _JOIN, "sh", *map(str, self.folders), "--", *command]

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel ended a process of the group for want of memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with suppress(OSError):
                    words = (folder / name).read_text().split()
                    counts = dict(zip(words[::2], words[1::2], strict=False))
                    if counts.get("oom_kill", "0") != "0":
                        return True
        return False

    def end(self) -> None:
        """Kill whatever is in the group, such as a daemon that left its process group."""
        for _ in range(200):
            left = False
            for folder in self.folders:
                with suppress(OSError):
                    for number in (folder / "cgroup.procs").read_text().split():
                        left = True
                        with suppress(ProcessLookupError):
                            os.kill(int(number), 9)
            if not left:
                return
            _pause(10)

    def remove(self) -> None:
        """End what is in the group, and remove it."""
        self.end()
        _remove(self.folders)


@contextmanager
def control_group(memory: int, processes: int) -> Iterator[ControlGroup | None]:
    """A group with these bounds, removed afterwards; None where this user cannot make one."""
    group = _make(memory, processes)
    try:
        yield group
    finally:
        if group is not None:
            group.remove()


def find_abandoned_groups() -> list[ControlGroup]:
    """Groups whose runner was killed: nobody ends what is in them, nor removes them."""
    found = []
    for folder in sorted(_ROOT.glob(f"{_PREFIX}*")) + sorted(_ROOT.glob(f"*/{_PREFIX}*")):
        owner = folder.name[len(_PREFIX) :].rpartition("-")[0]
        if is_process_id(owner) and not is_running(owner):
            found.append(ControlGroup((folder,)))
    return found


def _make(memory: int, processes: int) -> ControlGroup | None:
    name = f"{_PREFIX}{process_id()}-{secrets.token_hex(3)}"
    if (_ROOT / "cgroup.controllers").exists():
        settings = {
            _ROOT / name: {
                "pids.max": processes,
                "memory.max": memory,
                "memory.swap.max": 0,
            }
        }
    else:
        settings = {
            _ROOT / "pids" / name: {"pids.max": processes},
            _ROOT / "memory" / name: {
                "memory.limit_in_bytes": memory,
                "memory.memsw.limit_in_bytes": memory,
            },
        }
    made: list[Path] = []
    try:
        for folder, values in settings.items():
            folder.mkdir()
            made.append(folder)
            for file, value in values.items():
                # Kernels without the accounting of swap have no such files.
                if "sw" not in file or (folder / file).exists():
                    (folder / file).write_text(str(value))
    except OSError:
        _remove(made)
        return None
    return ControlGroup(tuple(made))


def _remove(folders: tuple[Path, ...] | list[Path]) -> None:
    for folder in folders:
        for _ in range(100):
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:  # the last process is not quite gone
                _pause(20)
            else:
                break


def _pause(milliseconds: int) -> None:
    # Not time.sleep: where libfaketime sets the clock, as in the tests, it fails when that jumps.
    select.poll().poll(milliseconds)
