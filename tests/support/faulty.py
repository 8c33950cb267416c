"""What the tests of faults share: a machine of its own for a run, and the ways to break it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from harness import ARTIFACTS, MODULES, PASSED, ROOT, Run, leftovers, run_cli, sha256

from runner.host.paths import cache_folder

Found = TypeVar("Found")

# A runner that is killed just before it does a certain thing: an event of Python's auditing, and a
# part of one of its arguments.
KILLED_AT = """
import os, signal, sys
event, part = sys.argv[1:3]
def watch(name, arguments):
    if name == event and any(part in str(argument) for argument in arguments):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
sys.argv[:3] = ["runner"]
from runner.cli.app import entry_point
entry_point()
"""


@dataclass
class Place:
    """A folder for runs of one model on one engine, with a cache of their own."""

    folder: Path
    model: Path
    engine: str
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str | Path, ...] = ("--samples", "8")
    root: Path = ROOT
    killed: list[int] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self.cache.mkdir(exist_ok=True)
        (self.cache / "environments").symlink_to(cache_folder() / "environments")
        self.environment = {
            "RUNNER_CACHE_DIR": str(self.cache),
            "RUNNER_STAGE_CACHE": "1",
            **self.environment,
        }

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def new_output(self) -> Path:
        self.runs += 1
        return self.folder / f"run-{self.runs}"

    def arguments(self, output: Path) -> list[str | Path]:
        source = "--from-pb" if self.model.suffix == ".pb" else "--model"
        return [
            *("convert", source, self.model, "--output", output, "--engine", self.engine),
            *self.options,
        ]

    def convert(self, output: Path | None = None, **more: str) -> Run:
        output = output or self.new_output()
        done = run_cli(
            *self.arguments(output), cwd=self.root, environment={**self.environment, **more}
        )
        return Run(done.returncode, done.stdout, done.stderr, output)

    def start(self, output: Path, *kill_at: str, **more: str) -> subprocess.Popen[str]:
        """Begin a conversion; with two more arguments, of a runner that is killed there.

        It has one core, so that a stage's process is there only when it has its turn.
        """
        cores = sorted(os.sched_getaffinity(0))
        core = cores[os.getpid() % len(cores)]
        how = ["-c", KILLED_AT, *kill_at] if kill_at else ["-m", "runner"]
        return subprocess.Popen(
            [sys.executable, *how, *map(str, self.arguments(output))],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.root,
            env={**os.environ, **self.environment, **more},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )

    def killed_at(self, output: Path, event: str, part: str) -> None:
        """Run until the runner is killed at the very moment of this event."""
        process = self.start(output, event, part)
        said = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, f"{event} {part} never came: {said}"
        self.killed.append(process.pid)

    def clean(self) -> str:
        done = run_cli("clean", "--keep-cache", cwd=self.root, environment=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def is_tidy(self, *pids: int) -> None:
        """Nothing of these runners is left: neither process, container, volume nor file."""
        assert leftovers(self.folder) == [] and not list(self.folder.glob("run-*/.*"))
        assert list((self.cache / "active").glob("*")) == []
        assert list((self.cache / "stages").glob(".*.part")) == []
        for pid in pids:
            assert of_owner(pid, self.environment) == [], pid
            assert list(Path("/tmp").glob(f"runner-*-{pid}-*")) == []
            assert list(Path("/sys/fs/cgroup").glob(f"**/runner-{pid}-*")) == []
        assert processes(str(self.folder / "run-")) == []


def finish(process: subprocess.Popen[str], output: Path) -> Run:
    said, errors = process.communicate(timeout=300)
    return Run(process.returncode, said, errors, output)


def wait_for(look: Callable[[], Found], process: subprocess.Popen[str]) -> Found:
    """What a look finds, as soon as it finds something."""
    while not (found := look()):
        if process.poll() is not None:
            said = process.communicate()
            pytest.fail(f"the run ended before that: {said}")
        time.sleep(0.02)
    return found


def processes(text: str) -> list[int]:
    """Ids of processes that have a text in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(int(path.parent.name))
    return found


def stage_process(runner: subprocess.Popen[str], module: str) -> int:
    """The process of a stage, a descendant of the runner, as soon as it is there."""

    def look() -> int:
        for pid in processes(f"-m {module} "):
            above = pid
            while above > 1 and above != runner.pid:
                above = _parent(above)
            if above == runner.pid and not processes_below(pid):
                return pid
        return 0

    return wait_for(look, runner)


def processes_below(pid: int) -> list[int]:
    return [int(p.name) for p in Path("/proc").glob("[0-9]*") if _parent(int(p.name)) == pid]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def docker(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    return subprocess.run(
        ["docker", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    ).stdout


def of_owner(pid: int, environment: Mapping[str, str] | None = None) -> list[str]:
    """Containers and volumes of a runner's."""
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        return []
    label = '{{.Label "org.runner.owner"}}'
    lines = docker("ps", "--all", "--format", f"{{{{.ID}}}} {label}", environment=environment)
    lines += docker("volume", "ls", "--format", f"{{{{.Name}}}} {label}", environment=environment)
    return [line.split()[0] for line in lines.splitlines() if line.split()[2:3] == [str(pid)]]


def stage_container(runner: subprocess.Popen[str], stage: str, environment: Any = None) -> str:
    """The container of a stage of this runner's, as soon as it runs."""

    def look() -> str:
        lines = docker(
            *("ps", "--filter", f"label=org.runner.stage={stage}", "--format"),
            '{{.ID}} {{.Label "org.runner.owner"}}',
            environment=environment,
        )
        mine = [line for line in lines.splitlines() if line.split()[2:3] == [str(runner.pid)]]
        return mine[0].split()[0] if mine else ""

    return wait_for(look, runner)


def in_stage(
    runner: subprocess.Popen[str],
    engine: str,
    stage: str,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Wait until a stage is running; its container's id or its process's."""
    if engine == "docker":
        return stage_container(runner, stage, environment)
    return str(stage_process(runner, MODULES[stage]))


class Daemon:
    """A Docker engine of the test's own, which shares nothing with the machine's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        # A disk of its own, that can be filled.
        (folder / "data").mkdir()
        options = ["-t", "tmpfs", "-o", "size=2g", "tmpfs"]
        subprocess.run(["mount", *options, str(folder / "data")], check=True)
        self.address = f"unix://{folder}/docker.sock"
        (folder / "daemon.json").write_text("{}")
        self.start()

    def start(self) -> None:
        folder = self.folder
        with open(folder / "log", "a") as log:
            self.process = subprocess.Popen(
                [
                    # In a network of its own: an engine without a bridge removes the other one's.
                    *("unshare", "--net", "dockerd", "--host", self.address),
                    *("--config-file", str(folder / "daemon.json"), "--bridge=none"),
                    *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                    *("--pidfile", str(folder / "pid"), "--iptables=false"),
                ],
                stdout=log,
                stderr=log,
            )
        ping = ["docker", "--host", self.address, "version"]
        while subprocess.run(ping, capture_output=True, check=False).returncode:
            assert self.process.poll() is None, (folder / "log").read_text()[-3000:]
            time.sleep(0.1)

    @contextmanager
    def full(self, left: int) -> Iterator[None]:
        """Leave so many bytes of its disk."""
        ballast = self.folder / "data" / "ballast"
        disk = os.statvfs(ballast.parent)
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - left)
        try:
            yield
        finally:
            ballast.unlink()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        # The one that was killed could not unmount it.
        mounted = subprocess.run(
            ["findmnt", "--list", "--noheadings", "--output", "TARGET"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for target in sorted((t for t in mounted if t.startswith(str(self.folder))), reverse=True):
            subprocess.run(["umount", "--lazy", target], check=False)


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A small disk of its own at this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def what_is_there_is_whole(folder: Path, hashes: Mapping[str, str]) -> None:
    """Each file that has its final name is complete, and each artifact the right one."""
    for path in folder.rglob("*"):
        if not path.is_file() or any(p.startswith(".") for p in path.relative_to(folder).parts):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.name in ARTIFACTS:
            assert sha256(path) == hashes[path.name]


def works_again(place: Place, hashes: Mapping[str, str]) -> list[str]:
    """The next conversion succeeds, with the right result; which stages it took from the cache."""
    run = place.convert()
    assert run.code == PASSED, run.stdout + run.stderr
    for name, value in hashes.items():
        if (run.folder / name).exists():
            assert sha256(run.folder / name) == value
    place.is_tidy()
    return [stage["name"] for stage in run.report["stages"] if stage["cached"]]


def said(run: Run) -> str:
    """All that the user read, in one line; never a traceback."""
    text = " ".join((run.stdout + run.stderr).split())
    assert "Traceback (most" not in text and "defect of the runner" not in text, text
    return text


def failure(run: Run) -> str:
    """What the report says of the stage that failed, without what differs between machines."""
    (record,) = [stage for stage in run.report["stages"] if stage["status"] == "failed"]
    assert record["remedy"] or record.get("known"), record
    text = re.sub(r"\d+\.\d GB", "N GB", record["failure"].splitlines()[0])
    return f"{record['name']} failed: {text}"
