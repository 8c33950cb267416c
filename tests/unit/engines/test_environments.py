"""The identity of a virtual environment: its packages, and the CPython that runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engines.process.environments import (
    compute_environment_identity,
    is_environment_folder,
    locate_environment,
)
from runner.packages.cpython import Interpreter
from runner.schemas.report import InterpreterRecord
from runner.toolchains.load import load_all_images
from runner.toolchains.model import Image, Wheel

IMAGE = load_all_images()[0]
PYTHON = InterpreterRecord(version="3.8.20", build="main, GCC 6.3", sha256="a" * 64, source="uv")


def identify(image: Image = IMAGE, path: str = "/usr/bin/python3.8", **changes: Any) -> str:
    record = PYTHON.model_copy(update=changes)
    return compute_environment_identity(image, Interpreter(Path(path), record))


@pytest.mark.parametrize(
    "changes",
    [{"build": "main, Clang 18.1"}, {"sha256": "b" * 64}, {"version": "3.8.19"}],
    ids=lambda changes: next(iter(changes)),
)
def test_another_interpreter_makes_another_environment(changes: dict[str, Any]) -> None:
    assert identify(**changes) != identify()


def test_the_same_interpreter_found_elsewhere_makes_the_same_environment() -> None:
    assert identify(path="/opt/python3.8", source="pyenv") == identify()


def test_other_packages_make_another_environment() -> None:
    wheel = Wheel(Path("a-1-py3-none-any.whl"), "a==1", "a==2", "c" * 64)
    others = [replace(IMAGE, lock=IMAGE.intent), replace(IMAGE, wheels=(wheel,))]
    assert len({identify(image) for image in (IMAGE, *others)}) == 3


def test_environments_of_two_interpreters_lie_side_by_side() -> None:
    folders = {
        locate_environment(IMAGE, Interpreter(Path("python"), python))
        for python in (PYTHON, PYTHON.model_copy(update={"sha256": "b" * 64}))
    }
    assert len(folders) == 2
    assert all(is_environment_folder(folder) for folder in folders)
