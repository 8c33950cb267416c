"""Toolchains in order of date, and the first of them that is worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from suites import record, results

from runner.errors import BadInput
from runner.host.paths import ROOT
from runner.suite.bisection.toolchains import judge, list_dated
from runner.suite.results import Timing
from runner.toolchains.load import load_toolchains

EXAMPLE = ROOT / "examples" / "mbv2.pt"
CHAINS = sorted(
    (c for c in load_toolchains() if c.accepts == "pytorch" and c.date), key=lambda c: c.date
)[:4]
GONE = {"outcome": "failed", "error": None, "bytes": None, "operators": None, "artifact": ""}


@pytest.mark.parametrize(
    ("made", "good", "last", "bad"),
    [
        # A refusal says nothing; what is worse than the first good one is bad, if it fails or not.
        ([{**GONE, "outcome": "refused"}, {}, {"error": 9e-7}, {}], 1, 1, 2),
        ([{}, {}, {}, GONE], 0, 2, 3),
        ([{}, {**GONE, "outcome": "unavailable"}, GONE, {}], 0, 0, 2),
        ([{}, {}, {}, {}], 0, 3, None),
        # Little by little: each is compared with the first good one, not with the one before.
        ([{"error": 2e-7}, {"error": 2.4e-7}, {"error": 2.8e-7}, {"error": 3.4e-7}], 0, 1, 2),
        ([GONE, GONE, GONE, GONE], None, None, None),
        # Size is not looked at unless asked for.
        ([{}, {"bytes": 9_000_000}, {}, {}], 0, 3, None),
    ],
)
def test_the_first_that_is_worse(
    made: list[dict[str, Any]], good: int | None, last: int | None, bad: int | None
) -> None:
    records = [record("net", c.title, **more) for c, more in zip(CHAINS, made, strict=True)]
    found = judge(results(records), CHAINS)

    def place(step: Any) -> int | None:
        return found.steps.index(step) if step else None

    assert (place(found.good), place(found.last_good), place(found.first_bad)) == (good, last, bad)
    assert len(found.as_dict()["steps"]) == 4


def test_a_slower_one_is_named_beyond_its_noise() -> None:
    records = [record("net", chain.title) for chain in CHAINS]
    times = (1.0, 1.05, 9.0, 1.0)
    timings = {
        r.artifact: Timing(sessions=[t, t * 1.02, t * 0.99], yardstick=[1e-2] * 3)
        for r, t in zip(records, times, strict=True)
    }
    found = judge(results(records, timings=timings), CHAINS)
    assert found.first_bad is found.steps[2]
    assert found.first_bad.changes[0].what == "latency"
    assert judge(results(records, timings=timings), CHAINS, ["error"]).first_bad is None


def test_toolchains_between_two() -> None:
    titles = [chain.title for chain in list_dated(EXAMPLE)]
    dates = [chain.date for chain in list_dated(EXAMPLE)]
    assert dates == sorted(dates) and "2020-09" in titles and titles[0] == "2019"
    between = [chain.title for chain in list_dated(EXAMPLE, "2020-09", "2021")]
    assert between == titles[titles.index("2020-09") : titles.index("2021") + 1]
    assert "2021-05" in between
    with pytest.raises(BadInput, match="nothing between"):
        list_dated(EXAMPLE, "2022", "2022")
    with pytest.raises(BadInput, match="no toolchain"):
        list_dated(EXAMPLE, "1999")
    with pytest.raises(BadInput):
        list_dated(Path("none.pt"))
