"""Stages that are forked from warm processes: nothing but the time that they take may differ."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from datetime import datetime, timedelta, timezone
from pathlib import Path

import hostile
import psutil
import pytest
from harness import (
    ARTIFACTS,
    BAD_INPUT,
    STAGE_FAILED,
    STAGES,
    WITH_KEEPER,
    Convert,
    Run,
    leftovers,
    run_cli,
    sha256,
)
from suites import make_cache
from view import make_view, read_view

from runner.engines.process.bubblewrap import Sandbox, find_sandbox
from runner.suite.results import read_results

pytestmark = pytest.mark.skipif(
    not isinstance(find_sandbox(), Sandbox) and not os.environ.get("CI"), reason="no bubblewrap"
)
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
SUITE = """
models = ["models/*.pt"]
toolchains = ["2020-09"]
[defaults]
samples = 8
quantize = ["float16"]
runtimes = []
[latency]
sessions = 0
"""

Both = Callable[..., tuple[Run, Run]]


@pytest.fixture
def both(tmp_path: Path) -> Both:
    """Convert a hostile model with new processes, then with warm ones."""

    def run(payload: str, *options: str) -> tuple[Run, Run]:
        model = hostile.hostile_file(tmp_path / "model.pt", payload)
        found = []
        for name, under in (("new", ()), ("warm", WITH_KEEPER)):
            folder = tmp_path / name
            finished = run_cli(
                *("convert", "--model", model, "--output", folder, "--engine", "process"),
                *("--samples", "2", "--input", "1x8", *options),
                cwd=tmp_path,
                environment={"RUNNER_TRUST_MODEL": "0", "RUNNER_STAGE_CACHE": "0"},
                under=under,
            )
            assert finished.returncode in (STAGE_FAILED, BAD_INPUT), finished.stdout
            assert leftovers(tmp_path) == []
            done = Run(finished.returncode, finished.stdout, finished.stderr, folder)
            assert ("warm" in done.report["engine"]["details"]) == (name == "warm")
            found.append(done)
        assert found[0].code == found[1].code
        return found[0], found[1]

    return run


def read_log(run: Run) -> str:
    return (run.folder / "logs/torch.log").read_text()


def test_a_warm_stage_sees_what_a_new_one_sees(both: Both) -> None:
    """Word for word, but for the holder of its sandbox, and where its parent and session are."""
    outside = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in NAMESPACES]
    new, warm = (read_view(read_log(run)) for run in both(make_view(outside, [os.getpid()])))
    assert len(new) > 50
    assert new.pop("processes") == {"1": "bwrap", "2": "python"}
    assert warm.pop("processes") == {"1": "bwrap", "2": "sh", "3": "python"}
    # The sandbox's own session has the first process for its leader.
    assert new.pop("session") == [1, 1, 1]
    assert warm.pop("session") == [3, 3, 0]
    # No file but its pipes and what is empty.
    holder = warm.pop("descriptors of the holder")
    assert {link for link, _ in holder.values()} == {"pipe:[N]", "/dev/null"}
    assert warm.pop("namespaces of the holder") is True
    assert warm == new
    # What is equal could be equally wrong.
    assert new["namespaces of ours"] == [] and new["namespaces of the first process"] is True
    assert new["descriptors"].keys() == {"0", "1", "2", "3"}  # the model's file is being read
    assert new["signal what is outside"] == [[-1, 3]]
    assert "Read-only" in new["touch the interpreter"] and new["shared and writable"] == []
    assert new["capabilities"] == [[0, 0], [0] * 6]
    assert "NoNewPrivs:\t1" in new["status"] and "Seccomp:\t2" in new["status"]


# Ways to end, and what is reported of them; of shared memory, none counts against an rlimit.
ENDS = {
    "a signal": ("import signal\nos.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
    "SIGKILL": ("import signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
    "a status": ("sys.stdout.flush()\nos._exit(7)", "ended with status 7 and left no report"),
    "its whole group": ("import signal\nos.kill(0, signal.SIGTERM)\ntime.sleep(9)", "SIGTERM"),
    "an exception": ("raise KeyError('none')", "cannot load this file: 'none'"),
    "a call of exit": ("sys.exit(5)", "SystemExit"),
    "memory": (
        "import mmap\nfor n in range(40):\n m = mmap.mmap(-1, 64 << 20)\n"
        " [m.write(b'x' * (1 << 20)) for _ in range(64)]\n globals()['m%d' % n] = m",
        "ran out of memory; it had 1.5 GB|used more than 1.5 GB of memory",
    ),
}


@pytest.mark.parametrize("way", ENDS)
def test_an_end_is_reported_as_ever(both: Both, way: str) -> None:
    payload, words = ENDS[way]
    new, warm = both(payload, "--limit", "memory=1500m")
    for key in ("status", "blame", "failure", "remedy", "exit_status", "known_failures"):
        assert new.stage("torch").get(key) == warm.stage("torch").get(key)
    assert re.search(words, new.stage("torch")["failure"]), new.stage("torch")["failure"]
    logs = [re.sub(r"0x[0-9a-f]+|runner-home-\S+", "", read_log(run)) for run in (new, warm)]
    assert logs[0] == logs[1]


def test_a_stage_that_ends_its_holder_ends(both: Both) -> None:
    """It is the only process besides the stage and the sandbox's first one."""
    payload = "import signal\ntry:\n os.kill(-1, signal.SIGKILL)\nexcept OSError:\n leave()\n"
    new, warm = both(f"{payload}time.sleep(600)")
    assert new.stage("torch")["exit_status"] == 0
    assert "ended by SIGKILL" in warm.stage("torch")["failure"]


def test_no_process_is_made_beside_the_stage(both: Both) -> None:
    """One whose parent is the stage's own, which the limits would not see."""
    new, warm = both(
        "import ctypes\nmade = ctypes.CDLL(None).syscall(56, 0x8000 | 17, 0, 0, 0, 0)\n"
        "print('beside:', made, flush=True)\nleave()"
    )
    for run in (new, warm):
        assert "beside: -1" in read_log(run)
        assert run.stage("torch")["exit_status"] == 0


@pytest.mark.parametrize(
    "nsenter",
    ['while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "exit 1", ""],
    ids=["elsewhere", "fails", "missing"],
)
def test_where_it_does_not_work_stages_are_new(tmp_path: Path, nsenter: str) -> None:
    """A sandbox that the warm process may not enter, one that is not made, no such program."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bwrap", "prlimit"):
        found = shutil.which(name)
        if found:
            (programs / name).symlink_to(found)
    if nsenter:
        (programs / "nsenter").write_text(f"#!/bin/sh\n{nsenter}\n")
        (programs / "nsenter").chmod(0o755)
    model = hostile.hostile_file(tmp_path / "model.pt", "print('ran', flush=True)\nleave()")
    finished = run_cli(
        *("convert", "--model", model, "--output", "out", "--engine", "process"),
        *("--samples", "2", "--input", "1x8"),
        cwd=tmp_path,
        environment={"PATH": str(programs), "RUNNER_STAGE_CACHE": "0"},
        under=WITH_KEEPER,
    )
    done = Run(finished.returncode, finished.stdout, finished.stderr, tmp_path / "out")
    assert done.stage("torch")["exit_status"] == 0, finished.stdout + finished.stderr
    assert re.findall("^ran$", read_log(done), re.MULTILINE) == ["ran"]
    details = done.report["engine"]["details"]
    assert "bubblewrap" in details["sandbox"] and "warm" not in details
    assert leftovers(tmp_path) == []


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A suite of two models."""
    (tmp_path / "models").mkdir()
    for name in ("cnn", "script"):
        for path in models.glob(f"{name}.*"):
            shutil.copyfile(path, tmp_path / "models" / path.name)
    (tmp_path / "suite.toml").write_text(SUITE)
    return tmp_path


def start_suite(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "runner", "suite", "run", "suite.toml", "--json"),
            *("--engine", "process", "--workers", "1"),
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        # A cache of its own: in that of others, they may have claimed all cores.
        env={
            **os.environ,
            "RUNNER_STAGE_CACHE": "0",
            "RUNNER_CACHE_DIR": str(make_cache(folder / "cache")),
        },
    )


def find_below(client: int, module: str) -> set[psutil.Process]:
    """Find the processes below another one whose command line has a module."""
    found = set()
    for process in psutil.Process(client).children(recursive=True):
        try:
            if module in process.cmdline():
                found.add(process)
        except psutil.Error:  # it has just ended
            continue
    return found


def is_at_work(process: psutil.Process) -> bool:
    """Tell whether a process has not ended, whoever is to reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_called(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == name
    except psutil.NoSuchProcess:
        return False


def wait_for_end(processes: Collection[psutil.Process]) -> None:
    end = time.monotonic() + 20
    while left := [process for process in processes if is_at_work(process)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_a_suite_makes_the_same(folder: Path, convert: Convert) -> None:
    """The bytes of `runner convert`, from few processes, of which none is left."""
    begun = datetime.now(timezone.utc) - timedelta(seconds=1)  # reports have whole seconds
    suite = start_suite(folder)
    assert suite.stdout is not None
    seen: list[set[psutil.Process]] = []
    for line in suite.stdout:
        if json.loads(line)["event"] == "finished":
            warm = find_below(suite.pid, "stages.kit.warm")
            # Not the stages that are forked meanwhile.
            seen.append({process for process in warm if is_called(process, "bwrap")})
    assert suite.wait(60) == 0
    # One for each of four stages, which serve both models.
    assert len(seen) == 2 and len(seen[0]) == 4 and seen[0] == seen[1]
    wait_for_end(seen[1])
    for record in read_results(folder / "suite-results").records:
        run = folder / "suite-results" / record.run
        report = json.loads((run / "report.json").read_text())
        assert report["engine"]["details"]["warm"].split() == [*STAGES, "float16"]
        plain = convert(record.model.rpartition("/")[2], "--quantize", "float16")
        assert "warm" not in plain.report["engine"]["details"]
        for name in (*ARTIFACTS, "model.float16.tflite"):
            assert sha256(run / name) == sha256(plain.folder / name)
        for stage in (*report["stages"], *report["quantized"]):
            theirs = next(
                s
                for s in (*plain.report["stages"], *plain.report["quantized"])
                if s["name"] == stage["name"]
            )
            assert stage["report"]["versions"] == theirs["report"]["versions"]
            # Its time is the stage's own, from the fork on.
            assert 0 < stage["report"]["seconds"] <= stage["seconds"] + 0.1
            assert datetime.fromisoformat(stage["report"]["started"]) >= begun


@pytest.mark.parametrize("whom", ["worker", "client"])
def test_who_is_killed_leaves_no_warm_process(folder: Path, whom: str) -> None:
    suite = start_suite(folder)
    assert suite.stdout is not None
    try:
        for line in suite.stdout:
            event = json.loads(line)
            warm = find_below(suite.pid, "stages.kit.warm")
            if event["event"] == "stage" and warm:
                break
        else:
            pytest.fail("no stage was warm")
        servers = find_below(suite.pid, "runner.suite.jobs.job")
        workers = {server.parent() for server in servers} - servers
        below = psutil.Process(suite.pid).children(recursive=True)
        assert len(workers) == 1 and workers < set(below)
        killed = psutil.Process(suite.pid) if whom == "client" else workers.pop()
        assert killed is not None
        # The stage, its sandbox and what it was forked from, too.
        everything = killed.children(recursive=True)
        assert warm <= set(everything)
        killed.kill()
        wait_for_end(everything)
    finally:
        suite.kill()
        suite.wait(60)
