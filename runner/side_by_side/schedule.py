"""Runs at the same time, as many as the machine has room for, each in a process of its own.

A process of its own ends its stages and removes its volume when it is ended, as any run does.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from runner.conversion.observer import Observer
from runner.conversion.settings import RunSettings
from runner.host.machine import count_cores, read_available_memory, read_machine_memory
from runner.host.paths import PACKAGE
from runner.host.process_identity import make_scratch_folder
from runner.host.subprocesses import Programs, run_together
from runner.planning.plan import Plan
from runner.schemas.report import StageRecord
from runner.toolchains.model import Stage

# What one conversion gets at least.
_CORES, _MEMORY = 2, 4 << 30


@dataclass(frozen=True)
class Task:
    """A planned run, and what else its process needs."""

    plan: Plan
    settings: RunSettings


def compute_width(jobs: int = 0) -> int:
    """Return how many runs there may be at a time: one for every 2 cores and 4 GiB, or `jobs`."""
    if jobs:
        return jobs
    memory = read_available_memory() or read_machine_memory()
    return max(1, min(count_cores() // _CORES, memory // _MEMORY))


def run_in_processes(
    tasks: Sequence[Task],
    width: int,
    finished: Callable[[Task, tuple[str, ...]], None],
) -> None:
    """Run tasks, at most `width` at a time; call `finished` with each one's last lines.

    Whatever interrupts the caller ends all of them.
    """
    with make_scratch_folder("side") as scratch:
        jobs = [
            partial(_run, task, scratch / f"{number}.task", finished)
            for number, task in enumerate(tasks)
        ]
        run_together(jobs, width)


def _run(
    task: Task,
    file: Path,
    finished: Callable[[Task, tuple[str, ...]], None],
    programs: Programs,
) -> None:
    view = task.settings.observer
    file.write_bytes(
        pickle.dumps(replace(task, settings=replace(task.settings, observer=Observer())))
    )
    stages = {s.name: s for stage in task.plan.toolchain.stages for s in (stage, stage.tracer)}
    lines: list[str] = []

    def on_line(line: str) -> None:
        if not _pass_on(line, stages, view):
            lines.append(line)

    found = (str(PACKAGE.parent), os.environ.get("PYTHONPATH", ""))
    programs.run(
        [sys.executable, "-m", "runner.side_by_side.worker", str(file)],
        on_line,
        environment={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found))},
    )
    finished(task, tuple(lines[-20:]))


def _pass_on(line: str, stages: dict[str, Stage], view: Observer) -> bool:
    """Pass an event of a run's process on to who watches it; tell whether it was one."""
    try:
        event = json.loads(line)
        kind, stage = event["event"], stages.get(event.get("stage", ""))
    except (ValueError, TypeError, KeyError):
        return False
    if kind == "say":
        view.say(str(event["text"]))
    elif kind == "finished":
        view.stage_finished(StageRecord.model_validate(event["record"]))
    elif stage is not None and kind == "started":
        view.stage_started(stage)
    elif stage is not None and kind == "progress":
        view.stage_progress(stage, str(event["text"]))
    elif stage is not None and kind == "line":
        view.stage_line(stage, str(event["text"]))
    return True


class EventWriter(Observer):
    """An observer that prints what it sees as lines of JSON, which `_pass_on` reads."""

    def _print(self, event: str, **more: Any) -> None:
        print(json.dumps({"event": event, **more}), flush=True)

    def say(self, text: str) -> None:
        self._print("say", text=text)

    def stage_started(self, stage: Stage) -> None:
        self._print("started", stage=stage.name)

    def stage_progress(self, stage: Stage, data: str) -> None:
        self._print("progress", stage=stage.name, text=data)

    def stage_line(self, stage: Stage, line: str) -> None:
        self._print("line", stage=stage.name, text=line)

    def stage_finished(self, record: StageRecord) -> None:
        self._print("finished", record=json.loads(record.model_dump_json(by_alias=True)))
