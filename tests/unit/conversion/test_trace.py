"""What follows from the traces of the stages, and which samples are traced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sample_reports import output, report, stage, validated

from runner.conversion.observer import Observer
from runner.conversion.trace import count_samples, judge, trace_run
from runner.engines.base import OnLine, StageExit
from runner.engines.limits import DEFAULTS
from runner.errors import EnvironmentUnavailable
from runner.schemas.diagnosis import Diagnosis, StageTrace, Trace, TracePoint
from runner.toolchains.load import load_toolchain
from runner.toolchains.model import Stage


def point(tensor: str, **changes: Any) -> TracePoint:
    names = {
        "operators": ["Conv", "Relu"],
        "nodes": ["Conv_1", "Relu_2"],
        "modules": ["f.0", "f.1"],
    }
    figures = {"error": 1e-7, "own_error": 2e-2, "limit": 3e-6, "ratio": 0.5}
    fields: dict[str, Any] = {"tensor": tensor, "reference": "before", "shape": [1, 8], "wrong": ""}
    fields |= {**names, **figures, "reference_nonfinite": False, **changes}
    return TracePoint(**fields)


def trace(stage: str, *points: TracePoint, notes: tuple[str, ...] = ()) -> StageTrace:
    count = len(points)
    found = Trace(samples=8, tensors=count, matched=count, points=list(points), notes=list(notes))
    return StageTrace(stage=stage, artifact=f"{stage}.model", seconds=0.1, trace=found)


def untraced(stage: str, failure: str = "It crashed.") -> StageTrace:
    return StageTrace(stage=stage, artifact=f"{stage}.model", seconds=0.1, failure=failure)


FINE = trace("torch", point("a"), point("b"))
ILL = point("ill", reference_nonfinite=True)


class TestVerdict:
    def test_the_first_wrong_operator_of_the_first_stage_is_named(self) -> None:
        wrong = [point(name, wrong="error") for name in "xyz"]
        traces = [FINE, trace("onnx-tf", point("a"), *wrong[:2]), trace("tflite", wrong[2])]
        found = judge(traces, [0, 41], 1.5)
        assert found.verdict == "found" and found.culprit is not None
        assert (found.culprit.stage, found.culprit.tensor) == ("onnx-tf", "x")
        assert found.culprit.artifact == "onnx-tf.model"
        assert [(c.stage, c.tensor) for c in found.others] == [("onnx-tf", "y"), ("tflite", "z")]
        assert (found.samples, found.seconds, found.stages) == ([0, 41], 1.5, traces)

    @pytest.mark.parametrize(
        ("noise_floors", "verdict"),
        [(None, "rounding"), (9.9, "rounding"), (423.0, "cancellation")],
    )
    def test_right_operators_that_lose_digits_together(
        self, noise_floors: float | None, verdict: str
    ) -> None:
        layer = {"modules": ["norm"]}
        curve = [point("a", error=2e-7), point("b", error=9e-5, **layer), point("c", error=1e-4)]
        found = judge([trace("torch", *curve), trace("onnx-tf", curve[0])], [0], 0.0, noise_floors)
        assert found.verdict == verdict and found.culprit is None
        if noise_floors and verdict == "cancellation":
            assert "423 times float32 rounding" in found.summary
            assert "450 times, at 'norm'" in found.summary
        else:
            assert "rounding to its inputs" in found.summary

    def test_a_wrong_operator_outweighs_what_else_is_wrong(self) -> None:
        traces = [trace("torch", ILL), untraced("onnx-tf"), trace("t", point("x", wrong="error"))]
        assert judge(traces, [0], 0.0).verdict == "found"

    @pytest.mark.parametrize(("wrong", "others"), [(1, 0), (21, 20), (40, 20)])
    def test_not_more_than_twenty_others_are_named(self, wrong: int, others: int) -> None:
        points = [point(f"t{number}", wrong="error") for number in range(wrong)]
        found = judge([trace("torch", *points)], [0], 0.0)
        assert [c.tensor for c in found.others] == [f"t{1 + number}" for number in range(others)]

    @pytest.mark.parametrize(
        ("changes", "layer"),
        [
            ({}, "f.0 + f.1"),
            ({"modules": []}, "Relu_2"),
            ({"modules": [], "nodes": []}, "x"),
        ],
    )
    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ("error", "it adds 2.0e-02 of the tensor's largest value, where rounding explains 3.0"),
            ("it is NaN", "(Conv + Relu, tensor 'x' of torch.model): it is NaN."),
        ],
    )
    def test_the_summary_names_the_layer_and_what_is_wrong(
        self, changes: dict[str, Any], layer: str, wrong: str, said: str
    ) -> None:
        summary = judge([trace("torch", point("x", wrong=wrong, **changes))], [0], 0.0).summary
        assert f"the stage 'torch', at the layer '{layer}' (Conv + Relu" in summary
        assert said in summary

    def test_a_reference_that_is_not_finite_is_named_where_it_begins(self) -> None:
        later = point("later", reference_nonfinite=True, nodes=[], modules=[])
        found = judge([trace("torch", point("a"), ILL, later)], [0], 0.0)
        assert (found.verdict, found.culprit) == ("reference", None)
        assert "NaN or infinity from 'f.0 + f.1' on (Conv, Relu)" in found.summary

    def test_only_the_first_stages_reference_is_the_models_own(self) -> None:
        assert judge([FINE, trace("onnx-tf", ILL)], [0], 0.0).verdict == "rounding"

    @pytest.mark.parametrize(
        "traces", [[], [untraced("torch")], [FINE, untraced("tflite")], [untraced("torch", "")]]
    )
    def test_what_could_not_be_traced_is_not_called_right(self, traces: list[StageTrace]) -> None:
        found = judge(traces, [0], 0.0)
        assert (found.verdict, found.culprit, found.others) == ("incomplete", None, [])

    def test_where_every_operator_is_right_it_is_rounding(self) -> None:
        found = judge([FINE, trace("tflite", point("a"))], [0], 0.0)
        assert (found.verdict, found.culprit) == ("rounding", None)
        assert "No operator is wrong" in found.summary

    def test_notes_name_their_stage(self) -> None:
        found = judge([trace("torch", notes=("One.",)), untraced("tflite")], [0], 0.0)
        assert found.notes == ["torch: One.", "tflite could not be traced: It crashed."]


class Volume:
    """One in which each tracing program leaves the same report, or cannot be run at all."""

    limits = DEFAULTS

    def __init__(self, answer: bytes | None = None, broken: str = "") -> None:
        self.files: dict[str, Path | bytes] = {}
        self._answer, self._broken = answer, broken

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        self.files.update(files)

    def run(self, stage: Stage, on_line: OnLine) -> StageExit:
        if self._broken:
            raise EnvironmentUnavailable(self._broken)
        return StageExit(3)

    def read(self, name: str) -> bytes | None:
        return self._answer

    def get(self, name: str, target: Path) -> None:
        raise FileNotFoundError


def run(folder: Path, made: dict[str, Any], volume: Volume, samples: int = 8) -> Diagnosis:
    (folder / "logs").mkdir()
    check, records = {"samples": 3}, validated(made).stages
    return trace_run(load_toolchain(), volume, records, check, folder, Observer(), samples)


class TestRun:
    @pytest.mark.parametrize(
        ("worst", "available", "wanted", "expected"),
        [
            ([40, 9], 100, 8, [0, 40, 9, 1, 2, 3, 4, 5]),
            ([40, 9, 50, 60, 70], 100, 8, [0, 40, 9, 50, 60, 1, 2, 3]),
            ([40, 9], 100, 2, [0, 40]),
            ([2, 0], 100, 4, [0, 2, 1, 3]),
            ([2, 40], 3, 8, [0, 2, 1]),
            (None, 100, 8, [0, 1, 2]),
        ],
    )
    def test_the_first_the_worst_of_the_last_check_and_the_next_samples_are_traced(
        self, tmp_path: Path, worst: list[int] | None, available: int, wanted: int, expected: Any
    ) -> None:
        made, volume = report(), Volume()
        if worst is None:
            for record in made["stages"]:
                record["report"]["check"] = None
        else:
            samples = [{"sample": number, "max_abs": 1.0} for number in worst]
            made["stages"][-1] = stage("tflite", [output(worst_samples=samples)])
            made["stages"][-1]["report"]["check"]["samples"] = available
        assert run(tmp_path, made, volume, wanted).samples == expected
        request = volume.files["requests/trace-tflite.json"]
        assert isinstance(request, bytes)
        assert json.loads(request)["trace"] == {"samples": expected}

    @pytest.mark.parametrize(
        ("error", "verdict"), [(1.9e-7, "rounding"), (2.1e-7, "incomplete"), (None, "incomplete")]
    )
    def test_a_stage_without_a_tracer_is_cleared_only_where_it_adds_no_error(
        self, tmp_path: Path, error: float | None, verdict: str
    ) -> None:
        answer = {**stage("torch")["report"], "trace": FINE.model_dump()["trace"]}
        made, last = report(), stage("tflite", [output(mean_abs=error)])
        last["name"] = last["report"]["stage"] = "litert"
        made["stages"].append(last)
        chain, volume = load_toolchain("2020-09+litert"), Volume(json.dumps(answer).encode())
        (tmp_path / "logs").mkdir()
        records = validated(made).stages
        found = trace_run(chain, volume, records, {"samples": 3}, tmp_path, Observer(), 8)
        assert found.verdict == verdict

    @pytest.mark.parametrize(
        ("times", "count"), [(0.9, 2), (2.0, 2), (2.1, 8), (None, 8), (40.0, 8)]
    )
    def test_few_samples_are_traced_unasked_of_what_is_at_rounding(
        self, times: float | None, count: int
    ) -> None:
        made, other = report(), output("other", times_noise_floor=None)
        made["stages"][-1] = stage("tflite", [output(times_noise_floor=times), other])
        reports = [record.report for record in validated(made).stages if record.report]
        assert count_samples(reports) == count

    @pytest.mark.parametrize("lacking", ["artifact", "signature"])
    def test_it_ends_where_an_artifact_is_lacking(self, tmp_path: Path, lacking: str) -> None:
        answer = {**stage("torch")["report"], "trace": FINE.model_dump()["trace"]}
        made = report()
        made["stages"][1]["report"][lacking] = None
        found = run(tmp_path, made, Volume(json.dumps(answer).encode()))
        assert [(t.stage, t.trace) for t in found.stages] == [("torch", FINE.trace)]
        assert found.verdict == "rounding"

    @pytest.mark.parametrize(
        ("volume", "said"),
        [
            (Volume(), "left no report (3)"),
            (Volume(b"{"), "report is not valid"),
            (Volume(json.dumps(stage("torch")["report"]).encode()), "reports nothing (3)"),
            (Volume(broken="The engine is gone."), "The engine is gone."),
        ],
    )
    def test_a_trace_that_fails_is_said_not_raised(
        self, tmp_path: Path, volume: Volume, said: str
    ) -> None:
        found = run(tmp_path, report(), volume)
        assert found.verdict == "incomplete"
        assert [said in trace.failure for trace in found.stages] == [True] * 3
