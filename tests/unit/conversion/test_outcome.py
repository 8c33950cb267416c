"""The outcome of a run, its exit code, and what its report says of the stages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sample_reports import HASH, KINDS, output, report, stage, validated

from runner.conversion.outcome import build_report, decide_outcome
from runner.engines.process.engine import ProcessEngine
from runner.engines.select import Choice
from runner.planning.check import Check
from runner.planning.plan import Plan
from runner.planning.source import ModelFile
from runner.schemas.report import Gate, Report, StageRecord
from runner.toolchains.load import load_toolchain

NOTHING = {"value": None, "verdict": None}


def make_plan(folder: Path, metric: str = "mean", model: str = "net.pt") -> Plan:
    return Plan(
        model=ModelFile(folder / model, "torch-module", HASH, 2_000_000),
        toolchain=load_toolchain(),
        images={},
        inputs=[],
        inputs_from="",
        arrays=None,
        python_files={},
        check=Check(metric=metric).as_request(),
        stage_options={},
        output=folder,
        run="net-20260102-030405-abcd",
    )


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path)


def records_of(kind: str) -> list[StageRecord]:
    return validated(KINDS[kind]()).stages


def build(plan: Plan, records: list[StageRecord]) -> Report:
    choice = Choice(ProcessEngine(), "asked for")
    return build_report(plan, choice, records, False, started=0.0, setup=1.5, total=20.0)


class TestOutcome:
    @pytest.mark.parametrize(
        ("kind", "outcome", "code"),
        [
            ("passed", "passed", 0),
            ("failed", "failed", 3),
            ("exceeded", "out-of-tolerance", 4),
            ("nonfinite", "out-of-tolerance", 4),
            ("shape", "out-of-tolerance", 4),
            ("vacuous", "vacuous", 5),
        ],
    )
    def test_the_verdict_on_the_final_model_decides(
        self, plan: Plan, kind: str, outcome: str, code: int
    ) -> None:
        gate = Gate.model_validate(KINDS[kind]()["gate"])
        assert decide_outcome(plan, records_of(kind), False) == (outcome, code, gate)

    @pytest.mark.parametrize(
        ("blame", "code"), [("input", 2), ("stage", 3), ("", 3), ("environment", 6)]
    )
    def test_a_failure_exits_by_what_is_to_blame(self, plan: Plan, blame: Any, code: int) -> None:
        records = records_of("failed")
        records[1].blame = blame
        outcome, exit_code, gate = decide_outcome(plan, records, False)
        assert (outcome, exit_code) == ("failed", code)
        assert gate.model_dump(include={"value", "verdict"}) == NOTHING

    @pytest.mark.parametrize("kind", ["interrupted", "failed", "passed"])
    def test_an_interrupt_outweighs_what_the_stages_did(self, plan: Plan, kind: str) -> None:
        outcome, code, gate = decide_outcome(plan, records_of(kind), True)
        assert (outcome, code) == ("interrupted", 130)
        assert gate.model_dump(include={"value", "verdict"}) == NOTHING

    def test_a_final_model_without_a_check_proves_nothing(self, plan: Plan) -> None:
        records = records_of("passed")
        final = records[-1].report
        assert final is not None
        final.check = None
        outcome, code, gate = decide_outcome(plan, records, False)
        assert (outcome, code) == ("vacuous", 5)
        assert gate.model_dump(include={"value", "verdict"}) == NOTHING

    def test_above_the_tolerance_at_rounding_is_a_pass(self, plan: Plan) -> None:
        records = records_of("exceeded")
        final = records[-1].report
        assert final is not None and final.check is not None
        final.check.verdict = "rounding"
        outcome, code, gate = decide_outcome(plan, records, False)
        assert (outcome, code) == ("passed", 0)
        assert (gate.value, gate.verdict) == (1e-5, "rounding")

    def test_an_earlier_model_out_of_tolerance_does_not_count(self, plan: Plan) -> None:
        records = [*records_of("exceeded")[:2], records_of("passed")[2]]
        outcome, _, gate = decide_outcome(plan, records, False)
        assert (outcome, gate.value) == ("passed", 1e-7)

    @pytest.mark.parametrize(("metric", "value"), [("mean", 3e-7), ("p99-rel", 4 * 3e-7)])
    def test_the_gate_has_the_worst_outputs_figure(
        self, tmp_path: Path, metric: str, value: float
    ) -> None:
        unknown = output("c", mean_abs=None, p99_rel=None)
        final = [output("a"), output("b", error=3e-7), unknown, output("d")]
        made = report()
        made["stages"][-1] = stage("tflite", final)
        plan = make_plan(tmp_path, metric)
        _, _, gate = decide_outcome(plan, validated(made).stages, False)
        assert (gate.metric, gate.value) == (plan.check["metric"], value)


class TestReport:
    @pytest.mark.parametrize(
        ("cached", "said"),
        [
            ({}, []),
            ({"torch": "a"}, ["torch (made by a)"]),
            ({"torch": "a", "onnx-tf": "a"}, ["torch, onnx-tf (made by a)"]),
            ({"torch": "a", "onnx-tf": "b"}, ["torch, onnx-tf (made by a, b)"]),
        ],
    )
    def test_stages_from_the_cache_are_noted_after_the_stages_notes(
        self, plan: Plan, cached: dict[str, str], said: list[str]
    ) -> None:
        records = records_of("passed")
        for record in records:
            assert record.report is not None
            record.report.notes = [f"By {record.name}."]
            record.cached = cached.get(record.name, "")
        notes = build(plan, records).notes
        assert notes[:3] == ["By torch.", "By onnx-tf.", "By tflite."]
        assert notes[3:] == [f"Taken from the cache: {s}; --no-cache runs them." for s in said]

    def test_the_time_of_cached_stages_was_not_spent_in_this_run(self, plan: Plan) -> None:
        records = records_of("passed")
        assert build(plan, records).overhead_seconds == pytest.approx(20 - 1.5 - 3 * 2.4)
        records[0].cached = "before"
        assert build(plan, records).overhead_seconds == pytest.approx(20 - 1.5 - 2 * 2.4)

    def test_only_artifacts_in_the_folder_are_listed(self, plan: Plan) -> None:
        (plan.output / "model.onnx").touch()
        (plan.output / "model.tflite").mkdir()
        assert [a.path for a in build(plan, records_of("passed")).artifacts] == ["model.onnx"]

    def test_a_file_that_no_stage_produces_is_no_artifact(self, plan: Plan) -> None:
        (plan.output / "model.tflite").touch()
        (plan.output / "report.html").touch()
        made = report()
        made["stages"][0]["report"]["artifact"]["path"] = "report.html"
        assert [a.path for a in build(plan, validated(made).stages).artifacts] == ["model.tflite"]

    @pytest.mark.parametrize("kind", ["failed", "exceeded"])
    def test_it_says_what_was_decided(self, plan: Plan, kind: str) -> None:
        expected, found = validated(KINDS[kind]()), build(plan, records_of(kind))
        assert found.outcome == expected.outcome
        assert (found.exit_code, found.gate) == (expected.exit_code, expected.gate)

    def test_a_name_that_is_not_utf8_is_shown_as_far_as_it_is(self, tmp_path: Path) -> None:
        plan = make_plan(tmp_path, model=os.fsdecode(b"n\xff.pt"))
        model = build(plan, records_of("passed")).model
        assert (model.name, model.path) == ("n\ufffd.pt", f"{tmp_path}/n\ufffd.pt")
