"""The processes of a worker's conversions: forked from one that has imported what they need."""

from __future__ import annotations

import json
import os
import pickle
import signal
from pathlib import Path

import pytest

from runner.errors import ExitCode
from runner.planning.check import Check
from runner.planning.quantization import Quantization
from runner.suite.jobs import job as job_module
from runner.suite.jobs import server as job_server
from runner.suite.jobs.job import Job, Share
from runner.suite.jobs.server import run_job
from runner.suite.request import File, Request, Setting


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A conversion of a model that is not there."""
    request = Request(
        key="",
        toolchain="2020-09",
        model="model/none.pt",
        arch="",
        arch_args={},
        check=Check(),
        quantization=Quantization(),
        options={},
        files={"model/none.pt": File(str(tmp_path / "none.pt"), "", 0)},
    )
    file = tmp_path / "job"
    job = Job(request, Setting(engine="process"), Share(), tmp_path / "out")
    file.write_bytes(pickle.dumps(job))
    return file


def test_jobs_of_one_server(job: Path) -> None:
    lines: list[str] = []
    assert run_job(job, lines.append) == ExitCode.BAD_INPUT
    assert "none.pt" in json.loads(lines[-1])["text"]
    server = job_server._idle[-1]
    # What a job does to its process stays there.
    job.with_name("broken").write_bytes(b"no pickle")
    lines.clear()
    assert run_job(job.with_name("broken"), lines.append) == ExitCode.INTERNAL
    assert "UnpicklingError" in " ".join(lines)
    assert run_job(job, lines.append) == ExitCode.BAD_INPUT
    assert job_server._idle == [server]


class Tell:
    """Tells its environment to whoever unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return eval, ("print(__import__('os').environ.get('RUNNER_TOOLCHAINS'))",)


def test_a_job_has_the_environment_of_its_caller(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the server's start: a bisection's toolchains are in it."""
    telling = job.with_name("telling")
    telling.write_bytes(pickle.dumps(Tell()))
    for place in ("one", "another"):
        monkeypatch.setenv("RUNNER_TOOLCHAINS", place)
        lines: list[str] = []
        run_job(telling, lines.append)
        assert lines[0] == place


class Kill:
    """Ends the process that unpickles it, or the one that this was forked from."""

    def __init__(self, which: str) -> None:
        self.which = which

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return eval, (f"__import__('os').kill(__import__('os').{self.which}(), {signal.SIGKILL})",)


@pytest.mark.parametrize("which", ["getpid", "getppid"])
def test_a_process_that_is_killed(job: Path, which: str) -> None:
    assert run_job(job, lambda line: None) == ExitCode.BAD_INPUT
    server = job_server._idle[-1]
    killer = job.with_name("killer")
    killer.write_bytes(pickle.dumps(Kill(which)))
    assert run_job(killer, lambda line: None) == -signal.SIGKILL
    assert (server.poll() is None) == (which == "getpid")
    assert run_job(job, lambda line: None) == ExitCode.BAD_INPUT
    if which == "getppid":
        assert server not in job_server._idle
        with pytest.raises(ProcessLookupError):
            os.kill(server.pid, 0)


def test_nothing_is_kept_warm_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []

    class Kept:
        def end(self) -> None:
            ends.append("ended")
            os.write(lines, b"a job\n")

    source, lines = os.pipe()
    with open(source) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr(job_module, "_SECONDS_IDLE", 0.1)
        read = job_module._read_jobs(Kept())  # type: ignore[arg-type]
        os.write(lines, b"first\n")
        assert next(read) == "first\n" and ends == []
        assert next(read) == "a job\n" and ends == ["ended"]
        os.close(lines)
        assert list(read) == []
