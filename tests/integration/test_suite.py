"""A suite on real workers: killed, interrupted, taken up again; and on a cluster that is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import pytest
from distributed import Client, LocalCluster
from harness import ROOT, Convert, run_cli, sha256
from suites import make_cache

from runner.errors import ExitCode
from runner.suite.results import read_results
from runner.suite.worker import FilesPlugin

ARTIFACTS = ("model.onnx", "model.pb", "model.tflite")
SUITE = """
models = ["models/*.pt"]
toolchains = ["2020-09"]
[defaults]
samples = 8
[latency]
sessions = 0
"""


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A suite of two models, and a file that is none."""
    (tmp_path / "models").mkdir()
    for name in ("cnn", "script"):
        shutil.copyfile(models / f"{name}.pt", tmp_path / "models" / f"{name}.pt")
        toml = models / f"{name}.toml"
        if toml.is_file():
            shutil.copyfile(toml, tmp_path / "models" / toml.name)
    (tmp_path / "models/none.pt").write_bytes(b"no model")
    (tmp_path / "suite.toml").write_text(SUITE)
    return tmp_path


Events = list[dict[str, Any]]
Watch = Callable[[subprocess.Popen[str], dict[str, Any]], None]


def run_suite(folder: Path, *options: str, watch: Watch = lambda c, e: None) -> tuple[int, Events]:
    """Run the suite; `watch` sees the client and each event as it comes."""
    command = [sys.executable, "-m", "runner", "suite", "run", "suite.toml", "--json"]
    client = subprocess.Popen(
        [*command, "--engine", "process", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None and client.stderr is not None
    events: Events = []
    try:
        for line in client.stdout:
            events.append(json.loads(line))
            watch(client, events[-1])
        errors = client.stderr.read()
        status = client.wait(60)
    finally:
        if client.poll() is None:
            client.terminate()
            client.wait(60)
    assert status in (0, ExitCode.INCOMPLETE, ExitCode.INTERRUPTED), errors
    return status, events


def kill_worker(client: subprocess.Popen[str], address: str) -> None:
    """Kill the worker that listens at an address, if it has not ended in the meantime."""
    port = int(address.rpartition(":")[2])
    for process in psutil.Process(client.pid).children(recursive=True):
        try:
            ports = {c.laddr.port for c in process.net_connections() if c.status == "LISTEN"}
        except psutil.Error:  # a process that has just ended
            continue
        if port in ports:
            process.kill()
            return


def list_started(events: Events) -> list[str]:
    return [event["conversion"] for event in events if event["event"] == "started"]


def test_nothing_is_lost(folder: Path, convert: Convert) -> None:
    """One model's worker is killed at every try, then the client interrupted, then all is well."""

    def kill_script(client: subprocess.Popen[str], event: dict[str, Any]) -> None:
        if event["event"] == "started" and "script" in event["conversion"]:
            kill_worker(client, event["worker"])

    status, events = run_suite(folder, "--workers", "2", watch=kill_script)
    assert status == ExitCode.INCOMPLETE
    started = list_started(events)
    assert started.count("models/script · 2020-09") == 3
    results = read_results(folder / "suite-results")
    found = {record.model: record for record in results.records}
    killed = found["models/script"]
    assert killed.outcome == "killed" and killed.attempts == 3
    assert "3 times" in (results.folder / killed.log).read_text()
    assert found["models/cnn"].outcome in ("passed", "rounding")
    assert found["models/none"].outcome == "refused" and found["models/none"].reason
    before = {path: path.stat().st_mtime_ns for path in results.folder.glob("runs/*cnn/**/*")}

    def interrupt(client: subprocess.Popen[str], event: dict[str, Any]) -> None:
        if event["event"] == "started":
            client.send_signal(signal.SIGINT)

    status, events = run_suite(folder, "--workers", "2", watch=interrupt)
    assert status == ExitCode.INTERRUPTED
    status, events = run_suite(folder, "--workers", "2")
    assert status == 0
    assert set(list_started(events)) == {"models/script · 2020-09"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    results = read_results(folder / "suite-results")
    outcomes = [record.outcome for record in results.records]
    assert outcomes[1] == "refused" and {outcomes[0], outcomes[2]} <= {"passed", "rounding"}
    plain = convert("cnn").folder
    run = results.folder / found["models/cnn"].run
    for name in ARTIFACTS:
        assert sha256(run / name) == sha256(plain / name)
    # Nobody is left behind, and nothing is half done.
    assert not list(results.folder.glob(".drafts/*"))
    assert (results.folder / "results.csv").read_text().count("\n") == 4


class Cluster:
    """A scheduler and a worker of their own, as a user starts them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cache = make_cache(folder / "cache")
        self.address = "tcp://127.0.0.1:0"

    def start(self) -> None:
        """Start both, at the address that they had before if there was one."""
        file = self._folder / "scheduler.json"
        file.unlink(missing_ok=True)
        host, _, port = self.address.rpartition("/")[2].partition(":")
        where = ["--host", host, "--port", port, "--scheduler-file", str(file), "--no-dashboard"]
        self._scheduler = self._spawn("distributed.cli.dask_scheduler", *where)
        size = ["--nthreads", "1", "--no-dashboard"]
        places = ["--scheduler-file", str(file), "--local-directory", str(self._folder / "dask")]
        self._worker = self._spawn("distributed.cli.dask_worker", *size, *places)
        until = time.monotonic() + 60
        while not file.is_file() and time.monotonic() < until:
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]

    def _spawn(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "RUNNER_CACHE_DIR": str(self._cache)}
        with open(self._folder / "log", "ab") as log:
            command = [sys.executable, "-m", module, *options]
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        for process in (self._scheduler, self._worker):
            process.kill()
            process.wait(60)

    def end(self) -> None:
        """End both; the scheduler is killed, and the worker may finish what it does."""
        self._scheduler.kill()
        self._scheduler.wait()
        self._worker.terminate()
        self._worker.wait(60)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.end()


def test_a_cluster_gets_files_by_content(folder: Path, cluster: Cluster, convert: Convert) -> None:
    (folder / "models/script.pt").unlink()
    store = folder / "store"
    where = ("--scheduler", cluster.address)
    status, events = run_suite(folder, *where, "--store", str(store))
    assert status == 0 and len(list_started(events)) == 1
    record = read_results(folder / "suite-results").records[0]
    plain = convert("cnn").folder
    stored = {path.name for path in store.glob("*/*")}
    for name in ARTIFACTS:
        file = folder / "suite-results" / record.run / name
        assert sha256(file) == sha256(plain / name)
        assert sha256(file) in stored
    # Without a store, by Dask's connections; the worker has the run still, and makes it no more.
    status, events = run_suite(folder, *where, "--output", "others")
    assert status == 0 and not list_started(events)
    again = read_results(folder / "others").records[0]
    assert (again.outcome, again.artifact) == (record.outcome, record.artifact)


def test_folders_of_images_go_to_a_cluster(folder: Path, cluster: Cluster) -> None:
    """A worker quantises by the arrays that the client makes of them."""
    (folder / "models/script.pt").unlink()
    (folder / "models/none.pt").unlink()
    (folder / "models/cnn.toml").write_text(
        '[[input]]\nname = "input"\nshape = [1, 3, 32, 32]\nkind = "image"\nscale = 0.01\n'
    )
    for name, seed in (("seen", 1), ("held", 2)):
        (folder / name).mkdir()
        for number, pixels in enumerate(
            np.random.default_rng(seed).integers(0, 256, (12, 8, 8, 3))
        ):
            image = PIL.Image.fromarray(pixels.astype(np.uint8))
            image.resize((32, 32)).save(folder / name / f"{number:02d}.png")
    (folder / "suite.toml").write_text(
        f'{SUITE}[variants.int8]\nquantize = ["int8"]\ncalibration = "seen"\ninputs = "held"\n'
    )
    status, _ = run_suite(folder, "--scheduler", cluster.address)
    assert status == 0
    run = folder / "suite-results" / read_results(folder / "suite-results").records[0].run
    done = run_cli(
        *("convert", "--model", "models/cnn.pt", "--output", "plain", "--engine", "process"),
        *("--quantize", "int8", "--calibration", "seen", "--inputs", "held"),
        cwd=folder,
    )
    assert (folder / "plain/model.int8.tflite").is_file(), done.stderr
    for name in (*ARTIFACTS, "model.int8.tflite"):
        assert sha256(run / name) == sha256(folder / "plain" / name)


def test_a_scheduler_that_is_started_again(folder: Path, cluster: Cluster) -> None:
    """Its worker is another one then, and what the first one did is lost."""
    begun: list[str] = []

    def restart(client: subprocess.Popen[str], event: dict[str, Any]) -> None:
        if event["event"] == "stage" and not begun:
            begun.append(event["conversion"])
            cluster.kill()
            cluster.start()

    status, events = run_suite(folder, "--scheduler", cluster.address, watch=restart)
    assert status == 0
    said = [event["text"] for event in events if event["event"] == "say"]
    assert any("The scheduler is gone" in text for text in said)
    assert list_started(events).count(begun[0]) == 2
    records = read_results(folder / "suite-results").records
    outcomes = sorted(record.outcome for record in records)
    assert len(outcomes) == 3 and outcomes[-1] == "refused", outcomes
    assert set(outcomes[:2]) <= {"passed", "rounding"}


def test_a_worker_with_another_runner_is_refused() -> None:
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as made,
        Client(made) as client,
        pytest.raises(Exception, match="not 0.0.9"),
    ):
        client.register_plugin(FilesPlugin("0.0.9"))


def test_a_plan_does_nothing(folder: Path) -> None:
    done = run_cli("suite", "run", "suite.toml", "--plan", "--json", cwd=folder)
    plan = json.loads(done.stdout)
    assert (plan["conversions"], plan["refused"], plan["to do"]) == (3, 1, 2)
    assert not (folder / "suite-results").exists()
    for arguments in (
        ("run", "none.toml"),
        ("run", "suite.toml", "--output", str(ROOT)),
        ("compare", "models", "models"),
    ):
        assert run_cli("suite", *arguments, cwd=folder).returncode == ExitCode.BAD_INPUT
    done = run_cli("suite", "run", "suite.toml", "--scheduler", "tcp://127.0.0.1:1", cwd=folder)
    assert done.returncode == ExitCode.ENVIRONMENT and "dask scheduler" in done.stderr
