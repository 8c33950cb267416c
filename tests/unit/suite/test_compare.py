"""Two sets of results: planted changes are named, each of them and nothing else; noise never is."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from suites import measure, record, results

from runner.errors import BadInput
from runner.suite.compare import compare_results
from runner.suite.output.junit import write_junit
from runner.suite.results import Quantized, Record, ResultSet, Timing

MODELS = [f"net{number:02d}" for number in range(40)]
CHAINS = ("2020-09", "2022", "2026")
# A change of each kind, by the record's fields before and after; the latency's is a factor.
REGRESSIONS: dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any], str]] = {
    ("net00", "2020-09"): ({}, {"outcome": "failed", "artifact": "", "bytes": None}, "outcome"),
    ("net01", "2022"): ({}, {"outcome": "out-of-tolerance"}, "outcome"),
    ("net02", "2026"): ({}, {"error": 9e-7}, "error"),
    ("net03", "2020-09"): ({}, {"error": 4e-7}, "error"),
    ("net04", "2022"): ({}, {"bytes": 1_020_000}, "size"),
    ("net05", "2026"): ({}, {"bytes": 4_000_000}, "size"),
    ("net06", "2020-09"): ({}, {"operators": 71}, "operators"),
    ("net07", "2022"): ({}, {"flex": 1}, "operators"),
    ("net08", "2026"): ({"latency": 1.0}, {"latency": 1.5}, "latency"),
    ("net09", "2020-09"): ({"latency": 1.0}, {"latency": 8.0}, "latency"),
}
# The same in the other direction, of other models.
IMPROVEMENTS = {
    (f"net{int(model[3:]) + 20:02d}", chain): (after, before, what)
    for (model, chain), (before, after, what) in REGRESSIONS.items()
}


def make_set(seed: int, side: int, planted: dict[Any, Any] | None = None) -> ResultSet:
    """A set of 120 conversions; `side` says whether it is the one before (0) or after (1)."""
    fields = {key: value[side] for key, value in (planted or {}).items()}
    records = []
    for model in MODELS:
        for chain in CHAINS:
            more = {k: v for k, v in fields.get((model, chain), {}).items() if k != "latency"}
            if more.get("outcome") == "failed":
                more |= {"error": None, "operators": None, "flex": None}
            records.append(record(model, chain, **more))

    def seconds(made: Record) -> float:
        factor = fields.get((made.model, made.toolchain), {}).get("latency", 1.0)
        return 2e-4 * (1 + MODELS.index(made.model)) * factor

    timings = measure(records, random.Random(seed), seconds)
    return results(records, Path(f"set{seed}"), timings)


def test_ten_regressions_and_ten_improvements_are_named_and_nothing_else() -> None:
    planted = {**REGRESSIONS, **IMPROVEMENTS}
    found = compare_results(make_set(1, 0, planted), make_set(2, 1, planted))
    worse = {(c.cell.model, c.cell.toolchain): c.what for c in found.worse}
    better = {(c.cell.model, c.cell.toolchain): c.what for c in found.better}
    assert worse == {key: what for key, (_, _, what) in REGRESSIONS.items()}
    assert better == {key: what for key, (_, _, what) in IMPROVEMENTS.items()}
    assert len(found.worse) == len(found.better) == 10
    assert found.failed


def test_the_latency_of_equal_sets_is_never_named_in_twenty_comparisons() -> None:
    sets = [make_set(seed, 0) for seed in range(21)]
    for before, after in zip(sets, sets[1:], strict=False):
        found = compare_results(before, after)
        assert found.changes == []
        assert not found.failed


def test_a_slowdown_of_everything_is_one() -> None:
    """The middle of all files is not taken for the machine's: for that there is the yardstick."""
    records = [record(model) for model in MODELS]
    before = measure(records, random.Random(1), lambda r: 1e-3)
    after = measure(records, random.Random(2), lambda r: 1.4e-3)
    found = compare_results(results(records, timings=before), results(records, timings=after))
    assert len(found.worse) >= 0.9 * len(MODELS)  # but for those with a spoilt session


@pytest.mark.parametrize(
    ("what", "before", "after", "named"),
    [
        ("rounding is not told from passed", {}, {"outcome": "rounding"}, []),
        ("twice the rounding is noise", {"error": 1e-8}, {"error": 1.8e-7}, []),
        ("real errors differ", {"error": 1.9e-7}, {"error": 2.4e-7}, ["error"]),
        ("a little size", {}, {"bytes": 1_009_000}, []),
        ("an operator fewer", {}, {"operators": 69}, ["operators"]),
        ("an operator fewer, but one of Flex", {}, {"operators": 60, "flex": 1}, ["operators"]),
        ("another metric", {}, {"metric": "max_abs", "error": 1.0}, []),
        (
            "a quantised model",
            {"quantized": {"int8": Quantized(status="ok", sqnr=36.9, top1=1.0)}},
            {"quantized": {"int8": Quantized(status="ok", sqnr=36.3, top1=0.98)}},
            ["quantised", "quantised"],
        ),
        (
            "a quantised model that is no more",
            {"quantized": {"int8": Quantized(status="ok", sqnr=36.9)}},
            {"quantized": {"int8": Quantized(status="failed")}},
            ["quantised"],
        ),
    ],
)
def test_what_is_a_change(
    what: str, before: dict[str, Any], after: dict[str, Any], named: list[str]
) -> None:
    found = compare_results(results([record("net", **before)]), results([record("net", **after)]))
    assert [change.what for change in found.changes] == named, what


def test_latencies_of_two_machines_are_not_compared() -> None:
    records = [record("net")]
    slow = {records[0].artifact: Timing(sessions=[9.0, 9.0], yardstick=[1e-4, 1e-4])}
    fast = {records[0].artifact: Timing(sessions=[1.0, 1.0], yardstick=[1e-4, 1e-4])}
    found = compare_results(
        results(records, timings=fast), results(records, timings=slow, machine="another")
    )
    assert not found.changes
    assert "another" in found.notes[0]


def test_two_toolchains_are_compared_model_by_model() -> None:
    records = [record("a", "old"), record("a", "new", bytes=2_000_000)]
    found = compare_results(
        results(records), results(records), base_toolchain="old", new_toolchain="new"
    )
    assert [str(change) for change in found.changes] == ["a · new: size: 1.0 MB → 2.0 MB (+100.0%)"]
    with pytest.raises(BadInput, match="no results of the toolchain 'other'"):
        compare_results(results(records), results(records), base_toolchain="other")


def test_what_is_gone_closes_the_gate() -> None:
    found = compare_results(results([record("a"), record("b")]), results([record("a")]))
    assert found.failed and [cell.model for cell in found.only_base] == ["b"]
    with pytest.raises(BadInput, match="nothing"):
        compare_results(results([record("a")]), results([record("a")]), whats=["speed"])
    with pytest.raises(BadInput, match="no conversion in common"):
        compare_results(results([record("a")]), results([record("b")]))


def test_junit_has_a_case_for_each_conversion(tmp_path: Path) -> None:
    before = [record("a"), record("b"), record("c")]
    after = [record("a", bytes=1_500_000, operators=99), record("b", bytes=900_000)]
    found = compare_results(results(before), results(after))
    write_junit(found, tmp_path / "junit.xml")
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    failures = {case.get("classname"): case.find("failure") for case in suite}
    assert failures["b"] is None
    assert failures["a"] is not None and "1.5 MB" in (failures["a"].text or "")
    assert failures["c"] is not None and failures["c"].get("type") == "gone"
    assert json.loads(json.dumps(found.as_dict()))["compared"] == 2
