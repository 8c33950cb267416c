"""One conversion in a process of its own, followed by what it says."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

from runner.errors import ExitCode
from runner.host.files import write_text
from runner.host.process_identity import make_scratch_folder
from runner.suite.jobs.job import Job
from runner.suite.jobs.server import run_job
from runner.suite.results import LOG

_MOST_LOG_LINES = 400


def follow_job(job: Job, on_stage: Callable[[str], None]) -> tuple[int, str]:
    """Do a conversion in its process; return its exit code, and why there is no report.

    `on_stage` is told each stage as it starts. Without a report, the output has a log.
    """
    lines: list[str] = []
    said = ""

    def on_line(line: str) -> None:
        nonlocal said
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            lines.append(line)
            return
        if kind == "started":
            on_stage(str(event.get("stage", "")))
        elif kind in ("say", "error"):
            lines.append(str(event.get("text", "")))
            said = lines[-1] if kind == "error" else said

    with make_scratch_folder("job") as scratch:
        file = scratch / "job"
        file.write_bytes(pickle.dumps(job))
        status = run_job(file, on_line)
    if (job.output / "report.json").is_file():
        return status, ""
    if status < 0:
        said = f"The conversion's process was ended by signal {-status}."
    said = said or f"The conversion's process ended with status {status}: {' '.join(lines[-3:])}"
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        write_text(job.output / LOG, "\n".join([*lines[-_MOST_LOG_LINES:], said]) + "\n")
    except OSError:
        pass
    known = status in {int(code) for code in ExitCode}
    return (status if known else int(ExitCode.INTERNAL)), said
