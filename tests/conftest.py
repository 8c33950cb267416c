"""What the tests share: models made on the spot, conversions done once, the environments.

Most tests look at a conversion from another side, so each conversion is done once a session, by
the command line in a process of its own, just as a user does it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_chromium
from foreign import make as make_foreign
from foreign import make_newer
from harness import (
    NEEDS,
    ROOT,
    SUPPORT,
    TOML,
    USER_CODE,
    Convert,
    Run,
    docker_answers,
    run_cli,
)

from runner.conversion.observer import Observer
from runner.engines.process.engine import ProcessEngine
from runner.engines.process.environments import locate_environment
from runner.toolchains.load import load_image, load_targets, load_toolchain

# The tests' own models are harmless, and have to convert on machines without bubblewrap too.
# test_hostile.py takes this back.
os.environ["RUNNER_TRUST_MODEL"] = "true"
# Each conversion of a test is really done; the tests of the cache turn it on.
os.environ["RUNNER_STAGE_CACHE"] = "0"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "network: asks the package index")
    config.addinivalue_line("markers", "sandbox: needs bubblewrap")


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
    targets = [stage.image for stage in load_targets().values()]
    images = [load_image(name) for name in (*load_toolchain().images, *targets)]
    ProcessEngine().prepare(images, Observer())
    return {image.name: locate_environment(image) / "bin" / "python" for image in images}


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
    for arguments in ((SUPPORT / "models.py", folder), (USER_CODE, folder / "main.pt")):
        made = in_environment("torch", *arguments)
        assert made.returncode == 0, made.stderr
    for name, text in TOML.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    """A folder of files that the pinned tools wrote without this toolchain."""
    folder = tmp_path_factory.mktemp("foreign")
    make_foreign(folder, in_environment, SUPPORT)
    return folder


@pytest.fixture(scope="session")
def newer(foreign: Path) -> Path:
    """The same folder with what today's onnx and onnx2tf write."""
    make_newer(foreign)
    return foreign


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("There is no Chromium, and CI has to have one: .ci/browser installs it.")
        pytest.skip("no Chromium; set CI=true to make that a failure")
    with Browser(program) as opened:
        yield opened
