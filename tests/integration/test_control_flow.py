"""Frozen graphs with branches and loops, of TensorFlow 1 and of 2: they convert, and none hangs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import BAD_INPUT, PASSED, SUPPORT, run_cli

OUTPUTS = {
    "lstm": ["Identity"],
    "lstm_lowered": ["Identity"],
    "nested": ["outer/Merge"],
    "branch": ["two/Merge_1", "last"],
}


@pytest.fixture(scope="module")
def graphs(
    tmp_path_factory: pytest.TempPathFactory,
    in_environment: Callable[..., subprocess.CompletedProcess[str]],
) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    made = in_environment("tflite", SUPPORT / "control_flow.py", folder)
    assert made.returncode == 0, made.stderr
    return folder


def convert(graph: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = ("--samples", "4", "--engine", "process", "--output", folder)
    return run_cli("convert", "--from-pb", graph, *arguments, *options, cwd=graph.parent)


@pytest.mark.parametrize("name", OUTPUTS)
def test_it_converts(graphs: Path, tmp_path: Path, name: str) -> None:
    done = convert(graphs / f"{name}.pb", tmp_path / "run")
    assert done.returncode == PASSED, done.stdout + done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    checked = report["stages"][-1]["report"]["check"]["outputs"]
    assert [output["name"] for output in checked] == OUTPUTS[name]
    assert all(output["mean_abs"] < 2e-6 for output in checked)
    # float64 runs too, loops and all.
    assert report["stages"][0]["report"]["noise_floor"]["outputs"]


def test_an_output_within_a_branch_is_refused(graphs: Path, tmp_path: Path) -> None:
    done = convert(graphs / "branch.pb", tmp_path / "run", "--option", "graph.outputs=two/Relu")
    assert done.returncode == BAD_INPUT, done.stdout
    assert "lies within a branch" in done.stdout + done.stderr


def test_both_forms_of_a_loop_agree(graphs: Path, tmp_path: Path) -> None:
    done = run_cli(
        *("compare", graphs / "lstm.pb", graphs / "lstm_lowered.pb", "--engine", "process"),
        *("--samples", "4", "--output", tmp_path / "run"),
        cwd=tmp_path,
    )
    assert done.returncode == PASSED, done.stdout + done.stderr
