"""Bisecting over the releases of one package: what broke TensorFlow in May 2022 is found again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ENVIRONMENT, run_cli

from runner.errors import ExitCode

pytestmark = pytest.mark.network

GRAPH = """
import sys
import numpy as np
import tensorflow as tf

with tf.Graph().as_default() as graph:
    image = tf.compat.v1.placeholder(tf.float32, [1, 8, 8, 3], "image")
    weights = tf.constant(np.random.RandomState(0).randn(3, 3, 3, 4), tf.float32)
    tf.nn.relu(tf.nn.conv2d(image, weights, 1, "SAME"), "result")
    open(sys.argv[1], "wb").write(graph.as_graph_def().SerializeToString())
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, in_environment: Callable[..., Any]) -> Path:
    """A frozen graph of one convolution."""
    path: Path = tmp_path_factory.mktemp("graph") / "graph.pb"
    made = in_environment("tflite", "-c", GRAPH, path)
    assert made.returncode == 0, made.stderr
    return path


def list_runs(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.glob("runs/*/*/*/report.json")):
        yield path.parts[-3], path.stat().st_mtime_ns


def test_the_release_that_broke_it(graph: Path) -> None:
    """protobuf 4.21 refuses code that was generated for 3.x, TensorFlow's of 2020 too."""

    def bisect(first: str) -> tuple[int, dict[str, Any], str]:
        ended = run_cli(
            *("bisect", graph, "--package", "protobuf", "--from", first, "--to", "4.21.1"),
            *("--what", "outcome", "--samples", "8", "--engine", "process"),
            *("--output", "found", "--json"),
            cwd=graph.parent,
        )
        assert ended.stdout, ended.stderr
        return ended.returncode, json.loads(ended.stdout), ended.stderr

    code, found, _ = bisect("3.20.2")
    assert code == ExitCode.WORSE
    assert (found["last good"], found["first bad"]) == ("3.20.3", "4.21.1")
    # The withdrawn 4.21.0 is left out.
    assert [step["release"] for step in found["steps"]] == ["3.20.2", "3.20.3", "4.21.1"]
    bad = found["steps"][-1]
    assert "Descriptors cannot" in bad["changes"][0]
    folder = graph.parent / "found"
    assert "Descriptors cannot" in (folder / bad["record"]["log"]).read_text()
    # Its other packages are those of its date; with those of the last good one it fails as well.
    assert any(change.startswith("werkzeug") for change in found["also differs"]["tflite"])
    assert found["alone"]["bad"] and not found["alone"]["skipped"]
    # What is there is not made again.
    before = dict(list_runs(folder))
    assert len(before) == 4
    code, again, _ = bisect("3.20.3")
    assert code == ExitCode.WORSE and again["first bad"] == "4.21.1"
    assert dict(list_runs(folder)) == before
    # The toolchains stay, for whoever wants to convert with one of them.
    name = found["steps"][1]["toolchain"]
    place = {"RUNNER_TOOLCHAINS": str(folder / "toolchains")}
    shown = run_cli("stages", "--toolchain", name, cwd=graph.parent, environment=place)
    assert shown.returncode == 0 and name in shown.stdout, shown.stderr


def test_releases_that_another_pin_excludes(graph: Path) -> None:
    """A release that cannot be had is skipped, and the reason named; with none left, it says so."""
    ended = run_cli(
        *("bisect", graph, "--package", "numpy", "--from", "1.20.0", "--to", "1.20.1"),
        *("--engine", "process", "--output", "numpy"),
        cwd=graph.parent,
    )
    assert ended.returncode == ENVIRONMENT
    assert "tensorflow-cpu==2.4.0 needs numpy>=1.19.2,<1.20" in ended.stdout
    assert "--loosen" in ended.stderr


def test_options_of_packages_alone(graph: Path) -> None:
    ended = run_cli("bisect", graph, "--every", cwd=graph.parent)
    assert ended.returncode == ExitCode.BAD_INPUT and "--package" in ended.stderr
