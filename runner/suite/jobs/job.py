"""Conversions in processes of their own: `python -m runner.suite.jobs.job` makes one for each job.

It reads lines of JSON, each the name of a file that holds a pickled `Job` and the environment to do
it in, and forks for it what has imported all that a conversion needs. Stages are forked as well,
from warm processes that it keeps (`runner.suite.jobs.keeper`). A conversion calls what
`runner convert` calls. It ends its stages and removes its volume when it is ended, as any run does,
also where the worker that started this program is killed.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from runner.conversion.convert import convert, import_late_needs
from runner.conversion.settings import RunSettings
from runner.errors import ExitCode, RunnerError
from runner.host.machine import keep_to_cores, list_own_cores
from runner.host.paths import cache_folder
from runner.host.process_identity import make_death_signal
from runner.side_by_side.schedule import EventWriter
from runner.suite.jobs.keeper import KIND, Keeper, can_keep
from runner.suite.request import Request, Setting


@dataclass(frozen=True)
class Share:
    """A conversion's share of its machine: cores and bytes of memory; 0 for all that there is."""

    cores: int = 0
    memory: int = 0


@dataclass(frozen=True)
class Job:
    """A conversion to do now: its files lie in `folder`, or where the request says."""

    request: Request
    setting: Setting
    share: Share
    output: Path
    folder: Path | None = None


# What says that a job's process has ended; the lines of the job itself have other events.
ENDED = "ended"
# How long warm processes are kept for the next job.
_SECONDS_IDLE = 120


def main() -> None:
    """Do the jobs that standard input names, one after the other; say how each process ended."""
    end_with_us = make_death_signal()
    keeper = Keeper() if can_keep() else None
    import_late_needs()
    for line in _read_jobs(keeper):
        file, environment = json.loads(line)
        requests, asks = socket.socketpair(type=KIND) if keeper else (None, None)
        child = os.fork()
        if child == 0:
            os.setsid()  # its own group, so that what it leaves running can be ended
            if end_with_us is not None:
                end_with_us()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            status = int(ExitCode.INTERNAL)
            try:
                os.environ.clear()
                os.environ.update(environment)
                if requests and asks:
                    # Imported late, as all of the process engine: only where it is used.
                    from runner.engines.process.warm import use_keeper

                    requests.close()
                    use_keeper(asks)
                status = do(file)
            except BaseException:
                traceback.print_exc(file=sys.stdout)
            finally:
                sys.stdout.flush()
                os._exit(status)
        if keeper and requests and asks:
            asks.close()
            with requests:
                keeper.serve(child, requests)
        _, ended = os.waitpid(child, 0)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(ended)
        print(json.dumps({"event": ENDED, "status": status}), flush=True)
    if keeper:
        keeper.end()


def _read_jobs(keeper: Keeper | None) -> Iterator[str]:
    """Yield the lines that come, one at a time; keep nothing warm while there are none for long."""
    while True:
        if keeper and not select.select([sys.stdin], [], [], _SECONDS_IDLE)[0]:
            keeper.end()
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def do(file: str) -> int:
    """Do a job and return the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    job: Job = pickle.loads(Path(file).read_bytes())
    request = job.request
    limits = request.limits
    if not limits.memory:
        limits = replace(limits, memory=job.share.memory)
    settings = RunSettings(
        output=job.output,
        engine=job.setting.engine,
        trust_model=job.setting.trust_model,
        limits=limits,
        cache=job.setting.cache,
        diagnose=request.diagnose,
        observer=EventWriter(),
    )
    try:
        with claim_cores(job.share.cores):
            source, check, quantization = request.locate(job.folder)
            report = convert(
                source,
                check,
                settings,
                toolchain=request.toolchain,
                options=request.options,
                quantization=quantization,
            )
        return report.exit_code
    except RunnerError as error:
        said = f"{error.message} {error.remedy}".strip()
        print(json.dumps({"event": "error", "text": said}), flush=True)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)


@contextmanager
def claim_cores(count: int) -> Iterator[None]:
    """Keep this process and its children to `count` cores that no other conversion has claimed.

    Where there are not that many left, as with 0, they run on any. The claim ends with the block.
    """
    everywhere = list_own_cores()
    folder = cache_folder() / "cores"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        claimed: list[int] = []
        for core in everywhere:
            if len(claimed) == count:
                break
            lock = FileLock(folder / f"{core}.lock")
            try:
                stack.enter_context(lock.acquire(timeout=0))
                claimed.append(core)
            except (Timeout, OSError):
                continue
        if claimed and len(claimed) == count:
            keep_to_cores(claimed)
            stack.callback(keep_to_cores, everywhere)
        yield


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
