"""What has changed since a run was recorded, and nothing that has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_reports import report, validated

from runner.engines.process.environments import compute_environment_identity
from runner.packages.cpython import Interpreter
from runner.planning.plan import Plan
from runner.provenance.write import build_provenance
from runner.reproduction.drift import find_differences
from runner.schemas.provenance import Provenance
from runner.schemas.report import EnvironmentRecord, InterpreterRecord, Report
from runner.schemas.reproduction import Difference
from runner.toolchains.code import hash_toolchain
from runner.toolchains.load import load_toolchain

PYTHON = InterpreterRecord(version="3.8.20", build="main, GCC 6.3", sha256="a" * 64, source="uv")
OTHER_PYTHON = PYTHON.model_copy(update={"build": "main, Clang 18.1", "sha256": "b" * 64})
IMAGES = ("torch", "onnx-tf", "tflite")
Find = Callable[..., list[Difference]]


def run(plan: Plan, engine: str = "process", other_python: tuple[str, ...] = ()) -> Report:
    """The report of a run here, where the interpreter of some images is another."""
    made = validated(report())
    made.engine.name = engine
    for stage, record in zip(plan.toolchain.stages, made.stages, strict=True):
        image = plan.images[stage.image]
        python = OTHER_PYTHON if image.name in other_python else PYTHON
        identity = compute_environment_identity(image, Interpreter(Path("python"), python))
        record.environment = EnvironmentRecord(
            image=image.title,
            identity=f"sha256:{identity[::-1]}" if engine == "docker" else identity,
            lock_sha256=image.lock_sha256,
            interpreter=python,
            stand_ins=[],
        )
    return made


@pytest.fixture
def record(plan: Plan, request: pytest.FixtureRequest) -> Provenance:
    """The record of a run as it is read again; a test may ask for another engine's."""
    recorded = run(plan, getattr(request, "param", "process"))
    return Provenance.model_validate_json(build_provenance(plan, recorded).to_json())


@pytest.fixture
def find(plan: Plan) -> Find:
    """Compare a record with a run on its own engine, unless told otherwise."""

    def compare(record: Provenance, engine: str = "", **changes: Any) -> list[Difference]:
        now = run(plan, engine or record.internal.engine, **changes)
        return find_differences(record, plan.images, plan.toolchain, now)

    return compare


both_engines = pytest.mark.parametrize("record", ["process", "docker"], indirect=True)
on_docker = pytest.mark.parametrize("record", ["docker"], indirect=True)


def change(record: Provenance, name: str, sha256: str, **annotations: Any) -> None:
    found = record.dependency(name)
    assert found is not None
    found.digest = {"sha256": sha256}
    found.annotations = {**(found.annotations or {}), **annotations}


def drop(record: Provenance, kind: str) -> None:
    build = record.predicate.buildDefinition
    build.resolvedDependencies = [
        d for d in build.resolvedDependencies if not (d.name or "").startswith(kind)
    ]


def whats(found: list[Difference]) -> list[str]:
    return [difference.what for difference in found]


@both_engines
def test_nothing_has_changed(find: Find, record: Provenance) -> None:
    assert find(record) == []


class TestInterpreters:
    @both_engines
    def test_another_interpreter_is_all_that_is_named(self, find: Find, record: Provenance) -> None:
        (difference,) = find(record, other_python=["torch"])
        assert difference.what == "the interpreter of torch"
        assert (difference.recorded, difference.here) == (str(PYTHON), str(OTHER_PYTHON))
        assert (difference.stages, difference.effective) == (["torch"], True)

    def test_each_interpreter_is_named_once(self, find: Find, record: Provenance) -> None:
        found = find(record, other_python=IMAGES)
        assert whats(found) == [f"the interpreter of {name}" for name in IMAGES]

    def test_other_packages_are_named_beside_it(self, find: Find, record: Provenance) -> None:
        change(record, "environment/torch", "d" * 64, key="e" * 64)
        found = find(record, other_python=["torch"])
        assert whats(found) == ["the interpreter of torch", "the environment torch"]

    @pytest.mark.parametrize("other_python", [(), IMAGES])
    def test_where_none_was_recorded_the_key_is_the_identity(
        self, find: Find, plan: Plan, record: Provenance, other_python: tuple[str, ...]
    ) -> None:
        drop(record, "interpreter/")
        for image in plan.images.values():
            change(record, f"environment/{image.title}", image.environment_key)
        assert find(record, other_python=other_python) == []
        change(record, "environment/tflite", "d" * 64)
        assert whats(find(record)) == ["the environment tflite"]

    def test_else_the_key_is_none(self, find: Find, plan: Plan, record: Provenance) -> None:
        change(record, "environment/torch", plan.images["torch"].environment_key)
        assert whats(find(record)) == ["the environment torch"]


class TestEnvironments:
    def test_another_lock_is_named_with_what_was_made_of_it(
        self, find: Find, plan: Plan, record: Provenance
    ) -> None:
        change(record, "lock/onnx-tf", "c" * 64)
        change(record, "environment/onnx-tf", "d" * 64, key="e" * 64)
        found = find(record)
        assert whats(found) == ["the lock of onnx-tf", "the environment onnx-tf"]
        assert [d.recorded for d in found] == ["c" * 64, "d" * 64]
        assert [(d.stages, d.effective) for d in found] == [(["onnx-tf"], True)] * 2
        assert found[0].here == plan.images["onnx-tf"].lock_sha256

    @on_docker
    def test_a_lock_that_was_not_used_has_no_effect(self, find: Find, record: Provenance) -> None:
        change(record, "lock/onnx-tf", "c" * 64)
        assert [(d.what, d.effective) for d in find(record)] == [("the lock of onnx-tf", False)]

    def test_a_lock_that_was_not_recorded(self, find: Find, record: Provenance) -> None:
        drop(record, "lock/torch")
        assert [(d.what, d.recorded) for d in find(record)] == [("the lock of torch", "(none)")]

    def test_another_version_of_python_is_named(self, find: Find, record: Provenance) -> None:
        change(record, "environment/torch", "d" * 64, python="3.7")
        python, _ = find(record)
        assert (python.what, python.recorded, python.here) == ("the Python of torch", "3.7", "3.8")

    @both_engines
    def test_another_engine_is_all_that_is_named(self, find: Find, record: Provenance) -> None:
        other = {"process": "docker", "docker": "process"}[record.internal.engine]
        (engine,) = find(record, other)
        assert engine.what == "the engine"
        assert (engine.recorded, engine.here) == (record.internal.engine, other)


class TestCode:
    @pytest.mark.parametrize(("count", "end"), [(1, ""), (8, ""), (9, " ...")])
    def test_files_are_named(self, find: Find, record: Provenance, count: int, end: str) -> None:
        files = hash_toolchain(load_toolchain())
        new, edited, *_ = sorted(files)
        gone = [f"zzz/{number}.py" for number in range(count - 1)]
        changed = {**files, edited: "d" * 64, **dict.fromkeys(gone, "d" * 64)}
        change(record, "stages", "c" * 64, files=changed)
        (code,) = find(record)
        assert code.what == f"the stages' code ({', '.join([edited, *gone][:8])}{end})"
        assert (code.recorded, code.stages, code.effective) == ("c" * 64, [], True)
        del changed[new]
        assert find(record)[0].what.startswith(f"the stages' code ({new}, {edited}")

    @on_docker
    def test_recorded_images_hold_the_recorded_code(self, find: Find, record: Provenance) -> None:
        change(record, "stages", "c" * 64)
        assert [d.effective for d in find(record)] == [False]
        change(record, "environment/tflite", "d" * 64)
        assert [d.effective for d in find(record)] == [True, True]

    def test_another_runner_is_named(self, find: Find, record: Provenance) -> None:
        record.predicate.runDetails.builder.version["runner"] = "0.0.1"
        assert whats(find(record)) == ["the runner"]


@pytest.mark.parametrize(
    ("options", "name", "recorded", "here"),
    [
        ({"fixes": "none"}, "fixes", '"none"', '"all"'),
        ({}, "fixes", "(there was none)", '"all"'),
        ({"fixes": "all", "opset": 11}, "opset", "11", "(there was none)"),
    ],
)
def test_another_option_is_named(
    find: Find, record: Provenance, options: dict[str, Any], name: str, recorded: str, here: str
) -> None:
    record.parameters.options["torch"] = options
    (option,) = find(record)
    assert (option.what, option.stages) == (f"the option torch.{name}", ["torch"])
    assert (option.recorded, option.here) == (recorded, here)
