"""A bad day: processes killed, disks full, daemons gone. Nothing is lost, and it works again.

Each test breaks something real under a real run, and gives a row of docs/faults.md.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from faulty import (
    Daemon,
    Place,
    disk,
    docker,
    failure,
    finish,
    in_stage,
    of_owner,
    processes,
    said,
    what_is_there_is_whole,
    works_again,
)
from harness import (
    BAD_INPUT,
    ENGINES,
    ENVIRONMENT,
    PASSED,
    ROOT,
    STAGE_FAILED,
    STAGES,
    SUPPORT,
    Convert,
    leftovers,
    run_cli,
    sha256,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="breaking a machine takes root")

PAGE = ROOT / "docs" / "faults.md"
INTRODUCTION = """\
# Faults

Written by `tests/integration/test_faults.py`, each row by a test that breaks something real under
a real conversion. After each of them no process, container, volume, lock or temporary file is left,
or `runner clean` has found and removed it; every file that has its final name is whole; and the
next conversion succeeds, with the same bytes as ever.

`runner clean --keep-cache` removes what killed runs left, and leaves the cache of stages, from
which a run that failed is taken up.

| fault | what was tried | engine | what happened | the next conversion |
|---|---|---|---|---|
"""
# In the order of the page: the fault, and what was tried.
FAULTS = {
    "killed": ("a stage is killed", "SIGKILL to its process or container"),
    "memory": ("out of memory", "a container of 400 MB; a process with a limit (RLIMIT_AS)"),
    "daemon": ("the daemon is killed", "SIGKILL to dockerd in mid-stage, then a new start"),
    "disk": ("the output disk is full", "disks of several sizes, from one on which no report fits"),
    "disk-write": (
        "the disk is full at each write",
        "for each file that the runner writes, a run whose disk is filled just before it",
    ),
    "disk-docker": ("the daemon's disk is full", "an engine whose disk has 0, 100 and 300 kB left"),
    "disk-cache": ("the cache's disk is full", "40 kB for the cache of stages"),
    "disk-tmp": ("the temporary disk is full", "8 kB for TMPDIR"),
    "runner": (
        "the runner is killed",
        "SIGKILL before a stage, in it, while its artifact is collected, while it goes into the "
        "cache, and at the files of the record",
    ),
    "two": ("runs at once", "two into one folder, and a third on the same cache"),
    "read-only": ("a read-only disk", "from the start, and from the middle of a stage on"),
    "clock": ("the clock jumps", "400 days ahead and back, in mid-stage"),
    "image": ("an image is deleted", "in mid-run (process: an environment)"),
    "volume": ("the volume is removed", "in mid-stage"),
}
# There is no daemon without Docker.
NOT_TRIED = {("daemon", "process"), ("disk-docker", "process")}

HOG = """
import sys, torch

class Hog(torch.nn.Module):
    def forward(self, x):
        return x + x.repeat(1, 100000000).cumsum(1).mean()

torch.jit.script(Hog()).save(sys.argv[1])
"""

Hashes = Mapping[str, str]
Places = Callable[..., Place]
Rows = dict[tuple[str, str], tuple[str, str]]
Row = Callable[[str, str, str, str], None]


@pytest.fixture(scope="module")
def rows() -> Iterator[Rows]:
    yield {}


@pytest.fixture
def row(rows: Rows) -> Row:
    """Add a row to the page: a fault, the engine, what happened, and how it went on."""

    def add(fault: str, engine: str, happened: str, then: str) -> None:
        rows[fault, engine] = happened, then

    return add


@pytest.fixture
def places(tmp_path: Path, models: Path, pythons: dict[str, Path]) -> Places:
    def place(engine: str, model: str = "cnn.pt", **more: Any) -> Place:
        return Place(tmp_path, models / model, engine, **more)

    return place


@pytest.fixture
def hashes(convert: Convert) -> Hashes:
    return convert("cnn").hashes


@pytest.fixture(scope="module")
def hog(models: Path, in_environment: Any) -> str:
    """The name of a model that takes some gigabytes."""
    program = models / "hog.py"
    program.write_text(HOG)
    made = in_environment("torch", program, models / "hog.pt")
    assert made.returncode == 0, made.stderr
    return "hog.pt"


def artifacts(run_folder: Path) -> set[str]:
    return {path.name for path in run_folder.glob("model.*")}


def tidied(place: Place, *pids: int) -> str:
    found = place.clean()
    place.is_tidy(*pids)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stage_is_killed(places: Places, hashes: Hashes, engine: str, row: Row) -> None:
    place = places(engine)
    output = place.new_output()
    process = place.start(output)
    victim = in_stage(process, engine, "onnx-tf")
    if engine == "docker":
        docker("kill", "--signal", "KILL", victim)
    else:
        os.kill(int(victim), signal.SIGKILL)
    run = finish(process, output)
    assert run.code == STAGE_FAILED, said(run)
    text = failure(run)
    assert "onnx-tf failed" in text and ("SIGKILL" in text or "signal 9" in text)
    assert artifacts(output) == {"model.onnx"}
    what_is_there_is_whole(output, hashes)
    place.is_tidy(process.pid)
    assert works_again(place, hashes) == ["torch"]
    row("killed", engine, "onnx-tf failed: ended by SIGKILL", "torch is taken from the cache")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stage_runs_out_of_memory(places: Places, hog: str, engine: str, row: Row) -> None:
    """The container gets less while it starts; the process inherits a limit."""
    place = places(engine, hog, options=("--samples", "2", "--input", "1x4"))
    output = place.new_output()
    process = place.start(output)
    if engine == "docker":
        limit = ("--memory", "400m", "--memory-swap", "400m")
        docker("update", *limit, in_stage(process, engine, "torch"))
    else:
        # What the stage, which is still to start, will inherit.
        subprocess.run(["prlimit", "--pid", str(process.pid), "--as=3500000000"], check=True)
    run = finish(process, output)
    assert run.code == STAGE_FAILED, said(run)
    assert "memory" in said(run) and failure(run).startswith("torch failed: ")
    known = run.stage("torch")["known"]
    assert known and known["id"].startswith("out-of-memory")
    place.is_tidy(process.pid)
    place.model = place.model.with_name("cnn.pt")
    place.options = ("--samples", "8")
    works_again(place, {})
    row("memory", engine, "torch failed: out of memory, and what to do", "another model converts")


RECORDS = ("report.json", "report.html", "provenance.json", "test-result.json")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_runner_is_killed(places: Places, hashes: Hashes, engine: str, row: Row) -> None:
    place = places(engine)
    outputs = []

    def killed(event: str, part: str) -> Path:
        outputs.append(place.new_output())
        place.killed_at(outputs[-1], event, part)
        what_is_there_is_whole(outputs[-1], hashes)
        return outputs[-1]

    # Before any stage; while an artifact is collected; while the stage goes into the cache.
    killed("os.mkdir", "/.volume" if engine == "process" else "/logs")
    assert artifacts(killed("os.rename", "/.model.onnx.")) == set()
    assert artifacts(killed("shutil.copyfile", f"{place.cache}/stages/.")) == {"model.onnx"}
    # In a stage.
    outputs.append(place.new_output())
    process = place.start(outputs[-1])
    in_stage(process, engine, "onnx-tf")
    process.kill()
    process.communicate()
    place.killed.append(process.pid)
    assert artifacts(outputs[-1]) == {"model.onnx"}
    if engine == "docker":
        assert of_owner(process.pid), "there is nothing to be found"
    else:
        wait_for_end(str(outputs[-1]))
    # While the last things are written, in their order. The first of these does all stages.
    for number, name in enumerate(RECORDS if engine == "process" else RECORDS[:1]):
        output = killed("os.rename", f"/.{name}.")
        written = {path.name for path in output.iterdir() if path.name in RECORDS}
        assert written == set(RECORDS[:number])
        assert artifacts(output) == set(hashes)
    again = place.convert(outputs[-1])
    assert again.code == BAD_INPUT and "runner clean" in said(again) or "report.json" in written
    assert "removed: " in tidied(place, *place.killed)
    for output in outputs:
        what_is_there_is_whole(output, hashes)
    # Where nothing had been finished, not even a folder is left.
    assert not outputs[0].exists()
    # All were made before the reports were: nothing is done again.
    assert works_again(place, hashes) == list(STAGES)
    row(
        "runner",
        engine,
        "what has its final name is whole; `runner clean` removes the rest",
        "every stage that had finished is taken from the cache",
    )


def wait_for_end(text: str) -> None:
    """The stage's process ends with its runner, which could not end it."""
    deadline = time.monotonic() + 60
    while processes(text):
        assert time.monotonic() < deadline, "the stage outlives its runner"
        time.sleep(0.05)


# Kilobytes besides those that are held for the report: the first disk has not even these.
SIZES = {"process": (-8, 40, 150), "docker": (-8, 4)}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_output_disk_is_full(places: Places, hashes: Hashes, engine: str, row: Row) -> None:
    """From a disk on which nothing fits to one on which nearly all does."""
    place = places(engine)
    place.environment["RUNNER_STAGE_CACHE"] = "0"
    ends = []
    for number, more in enumerate(SIZES[engine]):
        with disk(place.folder / f"disk-{number}", f"{4096 + more}k") as folder:
            run = place.convert(folder / "out")
            text = said(run)
            ends.append(run.code)
            assert leftovers(folder) == []
            what_is_there_is_whole(folder, hashes)
            if run.code != PASSED:
                few = run.code == BAD_INPUT and "bytes free. → Take fewer --samples" in text
                full = run.code in (STAGE_FAILED, ENVIRONMENT) and "No space left on" in text
                assert (few or full) and "→" in text, text
            if "Engine:" in text and "torch: " in text:
                # Whatever else could not be written, the report was.
                assert run.report["exit_code"] == run.code
                assert (run.folder / "report.html").exists()
            else:
                assert not run.folder.exists()
    assert ends[0] == ENVIRONMENT and ends[1] != PASSED
    works_again(place, hashes)
    what = "it fails and says so; where a stage had begun, the report is written all the same"
    row("disk", engine, what, "on a larger disk it converts")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_disk_is_full_at_each_write(
    places: Places, hashes: Hashes, engine: str, row: Row
) -> None:
    """Stages come from the cache here, so that every file is one that the runner writes."""
    place = places(engine)
    assert place.convert().code == PASSED
    keep = place.folder / "kept"
    keep.mkdir()
    with disk(place.folder / "disk", "8m") as folder:
        program = SUPPORT / "every_write.py"
        done = subprocess.run(
            [sys.executable, program, folder, keep, *place.arguments(folder / "out")],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **place.environment},
        )
    assert done.returncode == 0, done.stderr
    *runs, last = [json.loads(line) for line in done.stdout.splitlines()]
    # Three artifacts and logs, the report, the page and the record, at the least.
    assert len(runs) >= 10 and last["code"] == PASSED
    for number, run in enumerate(runs, 1):
        text = " ".join(run["said"].split())
        assert "Traceback" not in text and "defect of the runner" not in text, text
        # An empty log has room on any disk.
        full = run["code"] == ENVIRONMENT and "No space left on device" in text and "→" in text
        assert full or run["code"] == PASSED, (number, text)
        assert leftovers(Path(run["kept"])) == []
        what_is_there_is_whole(Path(run["kept"]), hashes)
    assert [run["code"] for run in runs].count(PASSED) <= len(STAGES)
    place.is_tidy()
    what = "it fails and says so; what has its final name is whole"
    row("disk-write", engine, what, "it converts")


@pytest.mark.parametrize("engine", ENGINES)
def test_other_disks_are_full(places: Places, hashes: Hashes, engine: str, row: Row) -> None:
    place = places(engine)
    with disk(place.cache / "stages", "40k"):
        run = place.convert()
        assert run.code == PASSED, said(run)
        assert run.hashes == hashes
        place.is_tidy()
    row("disk-cache", engine, "it converts; what does not fit is not kept", "it converts")
    # Python takes a temporary folder only if some bytes fit there.
    with disk(place.folder / "tmp", "8k") as tmp:
        run = place.convert(TMPDIR=str(tmp))
        text = said(run)
        if engine == "docker":
            assert run.code == ENVIRONMENT and "No space left on device" in text and "→" in text
            assert not run.folder.exists()
        else:
            assert run.code == PASSED, text
        assert list(tmp.iterdir()) == []
    works_again(place, hashes)
    what = "it fails before any stage, and says so" if engine == "docker" else "it converts"
    row("disk-tmp", engine, what, "it converts")


@pytest.mark.parametrize("engine", ENGINES)
def test_runs_at_once(places: Places, hashes: Hashes, engine: str, row: Row) -> None:
    """Two in one folder, and a third in another, all with one cache."""
    place = places(engine)
    shared, other = place.new_output(), place.new_output()
    started = [(place.start(folder), folder) for folder in (shared, shared, other)]
    runs = [finish(process, folder) for process, folder in started]
    assert sorted(run.code for run in runs[:2]) == [PASSED, BAD_INPUT], list(map(said, runs))
    (refused,) = [run for run in runs[:2] if run.code == BAD_INPUT]
    assert "another run's" in said(refused) or "not empty" in said(refused)
    assert runs[2].code == PASSED, said(runs[2])
    for run in (runs[0], runs[2]):
        assert run.hashes == hashes and run.report["outcome"] == "passed"
    place.is_tidy(*(process.pid for process, _ in started))
    listed = run_cli("cache", "--json", cwd=ROOT, environment=place.environment)
    assert len(json.loads(listed.stdout)) == len(STAGES)
    assert works_again(place, hashes) == list(STAGES)
    row(
        "two",
        engine,
        "of two in one folder one converts and the other is refused; the third converts",
        "every stage is taken from the cache",
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_is_read_only(places: Places, hashes: Hashes, engine: str, row: Row) -> None:
    """Before the run, and from the middle of a stage on."""
    place = places(engine)
    with disk(place.folder / "disk", "64m") as folder:
        remount(folder, "ro")
        run = place.convert(folder / "out")
        assert run.code == BAD_INPUT and "Read-only file system" in said(run), said(run)
        remount(folder, "rw")
        output = folder / "again"
        process = place.start(output)
        in_stage(process, engine, "onnx-tf")
        # A second mount over the first: the first cannot change while files are open there.
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        try:
            remount(folder, "ro,bind")
            run = finish(process, output)
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        text = said(run)
        assert run.code == ENVIRONMENT, text
        assert "Read-only file system" in text and "→" in text
        what_is_there_is_whole(output, hashes)
        assert artifacts(output) == {"model.onnx"}
        tidied(place, process.pid)
        assert works_again(place, hashes) == ["torch"]
    what = "refused before it starts; in mid-stage it fails, and says that no report can be "
    row("read-only", engine, f"{what}written", "torch is taken from the cache")


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clock_jumps(places: Places, hashes: Hashes, engine: str, row: Row) -> None:
    """In the middle of a stage, by more than a year, and back in the next one."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        assert not os.environ.get("CI"), "CI has to have libfaketime"
        pytest.skip("libfaketime is not here")
    place = places(engine)
    clock = place.folder / "clock"
    clock.write_text("+0d\n")
    output = place.new_output()
    process = place.start(
        output,
        LD_PRELOAD=str(libraries[0]),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    for stage, jump in (("torch", "+400d"), ("onnx-tf", "-400d")):
        in_stage(process, engine, stage)
        clock.write_text(f"{jump}\n")
    run = finish(process, output)
    assert run.code == PASSED, said(run)
    assert run.hashes == hashes
    durations = [run.report["seconds"], run.report["overhead_seconds"]]
    durations += [stage["seconds"] for stage in run.report["stages"]]
    assert all(0 <= seconds < 600 for seconds in durations), durations
    record = json.loads((output / "provenance.json").read_text())
    times = record["predicate"]["runDetails"]["metadata"]
    assert times["startedOn"] <= times["finishedOn"]
    place.is_tidy(process.pid)
    assert works_again(place, hashes) == list(STAGES)
    what = "it converts, and its durations are right"
    row("clock", engine, what, "every stage is taken from the cache")


TAG = """
import sys
from runner.engines.docker.client import connect
from runner.engines.docker.images import find_image, make_image_tag
from runner.toolchains.load import load_image
image = load_image(sys.argv[1])
print(make_image_tag(image, sys.argv[2]) if sys.argv[2] else find_image(connect(), image).tag)
"""


def tag_of(image: str, root: Path, base: str = "") -> str:
    """The tag of an image that is here; with a base, that of one which need not be here."""
    command = [sys.executable, "-c", TAG, image, base]
    return subprocess.run(
        command, cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.docker
def test_an_image_is_deleted(places: Places, hashes: Hashes, tmp_path: Path, row: Row) -> None:
    """An image of the test's own, in the middle of a stage before its own."""
    copy = tmp_path / "copy"
    for name in ("runner", "stages", "images"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "images" / "tflite" / "Dockerfile", "a") as file:
        file.write("\n# another image\n")
    ours = tag_of("tflite", ROOT)
    base = docker("inspect", "--format", '{{index .Config.Labels "org.runner.base"}}', ours)
    name = tag_of("tflite", copy, base.strip())

    def build() -> None:
        subprocess.run(
            ["docker", "build", "--quiet", "--tag", name, "-"],
            input=f"FROM {ours}\nLABEL org.runner.test={tmp_path.name}\n",
            text=True,
            check=True,
            capture_output=True,
        )

    build()
    try:
        place = places("docker", root=copy)
        output = place.new_output()
        process = place.start(output)
        in_stage(process, "docker", "torch")
        docker("rmi", "--force", name)
        run = finish(process, output)
        assert run.code == ENVIRONMENT, said(run)
        text = failure(run)
        assert "tflite failed: The Docker engine failed" in text and "No such image" in text
        assert artifacts(output) == {"model.onnx", "model.pb"}
        what_is_there_is_whole(output, hashes)
        place.is_tidy(process.pid)
        build()  # which the next run would do by itself, in a minute
        assert works_again(place, hashes) == ["torch", "onnx-tf"]
    finally:
        subprocess.run(["docker", "rmi", "--force", name], capture_output=True, check=False)
    what = "tflite failed: no such image"
    row("image", "docker", what, "the stages before it are taken from the cache")


def test_an_environment_is_deleted(places: Places, hashes: Hashes, row: Row) -> None:
    """What an image is to the other engine."""
    place = places("process")
    environments = place.cache / "environments"
    real = environments.resolve()
    environments.unlink()
    environments.mkdir()
    for folder in real.glob("[a-z]*"):
        if folder.is_dir():
            (environments / folder.name).symlink_to(folder)
    output = place.new_output()
    process = place.start(output)
    in_stage(process, "process", "torch")
    links = {path: path.readlink() for path in environments.glob("tflite-*") if path.is_symlink()}
    for link in links:
        link.unlink()
    run = finish(process, output)
    assert run.code == ENVIRONMENT, said(run)
    assert failure(run).startswith("tflite failed: ")
    assert artifacts(output) == {"model.onnx", "model.pb"}
    for link, target in links.items():
        link.symlink_to(target)  # which the next run would do by itself, in a minute
    assert works_again(place, hashes) == ["torch", "onnx-tf"]
    what = "tflite failed: its environment is not there"
    row("image", "process", what, "the stages before it are taken from the cache")


def remove_volume(pid: int) -> None:
    """A runner's volume, and its containers, of which it may be starting another."""
    for _ in range(50):
        if not (found := of_owner(pid)):
            return  # the runner was quicker to remove it, once its containers were gone
        *containers, volume = found
        subprocess.run(["docker", "rm", "--force", *containers], capture_output=True, check=False)
        removed = subprocess.run(["docker", "volume", "rm", volume], capture_output=True)
        if removed.returncode == 0:
            return
    pytest.fail(f"the volume could not be removed: {removed.stderr.decode()}")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_volume_is_removed(places: Places, hashes: Hashes, engine: str, row: Row) -> None:
    """In the middle of a stage; Docker gives it away only with the containers that hold it."""
    place = places(engine)
    output = place.new_output()
    process = place.start(output)
    in_stage(process, engine, "onnx-tf")
    if engine == "docker":
        remove_volume(process.pid)
    else:
        shutil.rmtree(output / ".volume")
    run = finish(process, output)
    assert run.code == ENVIRONMENT, said(run)
    assert failure(run).startswith("onnx-tf failed: ")
    assert artifacts(output) == {"model.onnx"}
    what_is_there_is_whole(output, hashes)
    place.is_tidy(process.pid)
    assert works_again(place, hashes) == ["torch"]
    row("volume", engine, "onnx-tf failed, and the report says so", "torch is taken from the cache")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An engine of the tests' own, with one image."""
    daemon = Daemon(tmp_path_factory.mktemp("engine") / "docker")
    try:
        name = tag_of("tflite", ROOT)
        with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as save:
            load = ["docker", "--host", daemon.address, "load", "--quiet"]
            subprocess.run(load, stdin=save.stdout, check=True, capture_output=True)
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def on_daemon(daemon: Daemon, convert: Convert, tmp_path: Path) -> Place:
    """Conversions from a frozen graph on, on that engine."""
    graph = tmp_path / "model.pb"
    shutil.copyfile(convert("cnn").folder / "model.pb", graph)
    return Place(tmp_path, graph, "docker", {"DOCKER_HOST": daemon.address})


@pytest.mark.docker
def test_the_disk_of_the_daemon_is_full(daemon: Daemon, on_daemon: Place, row: Row) -> None:
    """From one on which nothing fits to one on which the stage can begin."""
    place = on_daemon
    for left in (0, 100_000, 300_000):
        with daemon.full(left):
            run = place.convert()
        text = said(run)
        few = run.code == BAD_INPUT and "bytes free. → Take fewer --samples" in text
        full = run.code in (STAGE_FAILED, ENVIRONMENT) and "no space left" in text.lower()
        assert (few or full) and "→" in text, text
        place.is_tidy()
    works_again(place, {})
    row("disk-docker", "docker", "it fails and says so", "it converts")


@pytest.mark.docker
def test_the_daemon_is_killed(daemon: Daemon, on_daemon: Place, row: Row) -> None:
    """And started again."""
    place = on_daemon
    output = place.new_output()
    process = place.start(output)
    in_stage(process, "docker", "tflite", place.environment)
    daemon.kill()
    run = finish(process, output)
    assert run.code == ENVIRONMENT, said(run)
    assert "tflite failed: The Docker engine failed" in failure(run)
    assert run.report["artifacts"][0]["sha256"] == sha256(output / "model.pb")
    assert leftovers(output) == []
    refused = place.convert()
    assert refused.code == ENVIRONMENT and "No Docker engine answers" in said(refused)
    daemon.start()
    assert of_owner(process.pid, place.environment), "there is nothing to be found"
    tidied(place, process.pid)
    assert works_again(place, {}) == ["graph"]
    what = "tflite failed: the engine; `runner clean` removes container and volume once it is back"
    row("daemon", "docker", what, "the stage before it is taken from the cache")


def test_the_page_says_so(rows: Rows) -> None:
    """Last: when all of the above has passed, docs/faults.md is what it showed."""
    wanted = [(f, e) for f in FAULTS for e in ("docker", "process") if (f, e) not in NOT_TRIED]
    if missing := [key for key in wanted if key not in rows]:
        pytest.skip(f"not all faults were tried: {missing}")
    page = INTRODUCTION
    for fault, engine in wanted:
        page += f"| {' | '.join((*FAULTS[fault], engine, *rows[fault, engine]))} |\n"
    if not PAGE.exists() or PAGE.read_text() != page:
        PAGE.write_text(page)
        pytest.fail(f"{PAGE} was not what happened; it has been written anew")
