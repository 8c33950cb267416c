"""Hard limits on memory and processes by a control group, where one can be created.

That mostly takes root, outside of containers. The kernel does not enforce rlimits on the number of
root's processes, so for root this is the only hard limit. Elsewhere rlimits bound each process, and
the watchdog bounds their sum.
"""

from __future__ import annotations

import os
import secrets
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runner.host.process_identity import get_process_id, is_process_id, is_running

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "runner-"
# Joins the groups before anything else, then execs the command. Arguments: groups, '--', command.
_JOIN = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 125; shift; done
shift
exec "$@"
"""


@dataclass(frozen=True)
class ControlGroup:
    """The folders of one group: one per controller (version 1), or one for all (version 2)."""

    folders: tuple[Path, ...]

    def wrap_command(self, command: list[str]) -> list[str]:
        """Wrap a command so that it runs in the group from its first instruction on."""
        return ["/bin/sh", "-c", _JOIN, "sh", *map(str, self.folders), "--", *command]

    def ran_out_of_memory(self) -> bool:
        """Tell whether the kernel killed a process of the group for lack of memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with suppress(OSError):
                    words = (folder / name).read_text().split()
                    counts = dict(zip(words[::2], words[1::2], strict=False))
                    if counts.get("oom_kill", "0") != "0":
                        return True
        return False

    def end(self) -> None:
        """Kill everything in the group, such as a daemon that left its process group."""
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
        """Kill everything in the group, and remove it."""
        self.end()
        _remove(self.folders)


@contextmanager
def open_control_group(memory: int, processes: int) -> Iterator[ControlGroup | None]:
    """Yield a group with these limits, then remove it; None if this user cannot create one."""
    group = _make(memory, processes)
    try:
        yield group
    finally:
        if group is not None:
            group.remove()


def find_abandoned_groups() -> list[ControlGroup]:
    """List the groups whose runner was killed, so that nobody empties or removes them."""
    found = []
    for folder in sorted(_ROOT.glob(f"{_PREFIX}*")) + sorted(_ROOT.glob(f"*/{_PREFIX}*")):
        owner = folder.name[len(_PREFIX) :].rpartition("-")[0]
        if is_process_id(owner) and not is_running(owner):
            found.append(ControlGroup((folder,)))
    return found


def _make(memory: int, processes: int) -> ControlGroup | None:
    name = f"{_PREFIX}{get_process_id()}-{secrets.token_hex(3)}"
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
                # Kernels without swap accounting lack these files.
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
    # Not time.sleep: under libfaketime, as in the tests, it fails when the clock jumps.
    select.poll().poll(milliseconds)
