"""One conversion in a process of its own: `python -m runner.suite.job JOB`.

It calls what `runner convert` calls. It ends its stages and removes its volume when it is ended, as
any run does, also where the worker that started it is killed.
"""

from __future__ import annotations

import json
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from runner.conversion.convert import convert
from runner.conversion.settings import RunSettings
from runner.errors import ExitCode, RunnerError
from runner.host.machine import keep_to_cores, list_own_cores
from runner.host.paths import cache_folder
from runner.side_by_side.schedule import EventWriter
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


def main(file: str) -> int:
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
    sys.exit(main(sys.argv[1]))
