"""The process engine's sandbox: bubblewrap (Debian's package `bubblewrap`), where it works.

A stage sees a read-only system, its environment and its run's volume, and nothing else: no
network, no home folder, no other processes, no capabilities, no new privileges. Its processes end
with it, because their process namespace does.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.engines.process.seccomp import open_seccomp_filter

# Names a program to use instead of the `bwrap` on the PATH.
PROGRAM_VARIABLE = "RUNNER_BWRAP"
# Where the stage finds its volume and its temporary folder.
VOLUME, HOME = "/artifacts", "/tmp"
# Inside, a stage runs as this user without capabilities, whoever runs the runner.
_USER = 1000
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin")
# What the dynamic loader and the C library read, and nothing that reveals users or hosts.
_SETTINGS = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime")
# Where the frameworks count the cores.
_CORES = "/sys/devices/system/cpu"
_SECONDS_TO_TRY = 20


@dataclass(frozen=True)
class Sandbox:
    """A bubblewrap that works on this machine; `options` are those that only some versions have."""

    program: str
    version: str
    options: tuple[str, ...] = ()

    def command(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        read_only: Sequence[Path],
        writable: Mapping[Path, str],
        devices: Sequence[str] = (),
        seccomp: int | None = None,
        information: int | None = None,
        warm: bool = False,
    ) -> list[str]:
        """Build the command line that runs `command` in the sandbox.

        `writable` maps folders to their places inside; `seccomp` is a file descriptor to read a
        filter from, `information` one to write the id of the sandbox's first process to. A `warm`
        process shares the machine's list of processes, and may enter sandboxes that were made
        within its own user namespace: see `runner.engines.process.warm`.
        """
        arguments = [self.program, *(_APART if warm else _ALONE), *_ISOLATED]
        arguments += ("--cap-add", "CAP_SYS_ADMIN") if warm else self.options
        for folder in _SYSTEM:
            arguments += _bind_system_folder(folder)
        for name in _SETTINGS:
            arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        # Only a process namespace of its own can have a /proc of its own.
        arguments += ["--ro-bind", "/proc", "/proc"] if warm else ["--proc", "/proc"]
        arguments += ["--dev", "/dev", "--ro-bind-try", _CORES, _CORES]
        arguments += ["--tmpfs" if warm else "--dir", HOME]
        # Before the read-only folders, since those may lie below /tmp.
        for path, place in writable.items():
            arguments += ["--bind", str(path), place]
        for path in read_only:
            arguments += ["--ro-bind", str(path), str(path)]
        for device in devices:
            arguments += ["--dev-bind-try", device, device]
        # These file systems live in memory, and what is written there would not be counted.
        arguments += ["--remount-ro", "/dev", "--remount-ro", "/"]
        arguments += ["--seccomp", str(seccomp)] if seccomp is not None else []
        arguments += ["--info-fd", str(information)] if information is not None else []
        for name, value in environment.items():
            arguments += ["--setenv", name, value]
        return [*arguments, "--chdir", HOME, "--", *command]


_ALONE = ("--unshare-all", "--unshare-user")
# Not from the processes: those of a sandbox cannot be entered from other ones than their parents'.
_APART = (
    *("--unshare-user", "--unshare-ipc", "--unshare-net", "--unshare-uts"),
    "--unshare-cgroup-try",
)
_ISOLATED = (
    *("--uid", str(_USER), "--gid", str(_USER)),
    *("--cap-drop", "ALL"),
    *("--hostname", "stage"),
    "--die-with-parent",
    "--new-session",
    "--clearenv",
)


def _bind_system_folder(folder: str) -> list[str]:
    """Build the options to mount a system folder as it is; /lib may be a link to /usr/lib."""
    path = Path(folder)
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), folder]
    return ["--ro-bind", folder, folder] if path.is_dir() else []


@functools.cache
def find_sandbox() -> Sandbox | str:
    """Return a sandbox that was just tried out, or why there is none, as the end of a sentence."""
    if sys.platform != "linux":
        return "bubblewrap exists for Linux only"
    named = os.environ.get(PROGRAM_VARIABLE) or "bwrap"
    program = shutil.which(named)
    if program is None:
        return "bubblewrap is not installed"
    version = _read_output([program, "--version"]).rpartition(" ")[2].strip()
    # Since 0.8: forbid user namespaces inside, the source of many kernel vulnerabilities.
    for options in (("--disable-userns",), ()):
        sandbox = Sandbox(program, version, options)
        problem = _try(sandbox)
        if not problem:
            return sandbox
    return f"bubblewrap does not work here ({problem})"


def _try(sandbox: Sandbox) -> str:
    """Check that a program in the sandbox has no capabilities; return what is wrong, or ''."""
    filter_ = open_seccomp_filter()
    command = sandbox.command(
        ["/bin/cat", "/proc/self/status"],
        environment={},
        read_only=[],
        writable={},
        seccomp=filter_,
    )
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS_TO_TRY,
            pass_fds=[filter_],
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    finally:
        os.close(filter_)
    said = done.stdout + done.stderr
    state = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    if int(state.get("CapEff", "1"), 16) == 0 and state.get("Seccomp", "").strip() == "2":
        return ""
    return said.strip().splitlines()[-1][:160] if said.strip() else f"status {done.returncode}"


def _read_output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SECONDS_TO_TRY
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
