"""The side-by-side conversion from start to end: plans, environments, runs, benchmark, pages."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.conversion.benchmark import TOOL
from runner.conversion.convert import load_key, run_plan
from runner.conversion.measurement import Measurement
from runner.conversion.observer import Observer
from runner.conversion.settings import RunSettings
from runner.engines.select import Choice
from runner.errors import ExitCode, RunnerError
from runner.host.files import write_text
from runner.planning.check import Check
from runner.planning.plan import (
    GivenReference,
    choose_run_folder,
    judge_by,
    make_run_name,
)
from runner.planning.source import Source
from runner.report.runs import read_report
from runner.report.side_by_side.page import PAGE, render_page
from runner.schemas.benchmark import Benchmark
from runner.schemas.comparison import Comparison
from runner.schemas.report import EngineRecord, GivenReferenceRecord, ModelRecord
from runner.side_by_side.candidates import (
    REFERENCE,
    Candidate,
    list_candidates,
    list_dropped_options,
)
from runner.side_by_side.comparison import Run, complete
from runner.side_by_side.environments import Prepared, prepare
from runner.side_by_side.measuring import measure_all
from runner.side_by_side.reference import ReferenceKeeper, shorten
from runner.side_by_side.schedule import Task, compute_width, run_in_processes
from runner.toolchains.load import load_image
from runner.toolchains.tools import load_tool
from runner.version import __version__

if TYPE_CHECKING:
    from runner.provenance.signing import PrivateKey

FILE = "comparison.json"
_NO_REFERENCE = (
    "No reference could be handed on: each run made its own, and the files' errors in other "
    "interpreters are unknown."
)

# Makes what watches the run of a toolchain.
Observe = Callable[[str], Observer]


@dataclass
class _Session:
    """The runs so far, by the toolchain's name, and the reference, once there is one."""

    settings: RunSettings
    prepared: Prepared
    observe: Observe
    output: Path
    key: PrivateKey | None
    runs: dict[str, Run] = field(default_factory=dict)
    reference: GivenReference | None = None

    @property
    def choice(self) -> Choice:
        assert self.prepared.choice is not None
        return self.prepared.choice

    def list_waiting(self) -> list[Candidate]:
        known = self.prepared.candidates
        return [c for c in known if c.plan is not None and c.name not in self.runs]


def convert_side_by_side(
    source: Source,
    check: Check = Check(),
    settings: RunSettings = RunSettings(),
    *,
    toolchains: Sequence[str],
    accepts: str = "pytorch",
    options: Mapping[str, Any] | None = None,
    measurement: Measurement = Measurement(),
    jobs: int = 0,
    observe: Observe = lambda name: Observer(),
) -> Comparison:
    """Convert a model with several toolchains, and compare what came of it.

    Each leaves a run folder below the output; all are judged by the reference of the first that
    makes one. `toolchains` are names, or 'all'. At most `jobs` run at a time, by default as many as
    the machine has room for. Raises `BadInput` or `EnvironmentUnavailable` if nothing can be run.
    """
    started, begin = time.time(), time.monotonic()
    key = load_key(settings)
    measurement.list_threads()
    output = choose_output(source, settings)
    found = list_candidates(source, check, toolchains, accepts, options or {}, settings, output)
    first = next(c.plan for c in found if c.plan is not None)
    comparison = Comparison(
        runner=__version__,
        started=datetime.datetime.fromtimestamp(started, datetime.timezone.utc).isoformat(),
        seconds=0.0,
        exit_code=0,
        model=ModelRecord(
            name=os.fsencode(first.model.path.name).decode(errors="replace"),
            kind=first.model.kind,
            sha256=first.model.sha256,
            bytes=first.model.bytes,
        ),
        metric=first.check["metric"],
        tolerance=first.check["tolerance"],
        samples=first.check["samples"],
        engine=None,
        reference=None,
        toolchains=[],
        take=None,
        verdict="",
        notes=list_dropped_options(found, options or {}),
    )
    with settings.observer:
        prepared = prepare(found, [load_image(load_tool(TOOL).runtime)], settings, first)
    session = _Session(settings, prepared, observe, output, key)
    session.runs = {name: Run(_find(found, name), error=e) for name, e in prepared.errors.items()}
    benchmark: Benchmark | None = None
    interrupted = False
    output.mkdir(parents=True, exist_ok=True)
    try:
        if prepared.choice is not None:
            _run_all(session, compute_width(jobs))
            if session.reference is not None:
                measurement = replace(measurement, reference=output / REFERENCE)
            benchmark = measure_all(session.runs, prepared, measurement, observe(""), output)
    except KeyboardInterrupt:
        interrupted = True
        comparison.notes.append("Interrupted: what had ended by then is kept.")
        _collect_ended(session)
    except RunnerError as error:  # of the benchmark: the runs themselves are whole
        comparison.notes.append(f"The files could not be measured: {error}")
    if session.reference is not None:
        shorten(session.reference)
    runs = [session.runs.get(c.name, Run(c)) for c in found]
    if session.reference is None and benchmark is not None:
        comparison.notes.append(_NO_REFERENCE)
    comparison = complete(comparison, runs, benchmark, load_tool(TOOL).runtime)
    if interrupted:
        comparison.exit_code = int(ExitCode.INTERRUPTED)
    comparison.seconds = round(time.monotonic() - begin, 3)
    _describe(comparison, session)
    write_text(output / FILE, comparison.to_json())
    write_text(output / PAGE, render_page(comparison, output.name))
    return comparison


def choose_output(source: Source, settings: RunSettings) -> Path:
    """Choose the folder of all runs. Raises `BadInput` if there is something in it."""
    return choose_run_folder(settings.output, make_run_name(source.path))


def _find(found: Sequence[Candidate], name: str) -> Candidate:
    return next(candidate for candidate in found if candidate.name == name)


def _describe(comparison: Comparison, session: _Session) -> None:
    """Add the engine, and which run made the reference."""
    choice, given = session.prepared.choice, session.reference
    if choice is not None:
        engine = choice.engine
        comparison.engine = EngineRecord(
            name=engine.name, reason=choice.reason, details=engine.details
        )
    if given is None:
        return
    comparison.reference = GivenReferenceRecord(
        toolchain=given.toolchain, run=given.run, sha256=given.sha256
    )
    report = session.runs[given.toolchain].report
    if report is not None and report.stages[0].report is not None:
        version = next(iter(report.stages[0].report.versions.items()), ("", ""))
        comparison.reference_by = " ".join(version).strip()


def _run_all(session: _Session, width: int) -> None:
    """Run until one has made the reference, then the others, `width` at a time."""
    while session.reference is None and (waiting := session.list_waiting()):
        _run_here(session, waiting[0])
    waiting = session.list_waiting()
    if width == 1 or len(waiting) < 2:
        for candidate in waiting:
            _run_here(session, candidate)
        return
    tasks = []
    for candidate in waiting:
        assert candidate.plan is not None and session.reference is not None
        settings = replace(
            session.settings,
            engine=session.choice.engine.name,
            observer=session.observe(candidate.name),
        )
        tasks.append(Task(judge_by(candidate.plan, session.reference), settings))

    def finish(task: Task, lines: tuple[str, ...]) -> None:
        candidate = next(c for c in waiting if c.plan and c.plan.run == task.plan.run)
        _collect(session, candidate, " ".join(lines))
        if report := session.runs[candidate.name].report:
            task.settings.observer.finished(report, task.plan.output)

    run_in_processes(tasks, width, finish)


def _run_here(session: _Session, candidate: Candidate) -> None:
    """Run one toolchain in this process; without a reference so far, keep the one it makes."""
    plan = candidate.plan
    assert plan is not None
    keeper: ReferenceKeeper | None = None
    if session.reference is not None:
        plan = judge_by(plan, session.reference)
    else:
        image = plan.toolchain.stages[0].image
        keeper = ReferenceKeeper(session.output / REFERENCE, candidate.name, plan.run, image)
    view = session.observe(candidate.name)
    settings = replace(session.settings, observer=view)
    try:
        with view:
            report = run_plan(
                plan, session.choice, settings, time.time(), key=session.key, after_stages=keeper
            )
    except RunnerError as error:
        session.runs[candidate.name] = Run(candidate, error=error)
        return
    session.runs[candidate.name] = Run(candidate, report)
    if keeper is not None:
        session.reference = keeper.kept
    if report.outcome == "interrupted":
        raise KeyboardInterrupt


def _collect(session: _Session, candidate: Candidate, said: str) -> None:
    """Read the report of a run that had a process of its own."""
    assert candidate.plan is not None
    try:
        session.runs[candidate.name] = Run(candidate, read_report(candidate.plan.output))
    except RunnerError as error:
        session.runs[candidate.name] = Run(candidate, error=RunnerError(said or error.message))


def _collect_ended(session: _Session) -> None:
    for candidate in session.list_waiting():
        if candidate.plan is not None and (candidate.plan.output / "report.json").is_file():
            _collect(session, candidate, "")
