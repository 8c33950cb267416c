"""What runs on a Dask worker: the plugins that make it ready, and one conversion at a time.

Files travel between workers by the workers' own connections, and between a worker and the client
through the scheduler, in pieces. A worker keeps what it was sent, and the runs that it made: either
is found again by content.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker
from distributed.utils import sync
from pydantic import BaseModel

from runner.cleanup import remove_from_docker, remove_scratch_folders
from runner.conversion.observer import Observer
from runner.engines.select import prepare_engine
from runner.errors import EnvironmentUnavailable, ExitCode
from runner.host.files import write_text
from runner.host.machine import read_machine_memory
from runner.host.process_identity import make_scratch_folder
from runner.schemas.base import Invalid, validate_json
from runner.suite.files import PIECE, FileStore, Piece, SharedStore, read_piece
from runner.suite.jobs.follow import follow_job
from runner.suite.jobs.job import Job, Share
from runner.suite.latency import measure_latency
from runner.suite.request import File, Request, Setting, describe_code
from runner.suite.results import LatencyRecord
from runner.suite.settings import LatencyTable
from runner.toolchains.load import load_image

# The topic of Dask's events on which workers say what they are doing.
TOPIC = "runner-suite"
_HANDLER = "runner_read_piece"
# What a conversion's files may have in all, to be carried by the task: the scheduler keeps that of
# all conversions which wait.
MOST_CARRIED = 64 << 10


class MissingFiles(Exception):
    """A worker has not got some files, and none of those that should have them gives them."""

    def __init__(self, address: str, hashes: Sequence[str]) -> None:
        super().__init__(address, hashes)
        self.address, self.hashes = address, hashes


class OtherRunner(Exception):
    """A worker runs another version of the runner than the client."""


@dataclass(frozen=True)
class Task:
    """A conversion for a worker. `cell` is what it is called, `client` who asks for it.

    With `draft`, client and worker are on one machine, and the run is made in that folder; else it
    is handed over by content. `holders` are the addresses of workers that have a file, by its hash;
    `contents` are files that are small enough to come with the task.
    """

    request: Request
    setting: Setting
    cell: str
    runner: str
    client: str
    draft: str = ""
    share: Share | None = None
    store: str = ""
    holders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came of a conversion: where its run is, if it is on the client's machine already.

    Else `files` are the run's, by path, each with its hash and its size. `failure` says why there
    is no report.
    """

    exit_code: int
    worker: str
    seconds: float
    failure: str = ""
    folder: str = ""
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)


class _Made(BaseModel):
    """A run that this machine made and keeps, in case that it is asked for again."""

    exit_code: int
    seconds: float
    files: dict[str, tuple[str, int]]


class FilesPlugin(WorkerPlugin):
    """Lets other workers read this one's files; refuses another version of the runner."""

    name = "runner-suite-files"

    def __init__(self, runner: str) -> None:
        self._runner = runner

    def setup(self, worker: Worker) -> None:
        own = describe_code()
        if own != self._runner:
            # One that joins later would only log an error, and stay.
            worker.loop.add_callback(worker.close, reason="another version of the runner")
            raise OtherRunner(f"{name_worker(worker)} runs the runner {own}, not {self._runner}")
        worker.handlers[_HANDLER] = give_piece
        FileStore().prune()


class EnvironmentsPlugin(WorkerPlugin):
    """Prepares the environments that a suite needs, once a worker.

    One that cannot be had is no error here: the conversions that need it say so.
    """

    name = "runner-suite-environments"

    def __init__(
        self,
        images: Sequence[str],
        setting: Setting,
        archive: File | None = None,
        holders: Sequence[str] = (),
    ) -> None:
        self._images, self._setting = images, setting
        self._archive, self._holders = archive, holders

    async def setup(self, worker: Worker) -> None:
        path: Path | None = None
        if self._archive is not None:
            path = await obtain(worker, self._archive, self._holders)
        await asyncio.to_thread(self._prepare, path)

    def _prepare(self, archive: Path | None) -> None:
        remove_from_docker()  # what a worker before this one left, when it was killed
        remove_scratch_folders()
        if archive is not None:
            from runner.archive.loading import load

            engine = self._setting.engine
            load(archive, Observer(), engine="all" if engine == "auto" else engine)
        images = [load_image(name) for name in self._images]
        if not images:
            return
        try:
            prepare_engine(self._setting.engine, images, Observer())
        except EnvironmentUnavailable:
            for image in images:
                try:
                    prepare_engine(self._setting.engine, [image], Observer())
                except EnvironmentUnavailable:
                    continue


def give_piece(sha256: str, size: int, offset: int) -> bytes | None:
    """Return a piece of a file that this machine has; None if it has not got the file."""
    path = FileStore().find(sha256, size)
    return read_piece(path, offset) if path is not None else None


def give_pieces(pieces: Sequence[Piece]) -> list[bytes | None]:
    """Return what each of these pieces holds; None of a file that this machine has not got."""
    return [give_piece(piece.sha256, piece.size, piece.offset) for piece in pieces]


def take_piece(sha256: str, size: int, offset: int, data: bytes, sender: str) -> None:
    """Keep a piece of a file that the client sends."""
    FileStore().receive(sha256, size, offset, data, sender)


def has_file(sha256: str, size: int) -> bool:
    return FileStore().find(sha256, size) is not None


def name_worker(worker: Worker) -> str:
    return f"{worker.address} on {socket.gethostname()}"


async def obtain(worker: Worker, file: File, holders: Sequence[str]) -> Path | None:
    """Return where a file lies in this machine's store, having read it from another worker if need
    be; None if none of `holders` gives it."""
    store = FileStore()
    found = store.find(file.sha256, file.bytes)
    for address in holders if found is None else ():
        if address == worker.address:
            continue
        try:
            await _pull(worker, address, file, store)
            return store.find(file.sha256, file.bytes)
        except (OSError, ValueError):  # a lost connection is an OSError
            continue
    return found


async def _pull(worker: Worker, address: str, file: File, store: FileStore) -> None:
    sender = f"{os.getpid()}-{time.monotonic_ns()}"
    for offset in range(0, max(file.bytes, 1), PIECE):
        read = getattr(worker.rpc(address), _HANDLER)
        data = await asyncio.wait_for(
            read(sha256=file.sha256, size=file.bytes, offset=offset), timeout=60
        )
        if data is None:
            raise ValueError(f"{address} has not got {file.sha256}")
        await asyncio.to_thread(store.receive, file.sha256, file.bytes, offset, data, sender)


def perform(task: Task) -> Answer:
    """Do a conversion on this worker. Raises `MissingFiles`, `OtherRunner`."""
    worker = get_worker()
    if task.runner != describe_code():
        raise OtherRunner(f"{name_worker(worker)} runs the runner {describe_code()}")
    begin = time.monotonic()
    if task.draft:
        _say(worker, task, event="started")
        # A worker before this one may have been killed at it, and left something there.
        run = Path(task.draft, secrets.token_hex(4))
        code, failure = _run(worker, task, run, None)
        return Answer(code, worker.address, time.monotonic() - begin, failure, folder=str(run))
    made = _find_made(task.request.key)
    if made is not None:
        _share(task, made.files)
        return Answer(made.exit_code, worker.address, made.seconds, files=made.files)
    with make_scratch_folder("suite") as scratch:
        _lay_out(worker, task, scratch / "files")
        _say(worker, task, event="started")
        run = scratch / Path(task.request.model).stem
        code, failure = _run(worker, task, run, scratch / "files")
        seconds = time.monotonic() - begin
        store = FileStore()
        files = {
            path.relative_to(run).as_posix(): store.add(path)
            for path in sorted(run.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
    if code != ExitCode.ENVIRONMENT and (run.name and "report.json" in files):
        text = _Made(exit_code=code, seconds=seconds, files=files).model_dump_json()
        write_text(store.folder / "made" / f"{task.request.key}.json", text)
    _share(task, files)
    return Answer(code, worker.address, seconds, failure, files=files)


def _say(worker: Worker, task: Task, **event: Any) -> None:
    told = {"client": task.client, "cell": task.cell, "worker": worker.address}
    worker.log_event(TOPIC, {**told, **event})


def _lay_out(worker: Worker, task: Task, folder: Path) -> None:
    """Lay out the files of a request in a folder. Raises `MissingFiles`."""
    shared = SharedStore(task.store) if task.store else None
    store, missing = FileStore(), []
    sender = f"{os.getpid()}-{time.monotonic_ns()}"
    for place, file in task.request.files.items():
        content = task.contents.get(file.sha256)
        if content is not None and not store.find(file.sha256, file.bytes):
            store.receive(file.sha256, len(content), 0, content, sender)
        holders = task.holders.get(file.sha256, ())
        found: Path | None = sync(worker.loop, obtain, worker, file, holders)
        if found is None and shared and shared.get(file.sha256, store.locate(file.sha256)):
            found = store.locate(file.sha256)
        if found is None:
            missing.append(file.sha256)
            continue
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, target)
    if missing:
        raise MissingFiles(worker.address, missing)


def _share(task: Task, files: Mapping[str, tuple[str, int]]) -> None:
    """Put a run's files into the store that all share, if there is one."""
    if task.store:
        shared, store = SharedStore(task.store), FileStore()
        for sha256, _ in files.values():
            shared.put(store.locate(sha256), sha256)


def _find_made(key: str) -> _Made | None:
    store = FileStore()
    try:
        made = validate_json(_Made, (store.folder / "made" / f"{key}.json").read_bytes())
    except (OSError, Invalid):
        return None
    whole = all(store.find(sha256, size) for sha256, size in made.files.values())
    return made if whole else None


def _run(worker: Worker, task: Task, output: Path, folder: Path | None) -> tuple[int, str]:
    """Run the conversion's process; return its exit code, and why there is no report."""
    job = Job(task.request, task.setting, task.share or _share_of(worker), output, folder)
    return follow_job(job, lambda stage: _say(worker, task, event="stage", stage=stage))


def _share_of(worker: Worker) -> Share:
    """Compute the share of one of a worker's threads: a core, and its part of the memory."""
    threads = worker.state.nthreads
    memory = worker.memory_manager.memory_limit or read_machine_memory()
    return Share(1, int(memory * 0.85 / threads))


@dataclass(frozen=True)
class MeasureTask:
    """Files of which this machine is to measure the latency."""

    files: Sequence[File]
    table: LatencyTable
    engine: str
    runner: str


def measure_on_worker(task: MeasureTask) -> LatencyRecord:
    """Measure the latency of files on this worker. Raises `MissingFiles`, `RunnerError`."""
    worker, store = get_worker(), FileStore()
    found = {file.sha256: store.find(file.sha256, file.bytes) for file in task.files}
    missing = [sha256 for sha256, path in found.items() if path is None]
    if missing:
        raise MissingFiles(worker.address, missing)
    return measure_latency(
        {sha256: path for sha256, path in found.items() if path is not None},
        task.table,
        task.engine,
    )
