"""Convolutions of the parts of a tensor become one, where they are one, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from groups import EXPECTED
from harness import SUPPORT


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Any:
    folder = tmp_path_factory.mktemp("groups")
    made = in_environment("tflite", SUPPORT / "groups.py", "make", folder)
    assert made.returncode == 0, made.stderr
    done = in_environment("litert", SUPPORT / "groups.py", "join", folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_are_joined(name: str, answers: Any) -> None:
    answer = answers[name]
    assert answer["joined"] == EXPECTED[name]
    assert answer["mean"] > 0.1 and answer["moved"] < 1e-6 * answer["mean"]
    grouped = answer["joined"] > 0
    # Version 6 takes groups, and the runtime of 2.9 was the first that had it.
    assert (6 in answer["versions"], answer["runtime"] == "2.9.0") == (grouped, grouped)
    assert grouped or answer["after"] == answer["before"]
    # A group is one operator for the parts, one for each convolution, and one for the end. Those of
    # a loop's body are not listed.
    listed = 1 if name == "in_a_loop" else answer["joined"]
    assert len(answer["before"]) - len(answer["after"]) >= 3 * listed


def test_a_group_in_a_loop_is_joined_too(answers: Any) -> None:
    """Of the body, whose operators the first graph does not list, and of what follows it."""
    assert answers["in_a_loop"]["before"].count("WHILE") == 1
    assert "CONCATENATION" not in answers["in_a_loop"]["after"]


def test_what_still_reads_the_parts_has_them(answers: Any) -> None:
    assert "SPLIT" in answers["part_read_elsewhere"]["after"]
    assert set(answers["plain"]["after"]) == {"CONV_2D"}
    assert len(answers["plain"]["versions"]) == 1
