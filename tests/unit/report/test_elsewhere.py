"""Which figures of another interpreter are worth a warning, and which are rounding."""

from __future__ import annotations

import pytest

from runner.report.elsewhere import list_warnings
from runner.schemas.report import CheckRecord, Elsewhere, ElsewhereRow, StageRecord, StageReport


def make_check(ratio: float, agreement: float | None, verdict: str = "passed") -> CheckRecord:
    output = {
        "name": "output",
        "rms_rel": 10 ** (-ratio / 20),
        "top1_agreement": agreement,
        "verdict": verdict,
    }
    return CheckRecord.model_construct(
        framework="LiteRT 2.3.0",
        verdict=verdict,
        outputs=[_construct(output)],
    )


def _construct(values: dict[str, object]) -> object:
    from runner.schemas.report import OutputRecord

    return OutputRecord.model_construct(**values)


def warn(row: ElsewhereRow, own: CheckRecord) -> list[str]:
    record = StageRecord(name="int8", title="", status="ok")
    record.report = StageReport.model_construct(check=own)
    place = Elsewhere(image="tflite", runtime="TensorFlow Lite 2.4.0", files=[row])
    return list_warnings([place], [record])


@pytest.mark.parametrize(
    ("ratio", "agreement", "verdict", "warned"),
    [
        (36.1, 1.0, "passed", False),  # another kernel's rounding
        (40.0, 1.0, "passed", False),
        (32.0, 1.0, "passed", True),  # twice the error's power
        (36.0, 0.95, "passed", True),
        (0.0, 0.1, "exceeded", True),
        (36.5, None, "nonfinite", True),
    ],
)
def test_what_is_computed_wrongly_is_told_from_rounding(
    ratio: float, agreement: float | None, verdict: str, warned: bool
) -> None:
    row = ElsewhereRow.model_construct(
        mode="int8", failure="", check=make_check(ratio, agreement, verdict)
    )
    notes = warn(row, make_check(36.5, 1.0))
    assert bool(notes) == warned
    assert all("TensorFlow Lite 2.4.0 computes it wrongly" in note for note in notes)


def test_what_is_refused_is_said_with_the_reason() -> None:
    row = ElsewhereRow(mode="int8", failure="Input tensor 54 lacks data")
    (note,) = warn(row, make_check(36.5, 1.0))
    assert note == "int8: TensorFlow Lite 2.4.0 does not run it: Input tensor 54 lacks data"


def test_a_model_that_is_bad_at_home_is_no_fault_of_another_interpreter() -> None:
    row = ElsewhereRow.model_construct(
        mode="int8", failure="", check=make_check(12.0, 0.6, "exceeded")
    )
    assert warn(row, make_check(12.3, 0.6, "exceeded")) == []
