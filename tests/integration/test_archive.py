"""An archive, the whole way: saved here, loaded on a machine without images, caches or network."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import (
    ARTIFACTS,
    BAD_INPUT,
    ENGINES,
    ENVIRONMENT,
    INTERRUPTED,
    PASSED,
    ROOT,
    Convert,
    Run,
    sha256,
)

from runner.archive.reader import Archive
from runner.archive.writer import ArchiveWriter

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="cutting off the network takes root"
)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Finished = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Machine:
    """Another machine: an engine and folders of its own, and no network at all."""

    folder: Path
    docker_host: str = "unix:///nonexistent"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": SYSTEM_PATH,
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "DOCKER_HOST": self.docker_host,
            "RUNNER_CACHE_DIR": str(self.folder / "cache"),
            "UV_CACHE_DIR": str(self.folder / "uv"),
            # No interpreter of this machine's, where it is not on the system's own path.
            "PYENV_ROOT": str(self.folder / "no-pyenv"),
        }

    def command(self, *arguments: str | Path) -> list[str]:
        (self.folder / "home").mkdir(exist_ok=True)
        runner = [sys.executable, "-m", "runner", *map(str, arguments)]
        return ["unshare", "--net", *runner]

    def run(self, *arguments: str | Path) -> Finished:
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=900,
            check=False,
        )

    def docker(self, *arguments: str) -> str:
        command = ["docker", "--host", self.docker_host, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def an_engine(folder: Path) -> Iterator[str]:
    """A Docker engine with nothing in it; its address. It shares nothing with the machine's own."""
    folder.mkdir()
    address = f"unix://{folder}/docker.sock"
    (folder / "daemon.json").write_text("{}")
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [
                # In a network of its own: an engine without a bridge removes the other one's.
                *("unshare", "--net", "dockerd"),
                *("--host", address, "--config-file", str(folder / "daemon.json")),
                *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                *("--pidfile", str(folder / "pid"), "--bridge=none", "--iptables=false"),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            ping = ["docker", "--host", address, "version"]
            while subprocess.run(ping, capture_output=True, check=False).returncode:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(60)


@dataclass(frozen=True)
class Saved:
    """An archive for both engines with a run in it: once interrupted, then gone on with."""

    file: Path
    run: Path
    interrupted: Finished
    kept: int
    finished: Finished


def save(file: Path, *options: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runner", "archive", "save", str(file), *map(str, options)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1600905600"},
        # A shell's background jobs ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def ended(process: subprocess.Popen[str]) -> Finished:
    said, errors = process.communicate(timeout=900)
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


@pytest.fixture(scope="module")
def saved(convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    folder = tmp_path_factory.mktemp("saved")
    file, partial = folder / "toolchain.tar", folder / ".toolchain.tar.part"
    run = convert("cnn").folder
    process = save(file, "--run", run)
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 30_000_000):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    interrupted = ended(process)
    kept = partial.stat().st_size
    yield Saved(file, run, interrupted, kept, ended(save(file, "--run", run)))
    shutil.rmtree(folder)


@contextmanager
def a_disk(image: Path, folder: Path) -> Iterator[None]:
    """A disk in a file, mounted on a folder: removing it is quick, whatever files are on it."""
    with open(image, "wb") as file:
        file.truncate(40 << 30)  # sparse: it takes what is written to it
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        image.unlink()
        folder.rmdir()


@pytest.fixture(scope="module")
def machine(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that has loaded the archive."""
    # A socket's path may have 107 bytes.
    folder = Path(f"/tmp/runner-test-machine-{os.getpid()}")
    disk = tmp_path_factory.mktemp("machine") / "disk"
    with a_disk(disk, folder), an_engine(folder / "engine") as docker_host:
        machine = Machine(folder, docker_host)
        loaded = machine.run("archive", "load", saved.file, "--run", folder / "restored")
        assert loaded.returncode == PASSED, loaded.stderr
        for engine in ("process", "docker"):
            assert f"{engine}: torch, onnx-tf, tflite\n" in loaded.stdout
        assert "note" not in loaded.stdout
        yield machine


@pytest.mark.docker
@pytest.mark.slow
def test_an_interrupted_save_is_gone_on_with(saved: Saved) -> None:
    assert saved.interrupted.returncode == INTERRUPTED, saved.interrupted.stderr
    assert "The same command goes on" in saved.interrupted.stderr
    assert saved.kept > 30_000_000
    assert saved.finished.returncode == PASSED, saved.finished.stderr
    assert "goes on after" in saved.finished.stderr
    assert [path.name for path in saved.file.parent.iterdir()] == [saved.file.name]


@pytest.mark.docker
@pytest.mark.slow
def test_one_layer_and_one_wheel_is_there_once(saved: Saved) -> None:
    """Images share their base, and environments many wheels."""
    with Archive(saved.file) as archive:
        index = archive.index
    contents = [part.sha256 for part in index.list_parts("image", "wheel")]
    assert len(contents) == len(set(contents))
    named = [sha for environment in index.environments for sha in environment.wheels]
    assert set(named) <= set(contents) and len(named) > len(set(named))
    assert len({environment.base for environment in index.environments}) == 1


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_convert_without_a_network(
    engine: str, machine: Machine, models: Path, convert: Convert, tmp_path: Path
) -> None:
    before = convert("cnn")
    finished = machine.run(
        *("convert", "--model", models / "cnn.pt", "--output", tmp_path / "run"),
        *("--samples", "8", "--engine", engine),
    )
    assert finished.returncode == PASSED, finished.stderr
    run = Run(finished.returncode, finished.stdout, finished.stderr, tmp_path / "run")
    assert run.hashes == before.hashes
    assert run.report["engine"] == {**run.report["engine"], "name": engine}
    if engine == "process" and not any(shutil.which("python3.8", path=SYSTEM_PATH) or ()):
        (configuration, *_) = (machine.folder / "cache/environments").glob("torch-*/pyvenv.cfg")
        assert f"home = {machine.folder}/cache/interpreters/cpython-3.8." in (
            configuration.read_text()
        )


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_reproduce_without_a_network(
    engine: str, machine: Machine, saved: Saved, models: Path, tmp_path: Path
) -> None:
    """A run that was archived on one machine, from its record alone on another."""
    finished = machine.run(
        *("reproduce", machine.folder / "restored" / saved.run.name),
        *("--model", models / "cnn.pt", "--output", tmp_path / "again", "--engine", engine),
    )
    assert finished.returncode == PASSED, finished.stdout + finished.stderr
    result = json.loads((tmp_path / "again" / "reproduction.json").read_text())
    assert result["verdict"] == "identical"
    made = {name: sha256(tmp_path / "again" / name) for name in ARTIFACTS}
    assert made == {name: sha256(saved.run / name) for name in ARTIFACTS}


@pytest.mark.docker
@pytest.mark.slow
def test_the_runs_come_back(machine: Machine, saved: Saved) -> None:
    restored = machine.folder / "restored" / saved.run.name
    files = {path.relative_to(saved.run) for path in saved.run.rglob("*") if path.is_file()}
    assert files == {path.relative_to(restored) for path in restored.rglob("*") if path.is_file()}
    for name in files:
        assert (restored / name).read_bytes() == (saved.run / name).read_bytes()


@pytest.mark.docker
@pytest.mark.slow
def test_compose_and_the_base_find_their_images(machine: Machine) -> None:
    tags = machine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert {f"runner-{name}:latest" for name in ("torch", "onnx-tf", "tflite")} <= set(tags)
    bases = [tag for tag in tags if tag.startswith("runner-base:")]
    assert bases or "<none>:<none>" in tags


@pytest.mark.docker
@pytest.mark.slow
def test_damage_is_refused_and_what_was_loaded_stays(machine: Machine, saved: Saved) -> None:
    # Their dates are all the same, so the engine lists them in any order.
    images = set(machine.docker("images", "--no-trunc").splitlines())
    cached = sorted(path.name for path in (machine.folder / "cache/wheels").iterdir())
    with Archive(saved.file) as archive:
        blob = max(archive.index.list_parts("image"), key=lambda part: part.stored_size)
    with open(saved.file, "r+b") as file:
        place = blob.offset + blob.stored_size // 2
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
        file.flush()
        try:
            finished = machine.run("archive", "load", saved.file)
        finally:
            file.seek(place)
            file.write(bytes([byte]))
    assert finished.returncode == BAD_INPUT
    assert blob.name in finished.stderr.replace("\n", "")
    assert set(machine.docker("images", "--no-trunc").splitlines()) == images
    assert sorted(path.name for path in (machine.folder / "cache/wheels").iterdir()) == cached


@pytest.mark.docker
@pytest.mark.slow
def test_the_runner_itself_installs_from_it(saved: Saved, tmp_path: Path) -> None:
    """With any tar program and any Python 3.10 of the archive's version, as README.txt says."""
    subprocess.run(["tar", "-xf", saved.file, "source", "wheels"], cwd=tmp_path, check=True)
    machine = Machine(tmp_path)
    (tmp_path / "home").mkdir()
    finished = subprocess.run(
        ["unshare", "--net", sys.executable, "bootstrap.py", "runner", "stages", "--json"],
        cwd=tmp_path / "source",
        env={
            **machine.environment,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert finished.returncode == PASSED, finished.stderr
    assert [stage["stage"] for stage in json.loads(finished.stdout)] == [
        "torch",
        "onnx-tf",
        "tflite",
    ]


WHEELS = {
    f"{name}-1.0-py3-none-any.whl": random.Random(name).randbytes(2_000_000)
    for name in ("first", "second")
}


def small(file: Path, names: Sequence[str] = tuple(WHEELS)) -> Path:
    """An archive with nothing but wheels, 2 MB each."""
    with ArchiveWriter(file, "") as writer:
        for name in names:
            content = WHEELS[name]
            writer.add(f"wheels/{name}", "wheel", io.BytesIO(content), len(content))
        writer.finish(
            created="2026-01-01T00:00:00Z",
            runner="",
            platform="",
            toolchains=(),
            environments=(),
            host_python="",
            interpreters=(),
            runs=(),
        )
    return file


def stored(machine: Machine) -> dict[str, bytes]:
    """Every file in a machine's store, by its name."""
    files = (machine.folder / "cache" / "wheels").rglob("*")
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def test_two_loads_at_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    file = small(tmp_path / "x.tar")
    loads = [
        subprocess.Popen(
            machine.command("archive", "load", file),
            env=machine.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(4)
    ]
    for load in loads:
        said, _ = load.communicate(timeout=120)
        assert load.returncode == PASSED, said
    assert stored(machine) == WHEELS
    assert not list((tmp_path / "cache").glob(".loading-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A folder on a file system of so many bytes."""
    folder = tmp_path / "disk"

    def mount(size: int) -> Path:
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        subprocess.run(["mount", *options], check=True)
        return folder

    yield mount
    if folder.exists():
        subprocess.run(["umount", str(folder)], check=True)


def test_load_onto_a_disk_that_is_too_small(
    tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    machine = Machine(small_disk(5 << 20))
    first, *_ = WHEELS
    assert machine.run("archive", "load", small(tmp_path / "1.tar", [first])).returncode == PASSED
    finished = machine.run("archive", "load", small(tmp_path / "2.tar"))
    assert finished.returncode == ENVIRONMENT and "free" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert stored(machine) == {first: WHEELS[first]}


@pytest.mark.network
def test_save_onto_a_disk_that_is_too_small(small_disk: Callable[[int], Path]) -> None:
    """The rest is written once there is room."""
    folder = small_disk(20 << 20)
    finished = ended(save(folder / "x.tar", "--engine", "process"))
    assert finished.returncode == ENVIRONMENT, finished.stderr
    assert "No space left" in finished.stderr and "Traceback" not in finished.stderr
    assert not (folder / "x.tar").exists()


@pytest.mark.network
def test_two_saves_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        options = ("--engine", "process", "--toolchain", "pb-tflite-2020")
        finished = ended(save(tmp_path / name, *options))
        assert finished.returncode == PASSED, finished.stderr
    compared = ["cmp", str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    assert subprocess.run(compared, check=False).returncode == 0


@pytest.mark.network
def test_an_own_wheel_goes_along(tmp_path: Path) -> None:
    """And with it, an audit finds every pin in what was loaded, and asks nobody."""
    pin = "tf-nightly==2.4.0.dev20200923"
    name = "tf_nightly-2.4.0.dev20200923-cp38-cp38-manylinux2010_x86_64.whl"
    info = "tf_nightly-2.4.0.dev20200923.dist-info"
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr(f"{info}/RECORD", f"{info}/RECORD,,\n")
    options = ("--engine", "process", "--toolchain", "pb-tflite-2020")
    finished = ended(save(tmp_path / "x.tar", *options, "--wheel", tmp_path / name))
    assert finished.returncode == PASSED, finished.stderr
    machine = Machine(tmp_path)
    loaded = machine.run("archive", "load", tmp_path / "x.tar")
    assert loaded.returncode == PASSED, loaded.stderr
    (option,) = [line for line in loaded.stdout.splitlines() if "--wheel" in line]
    given = Path(option.rpartition(" ")[2])
    assert given.read_bytes() == (tmp_path / name).read_bytes()
    for wheels, code in (((), ENVIRONMENT), (("--wheel", given), PASSED)):
        audit = machine.run("lock", "tflite", "--audit", "--json", *wheels)
        assert audit.returncode == code, audit.stderr
        findings = {finding["pin"]: finding for finding in json.loads(audit.stdout)}
        lost = [f["pin"] for f in findings.values() if f["level"] == "error"]
        # The stand-in was not saved, since nothing needs it.
        assert lost == ([] if wheels else ["tensorflow-cpu==2.4.0"])
        assert findings[pin]["status"] == ("own-wheel" if wheels else "stand-in")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("save", "x.tar", "--engine", "podman"), "There is no engine 'podman'"),
        (("save", ".", "--engine", "process"), "is a folder"),
        (("save", "x.tar", "--toolchain", "none"), "There is no toolchain"),
        (("save", "x.tar", "--run", "."), "is not a run folder"),
        (("save", "x.tar", "--wheel", "missing.whl"), "There is no wheel"),
        (("load", "missing.tar"), "There is no archive"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "runner", "archive", *arguments],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert finished.returncode == BAD_INPUT and told in finished.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_with_a_link_in_it_is_not_archived(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "report.json").write_text("{}")
    (run / "model.tflite").symlink_to("/etc/passwd")
    finished = ended(save(tmp_path / "x.tar", "--engine", "process", "--run", run))
    assert finished.returncode == BAD_INPUT and "no regular file" in finished.stderr
