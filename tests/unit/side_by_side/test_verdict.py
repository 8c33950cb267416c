"""What is said of toolchains and interpreters side by side: verdict, costs, matrix, exit code."""

from __future__ import annotations

from typing import Any

import pytest
from html_checks import check

from runner.errors import BadInput, ExitCode
from runner.report.side_by_side.matrix import judge_matrix, warn_of_matrix
from runner.report.side_by_side.page import render_page
from runner.report.side_by_side.verdict import choose, describe_choice, describe_costs
from runner.report.side_by_side.wording import format_seconds, format_spread
from runner.schemas.benchmark import Benchmark, ErrorFigures, FileResult, Latency
from runner.schemas.comparison import Comparison, ToolchainResult
from runner.side_by_side import schedule
from runner.side_by_side.candidates import names_several, split_names
from runner.side_by_side.comparison import find_worst

HASH = "0123456789abcdef" * 4


def latency(seconds: float, threads: int = 1) -> Latency:
    spread = {"least": 0.9, "low": 0.95, "median": 1.0, "high": 1.05, "most": 1.2}
    times = {name: seconds * factor for name, factor in spread.items()}
    return Latency(threads=threads, turns=15, **times)


def result(name: str, seconds: float = 1e-3, **changes: Any) -> ToolchainResult:
    return ToolchainResult(
        **{
            "toolchain": name,
            "description": f"The toolchain {name}",
            "date": "2020-09-23",
            "folder": name,
            "outcome": "passed",
            "exit_code": 0,
            "error": 1e-7,
            "mean_abs": 1e-7,
            "noise_floor": 9e-8,
            "operators": 70,
            "flex": 0,
            "bytes": 1_000_000,
            "seconds": 20.0,
            "latency": [latency(seconds)],
            "home": f"image-{name}",
            **changes,
        }
    )


def measured(errors: dict[str, dict[str, float | str | None]]) -> Benchmark:
    """A benchmark from the error of each file in each image; text says why it does not run."""
    names = list(dict.fromkeys(name for row in errors.values() for name in row))
    runtimes = []
    for image, row in errors.items():
        files = []
        for name, error in row.items():
            if isinstance(error, str):
                files.append(FileResult(file=name, failure=error))
                continue
            figures = ErrorFigures(
                samples=8,
                mean_abs=error,
                max_abs=error,
                nonfinite=int(error is None),
                other_shape=False,
            )
            files.append(FileResult(file=name, error=figures, latency=[latency(1e-3)]))
        runtimes.append({"image": image, "runtime": f"Lite {image[-1]}", "files": files})
    described = {"path": "model.tflite", "sha256": HASH, "bytes": 9}
    return Benchmark(
        runner="1",
        engine="process",
        cores=2,
        rounds=15,
        seconds=1.0,
        files=[{"name": name, **described} for name in names],  # type: ignore[list-item]
        runtimes=runtimes,
    )


def test_the_fastest_is_taken_and_the_others_cost() -> None:
    results = [result("a"), result("b", 2.2e-3, operators=153), result("c", operators=71)]
    best = choose(results, [])
    assert best is results[0]
    assert [describe_costs(r, best, []) for r in results] == [
        "to be taken",
        "same numbers, 2.2 times as slow, 153 operators in place of 70",
        "same numbers, as fast, 71 operators in place of 70",
    ]
    assert describe_choice(results, best) == (
        "Take a: an error of 1.00×10⁻⁷, 1 ms a run in one thread, 70 operators."
    )


def test_what_needs_flex_or_is_wrong_somewhere_comes_last() -> None:
    a, b = result("a", 1e-3, flex=3), result("b", 3e-3)
    assert choose([a, b], []) is b
    assert describe_costs(a, b, []) == "same numbers, 3.0 times as fast, 3 operators need Flex"
    a, b = result("a"), result("b", 3e-3)
    cells = judge_matrix([a, b], measured({"image-a": {"a": 1e-7, "b": 1e-7}}))
    assert choose([a, b], cells) is a
    cells = judge_matrix(
        [a, b], measured({"image-a": {"a": 1e-7, "b": 1e-7}, "image-b": {"a": 0.3, "b": 1e-7}})
    )
    assert choose([a, b], cells) is b
    assert "computed wrongly by Lite b" in describe_costs(a, b, cells)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"error": 2e-6, "outcome": "out-of-tolerance"}, "out of tolerance, an error 20 times"),
        ({"error": 5e-7}, "an error 5.0 times as large, as fast"),
        ({"bytes": 3_000_000}, "same numbers, as fast, 3.0 times the size"),
        ({"bytes": 500_000}, "same numbers, as fast, 2.0 times smaller"),
        ({"latency": []}, "same numbers, not timed"),
        ({"outcome": "failed", "stage": "onnx-tf"}, "failed in the stage onnx-tf"),
        ({"outcome": "refused", "latency": []}, "refused"),
    ],
)
def test_costs_in_words(changes: dict[str, Any], said: str) -> None:
    assert describe_costs(result("b", **changes), result("a"), []).startswith(said)


def test_none_to_take() -> None:
    results = [
        result("a", outcome="failed", error=None),
        result("b", outcome="out-of-tolerance", error=3e-6),
        result("c", outcome="out-of-tolerance", error=2e-6),
    ]
    assert choose(results, []) is None
    assert "c comes closest, with an error of 2.00×10⁻⁶" in describe_choice(results, None)
    assert describe_choice(results[:1], None) == "None converts it within tolerance."
    assert "only one" in describe_choice([*results, result("d")], result("d"))


def test_a_planted_wrong_result_is_warned_of() -> None:
    """A newer file in an older interpreter: loaded, and wrong; another is refused there."""
    results = [result("new"), result("old"), result("odd")]
    found = measured(
        {
            "image-new": {"new": 1e-7, "old": 2e-7, "odd": None},
            "image-old": {"new": 0.31, "old": 1e-7, "odd": "Unknown operator 150."},
        }
    )
    cells = {(c.toolchain, c.image): c for c in judge_matrix(results, found)}
    states = {key: cell.state for key, cell in cells.items()}
    assert states == {
        ("new", "image-new"): "right",
        ("new", "image-old"): "wrong",
        ("old", "image-new"): "right",
        ("old", "image-old"): "right",
        ("odd", "image-new"): "wrong",
        ("odd", "image-old"): "fails",
    }
    assert cells["new", "image-new"].home and not cells["new", "image-old"].home
    wrong, nonfinite, fails = warn_of_matrix(list(cells.values()))
    assert wrong == (
        "Lite d (image-old) runs the file of new without complaint and computes it wrongly: its "
        "error is 0.310 there, and 1.00×10⁻⁷ in Lite w (image-new). Do not run it there."
    )
    assert "computes it wrongly: Outputs are NaN or infinite. Do not" in nonfinite
    assert fails == "Lite d (image-old) does not run the file of odd: Unknown operator 150."


def test_rounding_in_another_order_is_no_warning() -> None:
    results = [result("a", noise_floor=1e-7)]
    found = measured({"image-a": {"a": 0.0}, "image-b": {"a": 5e-6}})
    assert warn_of_matrix(judge_matrix(results, found)) == []


def test_the_page_is_sound_whatever_is_in_it() -> None:
    results = [
        result("new"),
        result("<b>" * 30, outcome="failed", why="x" * 900, stage="y" * 50),
        result("old", outcome="refused", folder=None, latency=[], error=None, remedy="&"),
    ]
    found = measured({"image-new": {"new": 1e-7}, "image-old": {"new": 0.3}})
    cells = judge_matrix(results, found)
    made = Comparison(
        runner="1",
        started="2026-01-02T03:04:05+00:00",
        seconds=3.0,
        exit_code=2,
        model={"name": "<i>", "kind": "k", "sha256": HASH, "bytes": 3},  # type: ignore[arg-type]
        metric="mean_abs",
        tolerance=1e-6,
        samples=8,
        engine=None,
        reference=None,
        toolchains=results,
        take="new",
        verdict="Take new.",
        warnings=warn_of_matrix(cells),
        notes=["\x1b[2J"],
        matrix=cells,
        benchmark=found,
    )
    page = check(render_page(made, "out"))
    words = " ".join(element.words for element in page.all("body"))
    assert "computes it wrongly" in words and "Take new." in words
    assert [link.attributes["href"] for link in page.all("a")].count("new/report.html") == 1


def test_the_worst_exit_code_counts() -> None:
    worst = [ExitCode.PASSED, ExitCode.OUT_OF_TOLERANCE, ExitCode.BAD_INPUT, ExitCode.STAGE_FAILED]
    assert find_worst(worst) == ExitCode.STAGE_FAILED
    assert find_worst(worst[:2]) == ExitCode.OUT_OF_TOLERANCE
    assert find_worst([ExitCode.PASSED]) == ExitCode.PASSED
    assert BadInput("x").exit_code == find_worst([])


def test_how_many_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, memory, width in ((2, 64, 1), (16, 64, 8), (16, 9, 2), (1, 1, 1)):
        monkeypatch.setattr(schedule, "count_cores", lambda cores=cores: cores)
        monkeypatch.setattr(schedule, "read_available_memory", lambda m=memory: m << 30)
        assert schedule.compute_width() == width
    assert schedule.compute_width(3) == 3


def test_words_for_small_things() -> None:
    assert [names_several(text) for text in ("2026", "all", "a,b", "a,")] == [0, 1, 1, 1]
    assert split_names(" a, b,,") == ["a", "b"]
    shown = [format_seconds(s) for s in (2.5, 0.0123, 4.3e-4, 5e-6)]
    assert shown == ["2.5 s", "12.3 ms", "0.43 ms", "5 µs"]
    assert format_spread(latency(1e-3)) == "0.95 to 1.05 ms"
