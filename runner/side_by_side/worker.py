"""One run in a process of its own: `python -m runner.side_by_side.worker TASK`.

The task is one that `runner.side_by_side.schedule` has written; everything else about the run is in
its folder at the end.
"""

from __future__ import annotations

import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

from runner.conversion.convert import load_key, run_plan
from runner.engines.select import prepare_engine
from runner.errors import ExitCode, RunnerError
from runner.host.machine import interrupt_on_signals
from runner.side_by_side.schedule import EventWriter, Task


def main(file: str) -> int:
    """Run a task and return the exit code."""
    interrupt_on_signals()
    task: Task = pickle.loads(Path(file).read_bytes())
    settings = replace(task.settings, observer=EventWriter())
    try:
        images = list(task.plan.images.values())
        choice = prepare_engine(settings.engine, images, settings.observer, settings.limits)
        key = load_key(settings)
        return run_plan(task.plan, choice, settings, time.time(), key=key).exit_code
    except RunnerError as error:
        print(f"{error.message} {error.remedy}".strip())
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
