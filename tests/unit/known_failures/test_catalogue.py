"""The catalogue of known failures is well formed, matching is bounded, logs are cut short."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from harness import ROOT, TESTS
from pydantic import ValidationError

from runner.known_failures.catalogue import Entry, check_bounded, load_catalogue, load_families
from runner.known_failures.match import (
    Symptoms,
    _bounded,
    make_known_failure,
    pick_meaningful_lines,
    recognise,
)
from runner.toolchains.load import load_toolchain

ENTRIES = load_catalogue()
GOOD = {
    "id": "a-failure",
    "example": "it went wrong here",
    "patterns": ["went wrong"],
    "cause": "Something or other went wrong.",
    "remedy": "Do it otherwise, or not at all.",
    "source": "https://example.org/1",
}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
class TestEntry:
    def test_its_example_is_recognised_as_it_and_nothing_else(self, entry: Entry) -> None:
        symptoms = Symptoms(
            entry.example,
            stage=entry.stages[0] if entry.stages else "torch",
            exit_status=entry.exit_status[0] if entry.exit_status else None,
            verdict=entry.verdict,
        )
        assert recognise(symptoms) == entry

    def test_its_fix_is_one(self, entry: Entry) -> None:
        from stages.fixes.catalogue import FIXES

        assert entry.fix in {"", "all", *(fix.name for fix in FIXES)}

    def test_its_stages_are_some(self, entry: Entry) -> None:
        chains = [path.stem for path in (ROOT / "stages/toolchains").glob("*.toml")]
        stages = {stage.name for chain in chains for stage in load_toolchain(chain).stages}
        assert set(entry.stages) <= {"setup", *stages}

    def test_a_test_provokes_it(self, entry: Entry) -> None:
        files = ("test_known_failures.py", "test_toolchains.py")
        provoking = "".join((TESTS / "integration" / name).read_text() for name in files)
        assert re.search(rf'"{entry.id}"', provoking), "no test on the real tools provokes it"


def test_the_page_is_the_catalogue_as_it_is() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["failures_page"]()
    assert page == (ROOT / "docs" / "failures.md").read_text()
    assert all(f"### {entry.id}\n" in page and entry.example in page for entry in ENTRIES)


@pytest.mark.parametrize(
    "pattern", [r"(a+)+b", r"(\w*x)*", r".*a.*b", r"\w+ and \S+", r"(a)\1", r"((?:ab?){1,9}c)*"]
)
def test_a_pattern_that_could_take_long_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"repeat|reference"):
        check_bounded(pattern)
    with pytest.raises(ValidationError):
        Entry.model_validate({**GOOD, "patterns": [pattern]})


@pytest.mark.parametrize(
    "change",
    [
        {"id": "Not An Id"},
        {"source": "somewhere"},
        {"cause": ""},
        {"patterns": ["("]},
        {"verdict": "bad"},
        {"surplus": 1},
        {"example": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_entry_that_is_not_well_formed_is_refused(change: dict[str, object]) -> None:
    Entry.model_validate(GOOD)
    with pytest.raises((ValidationError, re.error)):
        Entry.model_validate({**GOOD, **change})


def write(folder: Path, *entries: dict[str, object]) -> Path:
    lines = []
    for entry in entries:
        lines += ["[[failure]]", *(f"{key} = {value!r}" for key, value in entry.items())]
    (folder / "entries.toml").write_text("\n".join(lines))
    return folder


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    assert len(load_families(write(tmp_path, GOOD))) == 1
    with pytest.raises(ValueError, match="two known failures are called 'a-failure'"):
        load_families(write(tmp_path, GOOD, GOOD))


def test_an_entry_that_matches_everything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither pattern nor condition"):
        load_families(write(tmp_path, {**GOOD, "patterns": []}))


class TestRecognise:
    def test_the_message_counts_before_the_log(self) -> None:
        full = "OSError: [Errno 28] No space left on device"
        gru = "RuntimeError: GRU with linear_before_reset is not supported in Tensorflow."
        for text, log, expected in (
            (full, gru, "disk-full"),
            (gru, full, "gru-linear-before-reset"),
            ("The stage ended with status 1 and left no report.", full, "disk-full"),
        ):
            found = recognise(Symptoms(text, stage="onnx-tf", log=log))
            assert found is not None and found.id == expected

    def test_a_stage_fails_by_its_own_failures_only(self) -> None:
        text = "operand #0 does not dominate this use"
        assert recognise(Symptoms(text, stage="torch")) is None
        assert recognise(Symptoms(text, stage="tflite")) is not None

    def test_conditions_hold(self) -> None:
        text = "The stage was ended by SIGSEGV."
        assert recognise(Symptoms(text, stage="tflite", exit_status=1)) is None
        found = recognise(Symptoms(text, stage="tflite", exit_status=-11))
        assert found is not None and found.id == "converter-crash"
        assert recognise(Symptoms("anything", stage="tflite", verdict="nonfinite")) is None

    def test_the_sense_of_a_long_line_is_at_its_ends(self) -> None:
        text = "loc(" + "callsite(" * 9000 + '"x"): operand #0 does not dominate this use'
        found = recognise(Symptoms(text, stage="tflite"))
        assert found is not None and found.id == "does-not-dominate"

    def test_what_patterns_meet_is_bounded(self) -> None:
        """With one long repeat a pattern at most, that bounds the time, whatever the text is."""
        for text in ("x" * 9_000_000, "x\n" * 4_000_000, "\r".join(["y" * 3000] * 3000)):
            bounded = _bounded(text)
            assert len(bounded) < 70_000
            assert max(map(len, bounded.splitlines())) < 1_010


@pytest.mark.parametrize(
    ("option", "on"),
    [
        ("all", True),
        ("none", False),
        ("recurrent", True),
        ("layout", False),
        ("-layout", True),
        ("all,-recurrent", False),
        ("-recurrent", False),
        ("none,recurrent", True),
    ],
)
def test_the_remedy_knows_whether_the_fix_was_on(option: str, on: bool) -> None:
    from stages.fixes.catalogue import select

    entry = next(entry for entry in ENTRIES if entry.fix == "recurrent")
    assert (entry.fix in {fix.name for fix in select(option, "onnx-tf")}) is on
    remedy = make_known_failure(entry, option).remedy
    assert ("Convert with the fix 'recurrent'" in remedy) is not on
    assert ("Here the fix 'recurrent' did not help" in remedy) is on
    together = next(entry for entry in ENTRIES if entry.fix == "all")
    assert ("with all fixes" in make_known_failure(together, option).remedy) is (option != "all")


LOG = """\
note: Input inferred from the first layer, 0 (Conv2d): 1x3x32x32:float32.
@progress {"phase": "convert", "done": 0, "total": 0}
2026-11-24 10:00:00.123456: I tensorflow/core/platform/cpu_feature_guard.cc:142] optimized
2026-11-24 10:00:00.123456: W tensorflow/stream_executor/platform/default/dso_loader.cc:60] no
WARNING:tensorflow:From /x.py:1: foo is deprecated.
Instructions for updating:
/x/y.py:12: UserWarning: this is a warning
  warnings.warn("x")
 10%|#    | 1/10\r 20%|##   | 2/10
2026-11-24 10:00:00.123456: E tensorflow/core/framework/op.cc:1] something that matters
Traceback (most recent call last):
  File "/app/stages/contract.py", line 240, in _run
    job.signature = job.stage.convert(job)
  File "/app/model.py", line 3, in forward
    return x @ y

RuntimeError: the thing itself
    with a second line
"""


def test_last_words_are_what_matters() -> None:
    assert pick_meaningful_lines(LOG) == [
        "2026-11-24 10:00:00.123456: E tensorflow/core/framework/op.cc:1] something that matters",
        "RuntimeError: the thing itself",
        "    with a second line",
    ]
    assert pick_meaningful_lines("") == []
    assert pick_meaningful_lines("line\n" * 100) == ["line"] * 8
