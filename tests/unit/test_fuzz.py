"""A short, repeatable run of the fuzzer: see fuzz/README.md for long ones."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest
from harness import ROOT
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(ROOT))

from fuzz.guard import TooLarge, TooSlow, bounded
from fuzz.harness import Harness
from fuzz.mutation import mutate
from fuzz.parsers import ALL

# Some parsers take much longer for an example than others.
_EXAMPLES = {
    "command-line": 8,
    "run-report": 25,
    "stage-output": 20,
    "pickle": 40,
    "trust-weights": 15,
}
_REGRESSIONS = [(name, what) for name in ALL for what in ALL[name].corpus()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(params=ALL)
def harness(request: pytest.FixtureRequest) -> Harness:
    return ALL[request.param]


def test_it_starts_from_what_the_parser_takes(harness: Harness) -> None:
    """So that the mutations of it get beyond the first bytes."""
    taken = [harness.run(seed) for seed in harness.seeds()]
    # Nobody but its key can make a signature that is taken.
    assert any(taken) == (harness.name != "signature")


@pytest.mark.parametrize(("name", "what"), _REGRESSIONS)
def test_what_once_went_wrong(name: str, what: str) -> None:
    ALL[name].run(ALL[name].corpus()[what])


@pytest.mark.filterwarnings("ignore")
def test_no_mutation_breaks_the_parser(harness: Harness) -> None:
    seeds = harness.seeds()

    @settings(
        max_examples=_EXAMPLES.get(harness.name, 60),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(seeds), st.randoms(use_true_random=False))
    def run(seed: bytes, choices: random.Random) -> None:
        harness.run(mutate(seed, seeds, harness.tokens, choices))

    run()


def test_what_takes_too_long_or_too_much_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.guard.MOST_SECONDS", 0.1)
    with pytest.raises(TooSlow), bounded():
        while True:
            time.process_time()
    monkeypatch.setattr("fuzz.guard.MOST_SECONDS", 60.0)
    with pytest.raises(MemoryError), bounded():
        bytearray(4 << 30)
    monkeypatch.setattr("fuzz.guard.MOST_GROWTH", 8 << 20)
    with pytest.raises(TooLarge), bounded():
        bytearray(600 << 20)[:: 1 << 12] = bytes((600 << 20) >> 12)


def test_a_parser_that_breaks_is_found(tmp_path: Path) -> None:
    def check(data: bytes, folder: Path) -> bool:
        return data[3] != 0xFF

    seeds = [bytes(8)]
    broken = Harness("broken", lambda: seeds, check)
    random_ = random.Random(0)
    with pytest.raises(IndexError):
        for _ in range(500):
            broken.run(mutate(seeds[0], seeds, (), random_))
