"""The warm processes that a worker's conversions take their stages from.

They live as long as the server of the conversions (`runner.suite.jobs.job`), and end with it. Each
has imported what one stage imports, in the sandbox that `runner.engines.process.warm` describes. A
conversion asks for one by a socket and is handed that process's own socket.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runner.host.machine import (
    keep_to_cores,
    read_available_memory,
    read_machine_memory,
    runs_stages,
)
from runner.host.process_identity import make_death_signal

# The stages of two toolchains. One takes 0.1 to 0.25 GB of its own.
_MOST = 6
# All stages of one process share its addresses in memory, which tells hostile ones of each other.
_MOST_STAGES = 100
# A cause may pass, such as a machine without memory for a moment: the second time it is believed.
_MOST_REFUSALS = 2
# The share of the machine's memory that is left to the stages.
_LEAST_SHARE = 0.25
_MOST_BYTES = 1 << 16
# Each message arrives whole, with its file descriptors; macOS and Windows lack this kind.
KIND = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_STREAM)


def can_keep() -> bool:
    """Tell whether this machine can have warm processes at all."""
    return runs_stages() and hasattr(os, "pidfd_open")


@dataclass
class _Kept:
    """A warm process, how many stages were taken from it, and the number of the last one's job."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    stages: int = 0
    job: int = 0


class Keeper:
    """Starts warm processes when they are asked for, and ends those that are no longer."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._refused: Counter[str] = Counter()
        self._jobs = 0

    def serve(self, job: int, requests: socket.socket) -> None:
        """Answer a job's requests until its process ends."""
        self._jobs += 1
        ended = os.pidfd_open(job)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.register(requests, select.POLLIN)
            while True:
                ready = {descriptor for descriptor, _ in poll.poll()}
                if requests.fileno() in ready:
                    try:
                        text = requests.recv(_MOST_BYTES)
                    except ConnectionResetError:  # it was killed before it read the answer
                        text = b""
                    if text:
                        self._answer(json.loads(text), requests)
                    else:
                        poll.unregister(requests)
                elif ended in ready:
                    return
        finally:
            os.close(ended)

    def end(self) -> None:
        for key in list(self._kept):
            self._end(key)

    def _answer(self, request: dict[str, Any], requests: socket.socket) -> None:
        key = request["key"]
        if request["do"] == "refuse":
            self._refused[key] += 1
            self._end(key)
            return
        kept = self._kept.get(key)
        if kept and (kept.process.poll() is not None or kept.stages >= _MOST_STAGES):
            self._end(key)
            kept = None
        believed = self._refused[key] >= _MOST_REFUSALS
        if kept is None and not believed and self._make_room():
            kept = self._kept[key] = _start(request["command"], request["cores"])
        if kept is not None:
            kept.stages += 1
            kept.job = self._jobs
        with suppress(OSError):  # the job was killed meanwhile
            descriptors = [kept.socket.fileno()] if kept else []
            socket.send_fds(requests, [b"{}"], descriptors)

    def _make_room(self) -> bool:
        """End the one that was asked for least recently, unless all still are; say if one fits."""
        for key, kept in list(self._kept.items()):
            if kept.process.poll() is not None:
                self._end(key)
        if len(self._kept) >= _MOST:
            oldest = min(self._kept, key=lambda key: self._kept[key].job)
            if self._kept[oldest].job >= self._jobs - 1:
                return False
            self._end(oldest)
        available = read_available_memory()
        return available is None or available > _LEAST_SHARE * read_machine_memory()

    def _end(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            kept.socket.close()
            kept.process.kill()
            kept.process.wait()


def _start(command: list[str], cores: Collection[int]) -> _Kept:
    """Start a warm process, in this one's group, so that whoever kills that ends it too."""
    ours, theirs = socket.socketpair(type=KIND)
    end_with_us = make_death_signal()

    def prepare() -> None:
        if end_with_us is not None:
            end_with_us()
        # What it imports counts the cores, as a stage's process does.
        keep_to_cores(cores)

    with theirs:
        process = subprocess.Popen(
            command,
            env={},
            cwd="/",
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=prepare,
        )
    return _Kept(process, ours)
