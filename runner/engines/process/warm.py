"""Stages that are forked from a warm process: one that has imported what the stage imports.

Imports take most of the time of a small model's stage. Where many models are converted, a process
does them once (`stages.kit.warm`), and each run's stage is a fork of it, which enters the stage's
sandbox. That is bubblewrap's as ever, with the same limits; only that a holder keeps it open, a
shell that waits for the stage's exit status and ends with it.

The kernel lets a process enter namespaces that its own user namespace contains. So the warm process
has a user namespace, and bubblewrap is started within that. It sees what a stage sees of files, and
the machine's list of processes.

It is no part of this process: a keeper (`runner.suite.jobs.keeper`) starts it and hands out its
socket. Where there is no keeper, or anything is missing, stages are new processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from runner.engines.process.seccomp import open_seccomp_filter

# How long a warm process may take to import, and a stage to be forked.
_SECONDS_TO_IMPORT, _SECONDS_TO_FORK = 120.0, 20.0
_MOST_BYTES = 1 << 16
# Arguments: a pipe to say that it runs, and one to read the stage's exit status from.
_HOLDER = """
echo > "/proc/self/fd/$1"
read -r status < "/proc/self/fd/$2"
exit "${status:-255}"
"""

# The socket of the keeper; None for all but the conversions of a suite.
_keeper: socket.socket | None = None


class NotWarm(Exception):
    """A stage could not be forked, and has not begun."""


def use_keeper(keeper: socket.socket) -> None:
    """Take stages from the warm processes of this keeper from now on."""
    global _keeper
    _keeper = keeper


def has_keeper() -> bool:
    return _keeper is not None


def take_warm_process(command: Sequence[str], code: Path, environment: Path) -> WarmProcess | None:
    """Return the warm process that `command` starts, once it has done its imports, if there is one.

    `code` and `environment` are the folders that it imports from: if they change, it is another.
    """
    nsenter = shutil.which("nsenter")
    if _keeper is None or nsenter is None:
        return None
    cores = sorted(os.sched_getaffinity(0))
    parts = [list(command), len(cores), _describe_code(code), environment.stat().st_ino]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    request = {"do": "take", "key": key, "command": list(command), "cores": cores}
    try:
        _send(_keeper, request)
        _, descriptors = _receive(_keeper, _SECONDS_TO_FORK)
    except (OSError, NotWarm):  # the keeper is gone, and so will this process be
        return None
    if not descriptors:
        return None
    warm = WarmProcess(key, socket.socket(fileno=descriptors[0]), nsenter)
    try:
        warm.greet()
    except NotWarm:
        warm.refuse()
        return None
    return warm


class WarmProcess:
    """A warm process, to fork a stage from; `refuse` it or `close` it afterwards."""

    def __init__(self, key: str, orders: socket.socket, nsenter: str) -> None:
        self._key, self._orders, self._nsenter = key, orders, nsenter
        self._users = -1

    def greet(self) -> None:
        """Wait until it has imported, and take its user namespace. Raises `NotWarm`."""
        said, descriptors = self._ask({"do": "hello"}, [], ["problem"], _SECONDS_TO_IMPORT)
        self._users = descriptors[0]
        if said["problem"]:
            raise NotWarm(said["problem"])

    def wrap_command(self, command: Sequence[str]) -> list[str]:
        """Wrap bubblewrap's command so that the warm process may enter what it makes."""
        # By a link to it, since what inherits a descriptor would have it in the sandbox too.
        users = f"--user=/proc/{os.getpid()}/fd/{self._users}"
        return [self._nsenter, users, "--preserve-credentials", "--", *command]

    def fork(self, order: Mapping[str, Any], descriptors: Sequence[int], seconds: float) -> int:
        """Have it fork a stage that enters a sandbox; return its id. Raises `NotWarm`."""
        said, _ = self._ask({"do": "fork", **order}, descriptors, ["pid", "ready"], seconds)
        return int(said["pid"])

    def refuse(self) -> None:
        """Have it ended; the second time, no other like it is started."""
        if _keeper is not None:
            with suppress(OSError):
                _send(_keeper, {"do": "refuse", "key": self._key})
        self.close()

    def close(self) -> None:
        self._orders.close()
        if self._users >= 0:
            os.close(self._users)
            self._users = -1

    def _ask(
        self,
        order: Mapping[str, Any],
        descriptors: Sequence[int],
        wanted: Sequence[str],
        seconds: float,
    ) -> tuple[dict[str, Any], list[int]]:
        """Send an order, and return all that is answered until it has what is `wanted`."""
        deadline = time.monotonic() + seconds
        said: dict[str, Any] = {}
        received: list[int] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            try:
                with theirs:
                    _send(self._orders, order, [theirs.fileno(), *descriptors])
                while not said.keys() >= set(wanted):
                    more, handed = _receive(ours, deadline - time.monotonic())
                    said.update(more)
                    received += handed
            except (OSError, ValueError) as error:
                raise NotWarm(str(error)) from error
        return said, received


class Entry:
    """A stage's way into its sandbox, to be closed once the stage has begun.

    `holder` is the program to run in the sandbox. It and bubblewrap inherit `descriptors`;
    bubblewrap is to write what it knows of the sandbox to `information`.
    """

    def __init__(self, warm: WarmProcess) -> None:
        self.warm = warm
        self._informed, self.information = os.pipe()
        self._held, holds = os.pipe()
        waits, self._ended = os.pipe()
        self.descriptors = [self.information, holds, waits]
        self.holder = ["/bin/sh", "-c", _HOLDER, "sh", str(holds), str(waits)]

    def begin(self, order: Mapping[str, Any], output: int, groups: Sequence[Path]) -> int:
        """Begin the stage in the sandbox, once that is there; return its id. Raises `NotWarm`.

        `output` is the end of a pipe that its output is read from; `groups` are the folders of the
        control groups that it is to join.
        """
        deadline = time.monotonic() + _SECONDS_TO_FORK
        self._release()
        with ExitStack() as stack:

            def keep(descriptor: int) -> int:
                stack.callback(os.close, descriptor)
                return descriptor

            try:
                first = json.loads(_read_until(self._informed, b"}", deadline))["child-pid"]
                _read_until(self._held, b"\n", deadline)
                sandbox = keep(os.pidfd_open(first))
                # While the holder lives, so does the first process: the id is not another's.
                if _is_ready(self._held, 0):
                    raise NotWarm("the sandbox has ended")
                descriptors = [
                    sandbox,
                    # Only bubblewrap has this pipe's other end; a link of /proc opens it anew.
                    keep(os.open(f"/proc/self/fd/{output}", os.O_WRONLY)),
                    self._ended,
                    keep(open_seccomp_filter()),
                    *(keep(os.open(group / "cgroup.procs", os.O_WRONLY)) for group in groups),
                ]
            except (OSError, ValueError, KeyError) as error:
                raise NotWarm(str(error)) from error
            return self.warm.fork(order, descriptors, deadline - time.monotonic())

    def close(self) -> None:
        self._release()
        for descriptor in (self._informed, self._held, self._ended):
            os.close(descriptor)

    def _release(self) -> None:
        """Close what bubblewrap has inherited, so that its end is seen."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def _describe_code(folder: Path) -> str:
    """Return text that changes when a module in a folder does."""
    states = [(str(path), path.stat()) for path in sorted(folder.rglob("*.py"))]
    return json.dumps([[name, state.st_mtime_ns, state.st_size] for name, state in states])


def _send(to: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    socket.send_fds(to, [json.dumps(message).encode()], list(descriptors))


def _receive(own: socket.socket, seconds: float) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and its descriptors. Raises `NotWarm` if none comes in time."""
    if not _is_ready(own.fileno(), seconds):
        raise NotWarm("no answer in time")
    text, descriptors, _, _ = socket.recv_fds(own, _MOST_BYTES, 4)
    if not text:
        raise NotWarm("it has ended")
    message: dict[str, Any] = json.loads(text)
    return message, descriptors


def _read_until(descriptor: int, end: bytes, deadline: float) -> bytes:
    text = b""
    while end not in text:
        if not _is_ready(descriptor, deadline - time.monotonic()):
            raise NotWarm("no sandbox in time")
        block = os.read(descriptor, 4096)
        if not block:
            raise NotWarm("the sandbox has ended")
        text += block
    return text


def _is_ready(descriptor: int, seconds: float) -> bool:
    """Tell whether there is something to read, or to be read no more, within seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))
