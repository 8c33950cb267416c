"""stages/kit/statistics.py against plain numpy, and with faults planted in the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from runner.planning.check import METRICS
from runner.schemas.report import Histogram
from stages.kit import statistics
from stages.kit.statistics import OutputStatistics, judge, judge_all

SHAPE = (1, 40)
COUNT = 25


def reference(scale: float = 1.0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(1).normal(0, scale, (COUNT, *shape)).astype(np.float32)


def off_by(error: float, exact: np.ndarray) -> np.ndarray:
    """Outputs with an error of that size, of either sign."""
    noise = np.random.default_rng(2).normal(0, error, exact.shape)
    return (exact + noise).astype(np.float32)


def measure(wanted: np.ndarray, got: np.ndarray, blocks: int = 1) -> dict[str, Any]:
    output = OutputStatistics("output", wanted.shape[1:], wanted.dtype)
    for one, other in zip(np.array_split(wanted, blocks), np.array_split(got, blocks), strict=True):
        output.add(one, other)
    return output.result()


def verdict(wanted: np.ndarray, got: np.ndarray, tolerance: float = 1e-3) -> str:
    return judge_all([measure(wanted, got)], "mean_abs", tolerance)


@pytest.mark.parametrize("blocks", [1, 4, COUNT])
def test_figures_are_numpys(blocks: int) -> None:
    wanted = reference()
    got = off_by(1e-3, wanted)
    exact, actual = wanted.astype(np.float64), got.astype(np.float64)
    error = np.abs(actual - exact)
    relative = error / np.abs(exact)
    cosines = [
        a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(exact, actual, strict=True)
    ]
    worst = np.argsort(-error.max(axis=(1, 2)))[:5]
    expected = {
        "mean_abs": error.mean(),
        "max_abs": error.max(),
        "rms_abs": np.sqrt((error**2).mean()),
        "mean_rel": relative.mean(),
        "max_rel": relative.max(),
        "rms_rel": np.sqrt((error**2).mean() / (exact**2).mean()),
        "cosine_mean": np.mean(cosines),
        "cosine_min": np.min(cosines),
        "top1_agreement": np.mean(exact.argmax(-1) == actual.argmax(-1)),
        "reference_mean": exact.mean(),
        "reference_std": exact.std(),
        "reference_sample_std": np.sqrt(exact.var(axis=0).mean()),
    }
    result = measure(wanted, got, blocks)
    for key, value in expected.items():
        assert result[key] == pytest.approx(value, rel=1e-9), key
    assert [entry["sample"] for entry in result["worst_samples"]] == worst.tolist()
    for entry in result["worst_samples"]:
        own = error[entry["sample"]]
        assert entry["max_abs"] == pytest.approx(own.max(), rel=1e-9)
        assert entry["mean_abs"] == pytest.approx(own.mean(), rel=1e-9)
    assert result["samples"] == COUNT


@pytest.mark.parametrize("size", [1e-9, 1e-4, 1.0, 3e7])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "two values"])
def test_quantiles_are_exact_to_a_thousandth(size: float, kind: str) -> None:
    generator = np.random.default_rng(3)
    error = {
        "normal": np.abs(generator.normal(0, size, (COUNT, 1, 400))),
        "lognormal": generator.lognormal(0, 2, (COUNT, 1, 400)) * size,
        "two values": np.where(generator.random((COUNT, 1, 400)) < 0.02, 5 * size, size),
    }[kind]
    wanted = np.zeros_like(error)
    result = measure(wanted, error, blocks=3)
    exact = np.quantile(error, 0.99, method="inverted_cdf")
    assert result["p99_abs"] == pytest.approx(exact, rel=1.1e-3)
    assert result["p99_abs"] <= result["max_abs"]


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0, 12.0, 40.0])
@pytest.mark.parametrize("size", [1e-7, 1.0, 1e20])
def test_histogram(size: float, spread: float) -> None:
    """Against numpy's: from a single bin to errors over all of float32's range."""
    generator = np.random.default_rng(4)
    error = generator.lognormal(0, spread, (COUNT, 1, 400)) * size
    error = np.clip(error, 1e-40, 1e38).astype(np.float32).astype(np.float64)
    error[generator.random(error.shape) < 0.1] = 0
    histogram = measure(np.zeros_like(error), error, blocks=3)["histogram"]
    Histogram.model_validate(histogram)  # the runner takes it
    edges, counts = np.array(histogram["edges"]), histogram["counts"]
    assert histogram["zeros"] == np.count_nonzero(error == 0)
    assert 1 <= len(counts) <= 40
    assert counts == np.histogram(error[error > 0], edges)[0].tolist()
    assert sum(counts) == np.count_nonzero(error)
    assert np.log2(edges[edges > 0]).tolist() == np.round(np.log2(edges[edges > 0])).tolist()
    # No bin more than needed: the first holds something, and the rest ends in the last.
    assert counts[0] > 0 and (len(counts) == 40 or counts[-1] > 0 or spread > 4)


def test_histogram_leaves_out_what_is_not_finite() -> None:
    wanted, got = reference(), reference() + np.float32(0.5)
    wanted[0, 0, :3], got[1, 0, 1] = np.nan, np.inf
    wanted[2], got[2] = 1, 1
    histogram = measure(wanted, got)["histogram"]
    assert histogram["zeros"] == 40
    assert sum(histogram["counts"]) == (COUNT - 1) * 40 - 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"edges": [1.0], "counts": [3]},
        {"edges": [1.0, 2.0], "counts": []},
        {"edges": [2.0, 1.0], "counts": [3]},
        {"edges": [1.0, 2.0], "counts": [-1]},
        {"edges": [1.0, float("inf")], "counts": [3]},
        {"edges": list(range(1, 80)), "counts": [1] * 78},
    ],
)
def test_the_runner_takes_no_other_histogram(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Histogram.model_validate({"zeros": 0, **wrong})


def test_equal_outputs_have_no_error() -> None:
    result = measure(reference(), reference())
    assert result["mean_abs"] == result["max_abs"] == result["p99_abs"] == result["rms_rel"] == 0
    assert result["worst_samples"] == []
    assert result["histogram"] == {"zeros": COUNT * 40, "edges": [], "counts": []}
    assert result["top1_agreement"] == 1 and result["cosine_min"] == pytest.approx(1)
    assert verdict(reference(), reference()) == "passed"


@pytest.mark.parametrize(
    ("value", "where"), [(np.nan, "got"), (np.inf, "got"), (-np.inf, "got"), (np.nan, "wanted")]
)
def test_one_number_that_is_not_finite_fails(value: float, where: str) -> None:
    wanted, got = reference(), off_by(1e-6, reference())
    (got if where == "got" else wanted)[COUNT - 1, 0, 3] = value
    result = measure(wanted, got, blocks=5)
    assert judge(result, "mean_abs", 1e9) == "nonfinite"
    assert (result["nonfinite"], result["reference_nonfinite"]) == (
        (1, 0) if where == "got" else (0, 1)
    )
    # The rest is still measured.
    assert 0 < result["mean_abs"] < 1e-5


def test_nan_in_the_same_place_fails_too() -> None:
    wanted = reference()
    wanted[3, 0, 3] = np.nan
    assert verdict(wanted, wanted.copy()) == "nonfinite"


@pytest.mark.parametrize("shape", [(1, 1, 1, 40), (40,), (1, 39), (40, 1)])
def test_another_shape_fails(shape: tuple[int, ...]) -> None:
    """Even of the same size: (1, 1, 1, 8) for (1, 8, 1, 1) is a real fault of real tools."""
    result = measure(reference(), np.zeros((COUNT, *shape), np.float32))
    assert judge(result, "mean_abs", 1e9) == "shape"
    assert result["actual_shape"] == list(shape)


@pytest.mark.parametrize(
    ("tolerance", "expected"), [(1e-2, "passed"), (1e-3, "passed"), (1e-5, "exceeded")]
)
def test_tolerance(tolerance: float, expected: str) -> None:
    assert verdict(reference(), off_by(1e-4, reference()), tolerance) == expected


def test_the_metric_must_stay_below_the_tolerance() -> None:
    result = measure(reference(), reference() + np.float32(0.25))
    value = result["mean_abs"]
    assert judge(result, "mean_abs", value) == "exceeded"
    judge_all([result], "mean_abs", 1e-3)
    # It is the smallest that would have passed.
    assert value < result["passing_tolerance"] <= np.nextafter(value, 1)


@pytest.mark.parametrize("key", METRICS.values())
def test_each_metric_judges_by_its_own_figure(key: str) -> None:
    result = measure(reference(), off_by(1e-3, reference()))
    assert judge(result, key, result[key] * 1.001) == "passed"
    assert judge(result, key, result[key]) == "exceeded"


def test_the_runners_metrics_are_the_stages() -> None:
    assert set(METRICS.values()) == set(statistics.METRICS)


class TestVacuous:
    """A check that a wrong model would pass as well."""

    def test_tiny_outputs(self) -> None:
        wanted = reference(1e-9)
        assert verdict(wanted, np.zeros_like(wanted), 1e-6) == "vacuous"

    def test_is_a_matter_of_the_tolerance(self) -> None:
        wanted = reference(1e-4)
        got = off_by(1e-9, wanted)
        assert verdict(wanted, got, 1e-6) == "passed"
        assert verdict(wanted, got, 2e-5) == "vacuous"

    def test_large_but_hardly_varying_outputs(self) -> None:
        """The bias of a last layer says nothing of the layers before."""
        wanted = np.tile(np.linspace(-5, 5, 40), (COUNT, 1, 1)) + reference(1e-8)
        assert verdict(wanted, wanted, 1e-6) == "vacuous"

    def test_outputs_that_ignore_the_input(self) -> None:
        wanted = np.broadcast_to(reference()[:1], (COUNT, *SHAPE)).copy()
        assert verdict(wanted, wanted) == "vacuous"

    def test_one_constant_output_of_two_is_judged_by_its_values(self) -> None:
        wanted = np.broadcast_to(reference()[:1], (COUNT, *SHAPE)).copy()
        outputs = [measure(wanted, wanted), measure(reference(), off_by(1e-6, reference()))]
        assert judge_all(outputs, "mean_abs", 1e-3) == "passed"

    def test_a_wrong_constant_output_is_found(self) -> None:
        wanted = np.broadcast_to(reference()[:1], (COUNT, *SHAPE)).copy()
        outputs = [measure(wanted, wanted + 1), measure(reference(), reference())]
        assert judge_all(outputs, "mean_abs", 1e-3) == "exceeded"

    def test_a_single_sample(self) -> None:
        assert verdict(reference()[:1], reference()[:1]) == "passed"
        assert verdict(reference(1e-9)[:1], reference(1e-9)[:1]) == "vacuous"


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_integers_are_exact(dtype: Any) -> None:
    wanted = (np.arange(COUNT * 40).reshape(COUNT, *SHAPE) // 3 % 2).astype(dtype)
    assert verdict(wanted, wanted) == "passed"
    got = wanted.copy()
    got[0, 0, 0] ^= True
    result = measure(wanted, got)
    assert result["max_abs"] == 1
    assert judge(result, "max_abs", 1e-6) == "exceeded"
    assert result["top1_agreement"] is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("error", [1e-30, 1.0, 30.0, 3e30])
def test_figures_of_a_zero_reference_are_finite(error: float) -> None:
    """Nothing in a report may be NaN; and an error is an error, relative to nothing too."""
    wanted = np.zeros((COUNT, *SHAPE), np.float32)
    result = measure(wanted, wanted + np.float32(error))
    figures = [value for value in result.values() if isinstance(value, float)]
    assert np.isfinite(figures).all()
    assert result["cosine_mean"] is None
    assert result["mean_abs"] == pytest.approx(error)
    for metric in ("mean_rel", "max_rel", "p99_rel", "rms_rel"):
        assert judge(result, metric, 1e-9) == "exceeded", metric


def test_the_most_serious_verdict_wins() -> None:
    good = measure(reference(), off_by(1e-6, reference()))
    wrong = measure(reference(), off_by(1.0, reference()))
    other_shape = measure(reference(), np.zeros((COUNT, 3), np.float32))
    assert judge_all([good, wrong], "mean_abs", 1e-3) == "exceeded"
    assert judge_all([wrong, other_shape, good], "mean_abs", 1e-3) == "shape"
    verdicts = [output["verdict"] for output in (good, wrong, other_shape)]
    assert verdicts == ["passed", "exceeded", "shape"]


def test_nothing_compared_is_never_a_pass() -> None:
    empty = OutputStatistics("output", SHAPE, np.dtype(np.float32)).result()
    with pytest.raises(ValueError, match="no sample"):
        judge(empty, "mean_abs", 1.0)
    with pytest.raises(ValueError, match="no output"):
        judge_all([], "mean_abs", 1.0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4, 5)])
def test_any_rank(shape: tuple[int, ...]) -> None:
    wanted = reference(shape=shape)
    result = measure(wanted, wanted + np.float32(0.5), blocks=2)
    assert result["mean_abs"] == pytest.approx(0.5, rel=1e-6)
    assert result["shape"] == list(shape)


def test_classes_are_compared_with_each_other_and_with_the_labels() -> None:
    """Of 25 samples, three are taken for class 2 and one for class 3; 20 labels are right."""
    wanted = np.zeros((COUNT, 1, 5), np.float32)
    wanted[:, 0, 1] = 1
    got = wanted.copy()
    got[[4, 9, 20], 0, 2] = 2
    got[7, 0, 3] = 2
    labels = np.ones(COUNT, np.int64)
    labels[:5] = 2
    output = OutputStatistics("output", (1, 5), np.dtype(np.float32))
    for rows in (slice(0, 8), slice(8, COUNT)):
        output.add(wanted[rows], got[rows])
    result = output.result(labels)
    assert result["top1_agreement"] == pytest.approx(21 / 25)
    assert result["reference_accuracy"] == pytest.approx(20 / 25)
    assert result["accuracy"] == pytest.approx(18 / 25)  # sample 4 is now right, three are wrong
    assert result["confusion"] == [
        {"reference": 1, "actual": 2, "count": 3, "sample": 4},
        {"reference": 1, "actual": 3, "count": 1, "sample": 7},
    ]
    assert output.result()["accuracy"] is None
    assert output.result(labels + 3)["accuracy"] is None  # of another output's classes
