"""Whether an artifact that was made again is the recorded one, or how far it is from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sample_reports import failed, output, report, stage, validated

from runner.planning.plan import Plan
from runner.provenance.read import Recorded
from runner.provenance.write import build_provenance
from runner.reproduction.artifacts import compare_artifacts
from runner.schemas.provenance import Provenance
from runner.schemas.report import CheckRecord
from runner.schemas.reproduction import ArtifactComparison

OTHER = "f" * 64
FINAL = "model.tflite"
Compare = Callable[..., list[ArtifactComparison]]


@pytest.fixture
def compare(plan: Plan) -> Compare:
    """Compare two runs, given as JSON, of which the first is recorded."""

    def run(
        before: dict[str, Any],
        now: dict[str, Any],
        measured: Mapping[str, CheckRecord | str] | None = None,
    ) -> list[ArtifactComparison]:
        text = build_provenance(plan, validated(before)).to_json()
        statement = Provenance.model_validate_json(text)
        statement.subject.reverse()  # the stages' order counts, not theirs
        recorded = Recorded(statement, plan.output, plan.output, OTHER, "", ())
        return compare_artifacts(recorded, validated(now), measured or {})

    return run


def final(*outputs: dict[str, Any], sha256: str = OTHER) -> dict[str, Any]:
    """A run whose last artifact has these outputs."""
    made = report()
    made["stages"][-1] = stage("tflite", list(outputs) or None)
    made["stages"][-1]["report"]["artifact"]["sha256"] = sha256
    return made


def check(*outputs: dict[str, Any]) -> CheckRecord:
    return CheckRecord.model_validate(stage("tflite", list(outputs))["report"]["check"])


def test_the_same_bytes_are_identical(compare: Compare) -> None:
    found = compare(report(), report())
    assert [item.path for item in found] == ["model.onnx", "model.pb", FINAL]
    assert [item.stage for item in found] == ["torch", "onnx-tf", "tflite"]
    assert {(item.verdict, item.measured, item.note) for item in found} == {
        ("identical", "bytes", "")
    }


def test_what_was_made_is_compared_even_if_others_are_identical(compare: Compare) -> None:
    first, second, third = compare(report(), final(output(error=1e-12)))
    assert [first.verdict, second.verdict, third.verdict] == ["identical"] * 2 + ["equivalent"]
    assert (third.recorded_sha256, third.sha256) == (first.sha256, OTHER)


def test_what_a_failed_run_left_out_is_missing_and_why_is_told(compare: Compare) -> None:
    first, *missing = compare(report(), failed())
    assert first.verdict == "identical"
    assert [(item.path, item.stage) for item in missing] == [
        ("model.pb", "onnx-tf"),
        (FINAL, "tflite"),
    ]
    for item in missing:
        assert (item.verdict, item.measured, item.sha256) == ("missing", "nothing", None)
        assert item.note == "No such operator.\nAt Conv_1."


def test_what_the_recorded_run_did_not_reach_is_new(compare: Compare) -> None:
    first, *new = compare(failed(), report())
    assert first.verdict == "identical"
    assert [(item.path, item.stage) for item in new] == [
        ("model.pb", "onnx-tf"),
        (FINAL, "tflite"),
    ]
    for item in new:
        assert (item.verdict, item.measured, item.recorded_sha256) == ("new", "nothing", None)
        assert "did not come so far" in item.note


class TestByOutputsOfBoth:
    @pytest.mark.parametrize(
        ("outputs", "verdict"),
        [
            ([output(error=1e-7)], "equivalent"),  # twice the noise floor
            ([output(error=1.1e-7)], "different"),
            ([output(error=1e-8, verdict="exceeded")], "equivalent"),  # by the user's tolerance
            ([output(error=1e-8, verdict="shape")], "different"),
            ([output(error=1e-8, verdict="nonfinite")], "different"),
            ([output(mean_abs=None)], "different"),
            ([output("a", error=1e-8), output("b", error=1e-6)], "different"),
            # Without a noise floor, float32's resolution at the outputs' size counts.
            ([output(error=2.3e-7, noise_floor=None)], "equivalent"),
            ([output(error=2.5e-7, noise_floor=None)], "different"),
            ([output(error=2.5e-7, noise_floor=None, reference_mean=-2.0)], "equivalent"),
        ],
    )
    def test_rounding_is_allowed(self, compare: Compare, outputs: Any, verdict: str) -> None:
        # The runs' own figures would say the opposite.
        figures = 1.0 if verdict == "equivalent" else 1e-12
        measured = {FINAL: check(*outputs)}
        found = compare(report(), final(output(error=figures)), measured)[-1]
        assert (found.verdict, found.measured) == (verdict, "outputs of both")
        assert [(o.name, o.mean_abs, o.max_abs, o.noise_floor) for o in found.outputs] == [
            (o["name"], o["mean_abs"], o["max_abs"], o["noise_floor"]) for o in outputs
        ]


class TestByFiguresOfBothRuns:
    @pytest.mark.parametrize(
        ("before", "now", "verdict"),
        [
            (1e-7, 0.9e-7, "equivalent"),
            (1e-12, 1.9e-7, "equivalent"),
            (1e-7, 1.1e-7, "different"),
            (2.1e-7, 1e-12, "different"),
        ],
    )
    def test_their_distances_from_the_reference_add_up(
        self, compare: Compare, before: float, now: float, verdict: str
    ) -> None:
        found = compare(final(output(error=before), sha256="e" * 64), final(output(error=now)))[-1]
        assert (found.verdict, found.measured) == (verdict, "figures of both runs")
        assert found.note == "the recorded artifact is not here, so this is an upper bound"
        (bound,) = found.outputs
        assert bound.mean_abs == pytest.approx(before + now)
        assert bound.max_abs == pytest.approx(9 * (before + now))
        assert bound.allowed == pytest.approx(2 * 2 * 5e-8)

    def test_an_artifact_that_could_not_be_run_is_not_called_equivalent(
        self, compare: Compare
    ) -> None:
        small = final(output(error=1e-9), sha256="e" * 64)
        measured = {FINAL: "It ran out of memory."}
        found = compare(small, final(output(error=1e-9)), measured)[-1]
        assert (found.verdict, found.measured) == ("different", "figures of both runs")
        assert found.note == "the recorded artifact could not be run: It ran out of memory."

    @pytest.mark.parametrize(
        ("before", "now"),
        [
            ({}, {"name": "logits"}),
            ({}, {"reference_mean": 0.2}),
            ({}, {"reference_std": 1.1}),
            ({}, {"mean_abs": None}),
            ({}, {"max_abs": None}),
            ({"mean_abs": None}, {}),
            ({"max_abs": None}, {}),
            ({"mean_abs": -1.0}, {}),
        ],
    )
    def test_figures_of_other_outputs_say_nothing(
        self, compare: Compare, before: dict[str, Any], now: dict[str, Any]
    ) -> None:
        recorded = final(output(error=1e-9, **before), sha256="e" * 64)
        assert_unknown(compare(recorded, final(output(error=1e-9, **now)))[-1])

    @pytest.mark.parametrize("changed", ["samples", "outputs", "no check before", "no check now"])
    def test_figures_of_another_check_say_nothing(self, compare: Compare, changed: str) -> None:
        before = final(output(error=1e-9), sha256="e" * 64)
        now = final(*[output(error=1e-9)] * (2 if changed == "outputs" else 1))
        if changed == "samples":
            now["stages"][-1]["report"]["check"]["samples"] = 99
        for made, name in ((before, "no check before"), (now, "no check now")):
            if changed == name:
                made["stages"][-1]["report"]["check"] = None
        assert_unknown(compare(before, now)[-1])


def assert_unknown(found: ArtifactComparison) -> None:
    assert (found.verdict, found.measured, found.outputs) == ("different", "nothing", [])
    assert found.note.endswith(
        "; the figures of the two runs are not of the same outputs and samples"
    )


def test_an_artifact_that_is_only_reported_is_missing(compare: Compare) -> None:
    """A stage that names the recorded hash, but has left no such file."""
    now = report(outcome="failed", exit_code=3)
    now["stages"][-1]["status"], now["stages"][-1]["failure"] = "failed", "it left another file"
    now["artifacts"] = now["artifacts"][:-1]
    last = compare(report(), now)[-1]
    assert (last.verdict, last.note) == ("missing", "it left another file")
