"""The folder of results: what is found again, what is not, and the tables made of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sample_reports import output, report, stage, validated
from suites import record

from runner.errors import BadInput, ExitCode
from runner.host.files import hash_file
from runner.suite.plan import Cell, Conversion, SuitePlan
from runner.suite.request import Request
from runner.suite.results import (
    LatencyRecord,
    Record,
    Results,
    Timing,
    make_record,
    read_results,
    write_table,
)

KEY = "ab" * 32


def conversion(key: str = KEY, model: str = "net") -> Conversion:
    request = Request.__new__(Request)
    object.__setattr__(request, "key", key)
    return Conversion(Cell(model, "2022", "default"), request)


def make_plan(*conversions: Conversion) -> SuitePlan:
    models = [c.cell.model for c in conversions]
    return SuitePlan("a suite", models, ["2022"], ["default"], conversions)


def make_run(folder: Path) -> Path:
    """A run folder with a report and a model."""
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(b"a model")
    made = report(stages=[stage(n, [output("y", 1e-8)]) for n in ("torch", "onnx-tf", "tflite")])
    artifact = made["stages"][-1]["report"]["artifact"]
    artifact.update(sha256=hash_file(folder / "model.tflite"), path="model.tflite")
    (folder / "report.json").write_text(validated(made).to_json())
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Results with one finished conversion."""
    made = Results(tmp_path / "results")
    with made.open():
        made.write_index(make_plan(conversion()), "0")
        draft = make_run(made.drafts / "1")
        made.place(draft, make_record(conversion(), draft, worker="w", seconds=2.0, attempts=1))
    return made


def test_what_is_finished_is_found_again(results: Results) -> None:
    found = results.find(conversion())
    assert found is not None and found.outcome == "passed"
    assert (found.run, found.worker, found.attempts) == ("runs/net/2022/default", "w", 1)
    assert (results.folder / found.run / "report.html").is_file()
    assert results.find(conversion("cd" * 32)) is None  # made from something else
    read = read_results(results.folder)
    assert [r.outcome for r in read.records] == ["passed"]


@pytest.mark.parametrize("lost", ["report.json", "model.tflite", ".", "record"])
def test_what_is_damaged_is_not_found(results: Results, lost: str) -> None:
    run = results.folder / "runs/net/2022/default"
    if lost == "record":
        run.with_name("default.json").write_text("{")
    elif lost == ".":
        run.rename(run.with_name("elsewhere"))
    elif lost == "model.tflite":
        (run / lost).write_bytes(b"another")
    else:
        (run / lost).unlink()
    assert results.find(conversion()) is None


@pytest.mark.parametrize(
    ("code", "outcome", "final"),
    [
        (ExitCode.BAD_INPUT, "refused", True),
        (ExitCode.ENVIRONMENT, "unavailable", False),
        (ExitCode.INTERNAL, "killed", False),
        (ExitCode.INTERRUPTED, "killed", False),
    ],
)
def test_a_conversion_without_a_report(
    results: Results, code: ExitCode, outcome: str, final: bool
) -> None:
    made = make_record(conversion(), None, exit_code=int(code), failure="why")
    assert (made.outcome, made.is_final, made.reason) == (outcome, final, "why")
    results.write(made)
    assert (results.find(conversion()) is not None) == final


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(BadInput, match="something else"), Results(tmp_path).open():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    with pytest.raises(BadInput, match="holds no results"):
        read_results(tmp_path)


def test_only_one_command_writes(results: Results) -> None:
    with (
        results.open(),
        pytest.raises(BadInput, match="Another command"),
        Results(results.folder).open(),
    ):
        pass


def test_what_has_no_result_yet_is_missing(results: Results) -> None:
    with results.open():
        results.write_index(make_plan(conversion(), conversion("cd" * 32, "other")), "0")
    found = read_results(results.folder)
    assert [r.outcome for r in found.records] == ["passed", "missing"]


def test_the_table_has_a_row_for_each_conversion(results: Results) -> None:
    sha256 = read_results(results.folder).records[0].artifact
    timing = Timing(sessions=[3e-3, 1e-3, 2e-3], yardstick=[1e-4] * 3)
    results.write_latency(LatencyRecord(runtime="r", machine="m", files={sha256: timing}))
    written = write_table(read_results(results.folder))
    with open(written[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["model"], r["outcome"], r["latency"]) for r in rows] == [("net", "passed", "0.002")]


def test_records_survive_their_own_json() -> None:
    made = record("net")
    assert Record.model_validate(json.loads(made.model_dump_json())) == made
