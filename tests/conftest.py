"""What the tests share: models made on the spot, conversions done once, the environments.

Most tests look at a conversion from another side, so each conversion is done once a session, by
the command line in a process of its own, just as a user does it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from foreign import make as make_foreign
from foreign import make_newer

from runner.cli.app import main
from runner.conversion.observer import SilentView
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import environment_folder
from runner.toolchains.load import load_image, load_toolchain

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
USER_CODE = TESTS / "user_code.py"
# Each conversion of a test is really done; the tests of the cache turn it on.
os.environ["RUNNER_STAGE_CACHE"] = "0"
# Exit codes, as README.md documents them.
PASSED, BAD_INPUT, STAGE_FAILED, OUT_OF_TOLERANCE, VACUOUS, ENVIRONMENT = 0, 2, 3, 4, 5, 6
INTERRUPTED = 130
STAGES = tuple(stage.name for stage in load_toolchain().stages)
ARTIFACTS = ("model.onnx", "model.pb", "model.tflite")
# What every run that began leaves, however it ended.
RECORD = {"report.json", "report.html", "provenance.json", "test-result.json"}
DOCKER = pytest.param("docker", marks=pytest.mark.docker)
ENGINES = ("process", DOCKER)

# What each model needs on the command line, besides its file.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "weights": ("--arch", f"{USER_CODE}:OwnNet", "--arch-args", '{"classes": 7}'),
    "checkpoint": ("--arch", f"{USER_CODE}:OwnNet", "--input", "1x3x16x16"),
    "zip_weights": ("--arch", f"{USER_CODE}:OwnNet", "--input", "1x3x16x16"),
    "own": ("--arch", f"{USER_CODE}", "--input", "1x3x16x16"),
    "main": ("--arch", f"{USER_CODE}", "--input", "1x3x16x16"),
    "branches": ("--arch", f"{USER_CODE}", "--input", "1x8"),
    "dies": ("--arch", f"{USER_CODE}", "--input", "1x8"),
    "pictures": ("--input", "image=1x3x10x7", "--input", "weights=1x6"),
    "two": ("--arch", f"{USER_CODE}", "--input", "right=1x6", "--input", "left=1x4"),
}

# What lies beside a model, where its inputs need more than a shape.
TOML = {
    "ids": '[[input]]\nname = "ids"\nshape = [1, 6]\ndtype = "int64"\nrange = [3, 9]\n',
    # The first column of a box is the image's index in the batch, of which there is one.
    "roi": "[[input]]\nshape = [1, 3, 16, 16]\n[[input]]\nshape = [2, 5]\nrange = [0.0, 0.9]\n",
}


# The tests' own models are harmless, and have to convert on machines without bubblewrap too.
# test_hostile.py takes this back.
os.environ["RUNNER_TRUST_MODEL"] = "true"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "network: asks the package index")
    config.addinivalue_line("markers", "sandbox: needs bubblewrap")


@dataclass(frozen=True)
class Run:
    """A finished `runner convert`."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return loaded

    def stage(self, name: str) -> dict[str, Any]:
        """The runner's record of a stage."""
        found: dict[str, Any] = self.report["stages"][STAGES.index(name)]
        return found

    def outputs(self, stage: str) -> list[dict[str, Any]]:
        """The statistics of each output, as a stage reports them."""
        found: list[dict[str, Any]] = self.stage(stage)["report"]["check"]["outputs"]
        return found

    @property
    def hashes(self) -> dict[str, str]:
        return {name: sha256(self.folder / name) for name in ARTIFACTS}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_cli(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    under: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, under another program if one is given."""
    return subprocess.run(
        [*under, sys.executable, "-m", "runner", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        text=True,
        capture_output=True,
        timeout=900,
        check=False,
    )


def run_here(
    capture: pytest.CaptureFixture[str], *arguments: str | Path, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process: for the many cases that end before anything starts."""
    before = Path.cwd()
    os.chdir(cwd)
    try:
        code = main([str(argument) for argument in arguments])
    finally:
        os.chdir(before)
    said = capture.readouterr()
    return subprocess.CompletedProcess(arguments, code, said.out, said.err)


def leftovers(folder: Path) -> list[str]:
    """What no run may leave behind, finished or not."""
    names = ("*.part", ".volume", ".*.part")
    return sorted({str(path) for name in names for path in folder.rglob(name)})


def in_order(folder: Path, kind: str) -> list[Path]:
    """The arrays KIND-0.npy, KIND-1.npy ... of a folder."""
    return sorted(folder.glob(f"{kind}-*.npy"))


def docker_leftovers(run: str) -> str:
    """The ids of containers and volumes of a run that are still there."""
    only = f"label=org.runner.run={run}"
    commands = (["docker", "ps", "-aq"], ["docker", "volume", "ls", "-q"])
    return "".join(
        subprocess.run(
            [*command, "--filter", only], check=True, capture_output=True, text=True
        ).stdout
        for command in commands
    )


@functools.cache
def docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without an engine, what needs one is left out, and said so; in CI it fails."""
    if item.get_closest_marker("docker") is None or docker_answers():
        return
    if os.environ.get("CI"):
        pytest.fail("No Docker engine answers, and CI has to have one.")
    pytest.skip("no Docker engine answers; set CI=true to make that a failure")


@pytest.fixture(scope="session")
def pythons() -> dict[str, Path]:
    """The interpreter of each locked environment, installed first if need be."""
    images = [load_image(name) for name in load_toolchain().images]
    ProcessEngine().prepare(images, SilentView())
    return {image.name: environment_folder(image) / "bin" / "python" for image in images}


@pytest.fixture(scope="session")
def in_environment(pythons: dict[str, Path]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a locked environment, with the stages importable: as a stage runs itself."""

    def run(image: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(pythons[image]), "-s", *map(str, arguments)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
            text=True,
            capture_output=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    """A folder with every model of models.py, and the .toml files beside them."""
    folder = tmp_path_factory.mktemp("models")
    for arguments in ((TESTS / "models.py", folder), (USER_CODE, folder / "main.pt")):
        made = in_environment("torch", *arguments)
        assert made.returncode == 0, made.stderr
    for name, text in TOML.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    """A folder of files that the pinned tools wrote without this toolchain."""
    folder = tmp_path_factory.mktemp("foreign")
    make_foreign(folder, in_environment, TESTS)
    return folder


@pytest.fixture(scope="session")
def newer(foreign: Path) -> Path:
    """The same folder with what today's onnx and onnx2tf write."""
    make_newer(foreign)
    return foreign


Convert = Callable[..., Run]


@pytest.fixture(scope="session")
def convert(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Convert a model by its name, once a session for the same arguments."""
    done: dict[tuple[Any, ...], Run] = {}

    def run(
        name: str,
        *options: str | Path,
        engine: str = "process",
        again: int = 0,
        cwd: Path = models,
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        key = (name, options, engine, again, cwd, tuple((environment or {}).items()))
        if key not in done:
            folder = tmp_path_factory.mktemp("runs") / name
            samples = () if {"--samples", "--inputs"} & set(options) else ("--samples", "8")
            arguments = (*NEEDS.get(name, ()), *samples, *options, "--engine", engine)
            finished = run_cli(
                *("convert", "--model", models / f"{name}.pt", "--output", folder, *arguments),
                cwd=cwd,
                environment=environment,
            )
            done[key] = Run(finished.returncode, finished.stdout, finished.stderr, folder)
        return done[key]

    return run


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """An empty folder for stages that are run by hand."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def copy(sources: Mapping[str, Path], folder: Path) -> None:
    """Put files into a folder under the given names."""
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
