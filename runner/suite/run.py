"""A suite from start to end: what is there, what is to be done, where it is done, what came of it.

Dask has the queue, the workers, the retries of lost ones and the connections. Here is what loses
nothing: each run is on the client's disk before its future is let go, one that is lost is asked for
again, and the same command finds what an earlier one has finished.
"""

from __future__ import annotations

import hashlib
import queue
import secrets
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import BadInput, EnvironmentUnavailable, ExitCode, RunnerError
from runner.host.files import hash_file, read_bytes, write_text
from runner.suite.cluster import (
    KILLS,
    Connection,
    compute_share,
    compute_width,
    connect,
    find_dashboard,
    open_client,
)
from runner.suite.files import PIECE, Piece, SharedStore, append_pieces, bundle_pieces, read_piece
from runner.suite.latency import measure_latency, merge_latency
from runner.suite.plan import Conversion, SuitePlan
from runner.suite.request import File, Request, Setting, describe_code
from runner.suite.results import (
    LOG,
    LatencyRecord,
    Record,
    Results,
    ResultSet,
    make_record,
    read_results,
    write_table,
)
from runner.suite.settings import LatencyTable

# How long a scheduler that has gone may take to come back.
_PATIENCE_SECONDS = 600
_COLLECTORS = 8
# For faults that no known cause explains: a connection that is cut, a worker that closes.
_MOST_TRIES = 6


@dataclass(frozen=True)
class Orders:
    """How a suite is to be run, besides what its file says.

    `store` is a URL that client and workers reach, '' for files through Dask's connections.
    `archive` is an archive file that the workers install their environments from. `again` are
    outcomes whose conversions are to be done again, though they are there.
    """

    connection: Connection = Connection()
    setting: Setting = Setting()
    store: str = ""
    archive: Path | None = None
    again: Sequence[str] = ()
    latency: LatencyTable | None = None


class Watcher:
    """Whoever watches a suite; itself silent."""

    def say(self, text: str) -> None:
        """Show one line about the suite as a whole."""

    def planned(self, total: int, there: Sequence[Record]) -> None:
        """Learn how many conversions there are, and which are there already."""

    def started(self, cell: str, worker: str) -> None:
        pass

    def stage(self, cell: str, stage: str) -> None:
        pass

    def finished(self, record: Record) -> None:
        pass

    def tick(self) -> None:
        """Do what has to be done now and then: it is called several times a second."""


def run_suite(
    plan: SuitePlan, output: Path, orders: Orders = Orders(), watcher: Watcher = Watcher()
) -> ResultSet:
    """Do every conversion of a suite that is not there yet, and write its table.

    Raises `EnvironmentUnavailable` if there is no cluster, `BadInput` if the folder is not free. An
    interrupt leaves what is finished, which the same call finds again.
    """
    with Results(output).open() as results:
        results.write_index(plan, describe_code())
        there, waiting = split_done(plan, results, orders.again)
        watcher.planned(len(plan.conversions), there)
        try:
            if waiting or (orders.latency and not orders.connection.is_local):
                with open_client(orders.connection) as client:
                    dispatcher = _Dispatcher(client, results, plan, orders, watcher)
                    with closing(dispatcher):
                        dispatcher.run(waiting)
                        if not orders.connection.is_local:
                            _measure(results, orders, watcher, dispatcher.measure)
            if orders.connection.is_local:
                _measure(results, orders, watcher, _measure_here(orders))
        finally:
            found = read_results(output)
            write_table(found)
        return found


def split_done(
    plan: SuitePlan, results: Results, again: Sequence[str] = ()
) -> tuple[list[Record], list[Conversion]]:
    """Split the conversions into the records of those that are there, and those to be done."""
    there, waiting = [], []
    for conversion in plan.conversions:
        record = results.find(conversion)
        if record is None or (record.key and record.outcome in again):
            waiting.append(conversion)
        else:
            there.append(record)
    return there, waiting


Measure = Callable[[Mapping[str, Path], LatencyTable], LatencyRecord]


def _measure_here(orders: Orders) -> Measure:
    return lambda files, table: measure_latency(files, table, orders.setting.engine)


def _measure(results: Results, orders: Orders, watcher: Watcher, measure: Measure) -> None:
    """Measure the models that have no latency yet, once nothing else runs."""
    table = orders.latency
    if table is None or not table.sessions:
        return
    found = read_results(results.folder)
    files: dict[str, Path] = {}
    for record in found.records:
        if record.artifact and record.artifact not in found.latency.files:
            for path in sorted((results.folder / record.run).glob("*.tflite")):
                if hash_file(path) == record.artifact:
                    files[record.artifact] = path
    if not files:
        return
    watcher.say(f"Measuring {len(files)} models, in {table.sessions} sessions.")
    try:
        measured = measure(files, table)
    except RunnerError as error:
        watcher.say(f"The latencies could not be measured: {error.message} {error.remedy}".strip())
        return
    results.write_latency(merge_latency(found.latency, measured))


@dataclass
class _State:
    """A conversion that is not finished: how often it was begun, blamed, and tried in vain."""

    conversion: Conversion
    begun: int = 0
    killed: int = 0
    tries: int = 0
    draft: Path | None = None
    future: Any = None
    errors: list[str] = field(default_factory=list)


class _Dispatcher:
    """Hands conversions to a cluster and collects them; one thread decides, several carry."""

    def __init__(
        self,
        client: Any,
        results: Results,
        plan: SuitePlan,
        orders: Orders,
        watcher: Watcher,
    ) -> None:
        self._client = client
        self._results, self._plan = results, plan
        self._orders, self._watcher = orders, watcher
        self._token = secrets.token_hex(8)
        self._prepared = self._own_client = self._gone = False
        self._runner = describe_code()
        self._states: dict[str, _State] = {}
        self._holders: dict[str, list[str]] = {}
        self._paths: dict[str, Path] = {}
        self._fetched: dict[str, Path] = {}
        self._uploads: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()
        self._events: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self._local = orders.connection.is_local
        self._share = compute_share(compute_width(orders.connection.workers))
        self._store = SharedStore(orders.store) if orders.store else None
        self._draft_number = 0

    def run(self, waiting: Sequence[Conversion]) -> None:
        """Do all of these; each is recorded as soon as it is finished."""
        if not waiting:
            return
        self._states = {str(c.cell): _State(c) for c in waiting}
        self._prepare_workers()
        with ThreadPoolExecutor(_COLLECTORS) as pool:
            try:
                for state in self._states.values():
                    self._submit(state)
                while self._states:
                    self._watcher.tick()
                    with suppress(queue.Empty):
                        self._handle(pool, *self._events.get(timeout=0.2))
                    if self._gone or self._client.status in ("closed", "closing"):
                        self._reconnect()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Close the connection to a scheduler that had gone and come back."""
        if self._own_client:
            with suppress(Exception):
                self._client.close(timeout=2)

    def measure(self, files: Mapping[str, Path], table: LatencyTable) -> LatencyRecord:
        """Measure files on one worker of the cluster, while nothing else of the suite runs."""
        from runner.suite.worker import MeasureTask, MissingFiles, measure_on_worker

        if not self._prepared:
            self._prepare_workers()
        address = min(self._client.scheduler_info(n_workers=-1)["workers"])
        self._paths |= files
        wanted = [File("", sha256, path.stat().st_size) for sha256, path in files.items()]
        for _ in range(_MOST_TRIES):
            task = MeasureTask(wanted, table, self._orders.setting.engine, self._runner)
            try:
                found: LatencyRecord = self._client.submit(
                    measure_on_worker, task, workers=[address], pure=False
                ).result()
                return found
            except MissingFiles as error:
                self._send(error.address, error.hashes)
            except Exception as error:  # whatever a worker raises
                raise EnvironmentUnavailable(f"On {address}: {error}") from None
        raise EnvironmentUnavailable(f"{address} does not keep the files that it is sent.")

    def _prepare_workers(self) -> None:
        """Make every worker ready, now and whenever one joins. Raises `EnvironmentUnavailable`."""
        from runner.suite.worker import TOPIC, EnvironmentsPlugin, FilesPlugin

        client = self._client
        client.subscribe_topic(TOPIC, lambda event: self._events.put(("event", event[1])))
        if dashboard := find_dashboard(client):
            self._watcher.say(f"Dask's dashboard: {dashboard}")
        self._wait_for_workers()
        self._watcher.say("Preparing the environments on each worker.")
        try:
            client.register_plugin(FilesPlugin(self._runner))
            archive = self._spread_archive()
            holders = self._holders.get(archive.sha256, []) if archive else []
            setting = self._orders.setting
            client.register_plugin(
                EnvironmentsPlugin(self._plan.images, setting, archive, tuple(holders))
            )
        except RunnerError:
            raise
        except Exception as error:  # whatever a worker raises, even that it has no runner
            raise EnvironmentUnavailable(
                f"A worker cannot serve: {type(error).__name__}: {error}",
                f"Each needs this runner, {self._runner}: pip install 'tflite-runner[suite]'.",
            ) from None
        self._prepared = True

    def _wait_for_workers(self) -> None:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not self._client.scheduler_info(n_workers=-1)["workers"]:
            if time.monotonic() > until:
                raise EnvironmentUnavailable(
                    "The scheduler has no workers.", "Start some: dask worker ADDRESS."
                )
            self._watcher.say("Waiting for a worker.")
            time.sleep(5)

    def _spread_archive(self) -> File | None:
        """Send the archive to one worker, from which the others read it."""
        from runner.suite.worker import has_file

        path = self._orders.archive
        if path is None:
            return None
        archive = File(str(path), hash_file(path), path.stat().st_size)
        self._paths[archive.sha256] = path
        have = self._client.run(has_file, archive.sha256, archive.bytes)
        self._holders[archive.sha256] = [address for address, found in have.items() if found]
        if not self._holders[archive.sha256]:
            self._send(min(have), [archive.sha256])
        return archive

    def _submit(self, state: _State) -> None:
        from runner.suite.worker import Task, perform

        request = state.conversion.request
        assert request is not None
        cell = str(state.conversion.cell)
        for file in request.files.values():
            self._paths.setdefault(file.sha256, Path(file.path))
            if self._store is not None:
                self._store.put(Path(file.path), file.sha256)
        state.draft = self._make_draft()
        task = Task(
            request=request,
            setting=self._orders.setting,
            cell=cell,
            runner=self._runner,
            client=self._token,
            draft=str(state.draft) if self._local else "",
            share=self._share if self._local else None,
            store=self._orders.store,
            holders={
                file.sha256: tuple(self._holders.get(file.sha256, ()))
                for file in request.files.values()
            },
            contents={} if self._local or self._store else _read_small(request),
        )
        name = hashlib.sha256(cell.encode()).hexdigest()[:12]
        future = self._client.submit(
            perform, task, key=f"conversion-{name}-{secrets.token_hex(4)}", pure=False
        )
        state.future = future
        future.add_done_callback(lambda done: self._events.put(("done", cell, done)))

    def _make_draft(self) -> Path:
        self._draft_number += 1
        folder = self._results.drafts / f"{self._draft_number}-{secrets.token_hex(4)}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    def _handle(self, pool: ThreadPoolExecutor, kind: str, *rest: Any) -> None:
        if kind == "event":
            self._see(rest[0])
        elif kind == "done":
            cell, future = rest
            state = self._states.get(cell)
            if state is not None and state.future is future:
                self._end(pool, state, future)
        elif kind == "record":
            record: Record = rest[0]
            if self._states.pop(str(record.cell), None) is not None:
                self._watcher.finished(record)
        elif kind == "supplied":
            state = self._states.get(rest[0])
            if state is not None:
                self._submit(state)
        elif kind == "again":
            cell, why = rest
            state = self._states.get(cell)
            if state is not None:
                self._try_again(state, why)
        elif kind == "raise":
            raise rest[0]

    def _see(self, event: Mapping[str, Any]) -> None:
        state = self._states.get(str(event.get("cell")))
        if state is None or event.get("client") != self._token:
            return
        if event["event"] == "started":
            state.begun += 1
            self._watcher.started(str(event["cell"]), str(event["worker"]))
        else:
            self._watcher.stage(str(event["cell"]), str(event.get("stage", "")))

    def _end(self, pool: ThreadPoolExecutor, state: _State, future: Any) -> None:
        from distributed import KilledWorker

        from runner.suite.worker import MissingFiles

        if future.status == "finished":
            pool.submit(self._guard, self._collect, state, future)
            return
        error = future.exception() if future.status == "error" else None
        if isinstance(error, MissingFiles):
            pool.submit(self._guard, self._supply, state, error)
        elif isinstance(error, KilledWorker):
            state.killed += 1
            # A conversion that waited on a worker is blamed for its end too: only begun ones count.
            if state.begun >= KILLS or state.killed >= KILLS:
                self._report_killer(state)
            else:
                self._submit(state)
        elif error is None:  # cancelled by the client: the scheduler, or the way to it, is gone
            self._gone = True
        else:
            trace = "".join(traceback.format_exception(error))
            self._try_again(state, f"{type(error).__name__}: {error}", trace)

    def _guard(self, function: Callable[..., None], state: _State, *arguments: Any) -> None:
        """Run in a thread that carries; what it raises is dealt with by the thread that decides."""
        cell = str(state.conversion.cell)
        try:
            function(state, *arguments)
        except (BadInput, EnvironmentUnavailable) as error:
            self._events.put(("raise", error))
        except OSError as error:
            if error.filename is not None:  # of this machine's disk
                what = f"{error.strerror}: {error.filename}"
                self._events.put(("raise", EnvironmentUnavailable(what, "Check the disk.")))
            else:
                self._events.put(("again", cell, str(error)))
        except Exception as error:  # a worker that is gone shows itself in many ways
            self._events.put(("again", cell, f"{type(error).__name__}: {error}"))

    def _try_again(self, state: _State, why: str, trace: str = "") -> None:
        state.tries += 1
        state.errors.append(trace or why)
        if state.tries < _MOST_TRIES:
            self._submit(state)
            return
        self._report_lost(state, f"It was tried {state.tries} times in vain: {why}.")

    def _report_killer(self, state: _State) -> None:
        times = max(state.begun, KILLS)
        self._report_lost(
            state,
            f"It ended its worker {times} times: by its memory, most likely. Give a worker more of "
            "it (fewer --workers), or set limit.memory in the suite.",
        )

    def _report_lost(self, state: _State, why: str) -> None:
        """Record a conversion that left no run, with a log that says what is known."""
        draft = self._make_draft()
        draft.mkdir()
        write_text(draft / LOG, "\n".join([why, *state.errors]) + "\n")
        record = make_record(
            state.conversion,
            draft,
            exit_code=int(ExitCode.INTERNAL),
            failure=why,
            attempts=state.begun,
        )
        self._results.place(draft, record)
        self._events.put(("record", record))

    def _collect(self, state: _State, future: Any) -> None:
        """Bring a run here, and record it."""
        from runner.suite.worker import Answer

        answer: Answer = future.result()
        assert state.draft is not None
        draft = Path(answer.folder) if answer.folder else state.draft
        unfinished = (ExitCode.INTERNAL, ExitCode.INTERRUPTED)
        if not self._local:
            self._fetch(answer, draft)
        if answer.exit_code in unfinished and not (draft / "report.json").is_file():
            state.killed += 1
            if state.killed < KILLS:
                self._events.put(("again", str(state.conversion.cell), answer.failure))
                return
        record = make_record(
            state.conversion,
            draft if draft.is_dir() else None,
            exit_code=answer.exit_code,
            failure=answer.failure,
            worker=answer.worker,
            seconds=answer.seconds,
            attempts=max(1, state.begun),
        )
        if draft.is_dir():
            self._results.place(draft, record)
            with self._lock:
                for name, (sha256, _) in answer.files.items():
                    self._fetched[sha256] = self._results.folder / record.run / name
        else:
            self._results.write(record)
        future.release()
        self._events.put(("record", record))

    def _fetch(self, answer: Any, draft: Path) -> None:
        """Fetch a run's files, each by content: what is here is not sent again."""
        wanted: dict[str, tuple[str, int]] = {}
        for name, (sha256, size) in answer.files.items():
            target = draft / name
            if not target.resolve().is_relative_to(draft.resolve()):
                raise ValueError(f"a worker names the file {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                here = self._fetched.get(sha256)
            if here is not None and here.is_file() and hash_file(here) == sha256:
                shutil.copyfile(here, target)
                continue
            if self._store is not None and self._store.get(sha256, target):
                continue
            target.write_bytes(b"")
            wanted[name] = sha256, size
        for pieces in bundle_pieces(wanted):
            self._fetch_pieces(answer.worker, pieces, draft)
        for name, (sha256, _) in wanted.items():
            if hash_file(draft / name) != sha256:
                raise ValueError(f"{name} of {answer.worker} came damaged")

    def _fetch_pieces(self, worker: str, pieces: Sequence[Piece], draft: Path) -> None:
        """Append pieces of a worker's files to those that they belong to."""
        from runner.suite.worker import give_pieces

        given = self._client.run(give_pieces, pieces, workers=[worker])[worker]
        lost = append_pieces(draft, pieces, given)
        if lost:
            raise ValueError(f"{worker} has not got {lost} any more")

    def _supply(self, state: _State, missing: Any) -> None:
        self._send(missing.address, missing.hashes)
        self._events.put(("supplied", str(state.conversion.cell)))

    def _send(self, address: str, hashes: Sequence[str]) -> None:
        """Send files to a worker, in pieces through the scheduler."""
        from runner.suite.worker import has_file, take_piece

        for sha256 in hashes:
            with self._lock:
                lock = self._uploads.setdefault((address, sha256), threading.Lock())
            path = self._paths[sha256]
            size = path.stat().st_size
            with lock:
                if self._client.run(has_file, sha256, size, workers=[address])[address]:
                    continue
                sender = secrets.token_hex(6)
                for offset in range(0, max(size, 1), PIECE):
                    self._client.run(
                        *(take_piece, sha256, size, offset, read_piece(path, offset), sender),
                        workers=[address],
                    )
            with self._lock:
                holders = self._holders.setdefault(sha256, [])
                if address not in holders:
                    holders.append(address)

    def _reconnect(self) -> None:
        """Wait for a scheduler that has gone, and ask it for all that is not finished.

        A client that finds the address again by itself knows nothing of a new scheduler's plugins.
        """
        if self._local:
            raise EnvironmentUnavailable(
                "The cluster on this machine has ended.", "Run the command again: it goes on."
            )
        self._watcher.say("The scheduler is gone. Waiting for it to come back.")
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._client = connect(self._orders.connection)
                break
            except EnvironmentUnavailable:
                if time.monotonic() > until:
                    raise
                self._watcher.tick()
                time.sleep(2)
        self._own_client, self._gone = True, False
        self._holders.clear()
        self._prepare_workers()
        for state in self._states.values():
            self._submit(state)


def _read_small(request: Request) -> Mapping[str, bytes]:
    """Read the files of a request by hash, if they are few enough bytes to come with its task."""
    from runner.suite.worker import MOST_CARRIED

    if sum(file.bytes for file in request.files.values()) > MOST_CARRIED:
        return {}
    found = {}
    for file in request.files.values():
        try:
            content = read_bytes(Path(file.path), file.bytes)
        except OSError:
            content = None
        if content is None:  # it has changed since, which is told when a worker asks for it
            return {}
        found[file.sha256] = content
    return found
