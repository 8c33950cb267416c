"""How far a model's outputs are from the reference: statistics over all samples, and the verdict.

Everything is accumulated block by block, so outputs of any size need no more memory than a block.
As in other model comparison tools, errors are elementwise: absolute, |actual - reference|, and
relative, |actual - reference| / |reference|. In the latter, |reference| counts as at least
float32's epsilon times the sample's root mean square, so that a zero does not hide an error.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

# The metrics that `--metric` accepts.
METRICS = ("mean_abs", "max_abs", "p99_abs", "rms_abs", "mean_rel", "max_rel", "p99_rel", "rms_rel")

# A reference that varies by less than this many tolerances proves nothing: outputs that are wrong
# by 10 % would pass.
VACUOUS_FACTOR = 10.0

# An error of up to this many noise floors is float32's rounding: two computations of one value in
# another order of operations differ as much.
ROUNDING_FACTOR = 2.0

# From the most to the least serious; the overall verdict is the first that any output has.
VERDICTS = ("shape", "nonfinite", "exceeded", "vacuous", "rounding", "passed")

# Quantiles come from a histogram over the leading bits of the float32 pattern, which increases with
# the value. With 10 bits of mantissa a quantile is within 0.1 % of the exact one.
_SHIFT = 13
# How many elements are compared at a time, so that temporaries stay in the processor's cache.
_CHUNK = 1 << 17
_EPSILON = float(np.finfo(np.float32).eps)
_TINY = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)
_BINS = (0x7F800000 >> _SHIFT) + 1
# A report's histogram has one octave per bin, or several if errors span more than _MOST_BINS.
_OCTAVE = 1 << (23 - _SHIFT)
_MOST_BINS = 40
# How many of the worst samples a report lists.
_WORST = 5
# How many pairs of classes that are taken for each other it lists.
MOST_PAIRS = 12


class OutputStatistics:
    """The error of one output over all samples.

    `add` takes blocks of shape (samples, *shape); `result` returns a dictionary fit for JSON.
    """

    def __init__(self, name: str, shape: Sequence[int], dtype: np.dtype) -> None:
        self.name = name
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.actual_shape: Optional[Sequence[int]] = None
        self.samples = 0
        self.nonfinite = 0
        self.reference_nonfinite = 0
        self.equal_infinities = 0
        self._excluded = 0  # elements that are not finite on either side
        self._classes = len(self.shape) == 2 and self.shape[1] > 1 and self.dtype.kind == "f"
        self._pairs: List[Tuple[np.ndarray, np.ndarray]] = []  # classes: wanted, and got
        self._abs = _Distribution()
        self._rel = _Distribution()
        self._cosines: List[np.ndarray] = []
        self._sample_max: List[np.ndarray] = []
        self._sample_mean: List[np.ndarray] = []
        self._reference = _Moments(self.shape)

    def add(self, reference: np.ndarray, actual: np.ndarray) -> None:
        """Add the outputs of some samples, both of shape (samples, *shape)."""
        if actual.shape != reference.shape:
            self.actual_shape = actual.shape[1:]
            return
        count = len(reference)
        self.samples += count
        if self._classes:
            self._pairs.append((_find_classes(reference), _find_classes(actual)))
        wanted, got = reference.reshape(count, -1), actual.reshape(count, -1)
        squares = np.einsum("ij,ij->i", wanted, wanted, dtype=np.float64)
        if not np.isfinite(squares).all():
            finite = np.where(np.isfinite(wanted), wanted, 0)
            squares = np.einsum("ij,ij->i", finite, finite, dtype=np.float64)
        floor = _EPSILON * np.sqrt(squares / max(1, wanted.shape[1]))[:, None]
        floor = np.maximum(floor, _TINY)
        self._reference.begin(wanted)
        # Per sample: the largest error, the sum of errors, and the three sums of the cosine.
        largest, total, dots, lengths, others = np.zeros((5, count))
        step = max(1, _CHUNK // count)
        for start in range(0, wanted.shape[1], step):
            columns = slice(start, start + step)
            given, made = self._mask_nonfinite(wanted[:, columns], got[:, columns])
            self._reference.add(given, columns)
            error = np.abs(made - given)
            total += self._abs.add(error)
            np.maximum(largest, error.max(axis=1), out=largest)
            self._rel.add(error / np.maximum(np.abs(given), floor))
            dots += np.einsum("ij,ij->i", given, made)
            lengths += np.einsum("ij,ij->i", given, given)
            others += np.einsum("ij,ij->i", made, made)
        self._sample_max.append(largest)
        self._sample_mean.append(total / max(1, wanted.shape[1]))
        norms = np.sqrt(lengths * others)
        self._cosines.append(dots[norms > 0] / norms[norms > 0])

    def _mask_nonfinite(self, wanted: np.ndarray, got: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return both in float64, zero where either is not finite, and count such elements.

        An infinity that both have at one place is equal, and counts as no fault.
        """
        wanted, got = wanted.astype(np.float64), got.astype(np.float64)
        if np.isfinite(wanted.sum()) and np.isfinite(got.sum()):
            return wanted, got
        equal = np.isinf(wanted) & (wanted == got)
        self.equal_infinities += int(np.count_nonzero(equal))
        self.nonfinite += int(np.count_nonzero(~np.isfinite(got) & ~equal))
        self.reference_nonfinite += int(np.count_nonzero(~np.isfinite(wanted) & ~equal))
        finite = np.isfinite(got) & np.isfinite(wanted)
        self._excluded += int(np.count_nonzero(~finite))
        return np.where(finite, wanted, 0.0), np.where(finite, got, 0.0)

    def result(self, labels: Optional[np.ndarray] = None) -> Dict[str, Any]:
        """Return all statistics, in the output's own units; None for a figure that is undefined.

        That is also one that exceeds float64's range, as the square of its largest number does.
        `labels` are the samples' true classes, if they are known.
        """
        figures = {**self._compute_figures(), **self._compare_classes(labels)}
        return {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in figures.items()
        }

    def _compare_classes(self, labels: Optional[np.ndarray]) -> Dict[str, Any]:
        """Return how often both find the same class, and the true one; and the pairs that differ.

        Each pair has the classes, the first of its samples and how many there are; the most
        frequent pairs come first. Labels beyond the classes belong to another output.
        """
        wanted = _concatenate([pair[0] for pair in self._pairs]).astype(np.int64)
        got = _concatenate([pair[1] for pair in self._pairs]).astype(np.int64)
        if not len(wanted):
            none = dict.fromkeys(("top1_agreement", "reference_accuracy", "accuracy"))
            return {**none, "confusion": []}
        found: Dict[Tuple[int, int], List[int]] = {}
        for row in np.flatnonzero(wanted != got):
            sample = int(row) // self.shape[0]
            found.setdefault((int(wanted[row]), int(got[row])), []).append(sample)
        pairs = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
        known = labels if labels is not None and takes_labels(self.shape, labels) else None
        return {
            "top1_agreement": float(np.mean(wanted == got)),
            "reference_accuracy": None if known is None else float(np.mean(wanted == known)),
            "accuracy": None if known is None else float(np.mean(got == known)),
            "confusion": [
                {"reference": pair[0], "actual": pair[1], "count": len(at), "sample": at[0]}
                for pair, at in pairs[:MOST_PAIRS]
            ],
        }

    def _compute_figures(self) -> Dict[str, Any]:
        sample_max, sample_mean = _concatenate(self._sample_max), _concatenate(self._sample_mean)
        cosines = _concatenate(self._cosines)
        worst = np.argsort(-sample_max, kind="stable")[:_WORST]
        root_mean_square = self._reference.root_mean_square()
        return {
            "name": self.name,
            "shape": list(self.shape),
            "actual_shape": None if self.actual_shape is None else list(self.actual_shape),
            "dtype": self.dtype.name,
            "samples": self.samples,
            "nonfinite": self.nonfinite,
            "reference_nonfinite": self.reference_nonfinite,
            "equal_infinities": self.equal_infinities,
            "mean_abs": self._abs.mean(),
            "max_abs": self._abs.maximum,
            "p99_abs": self._abs.quantile(0.99),
            "rms_abs": self._abs.root_mean_square(),
            "mean_rel": self._rel.mean(),
            "max_rel": self._rel.maximum,
            "p99_rel": self._rel.quantile(0.99),
            "rms_rel": self._abs.root_mean_square() / root_mean_square
            if root_mean_square
            else None,
            "cosine_mean": float(cosines.mean()) if len(cosines) else None,
            "cosine_min": float(cosines.min()) if len(cosines) else None,
            # Of outputs near the end of float64's range, that end.
            "reference_mean": float(np.nan_to_num(self._reference.mean())),
            "reference_std": float(np.nan_to_num(self._reference.overall_std())),
            "reference_sample_std": float(np.nan_to_num(self._reference.sample_std())),
            "worst_samples": [
                {
                    "sample": int(i),
                    "max_abs": float(sample_max[i]),
                    "mean_abs": float(sample_mean[i]),
                }
                for i in worst
                if sample_max[i]
            ],
            "histogram": self._abs.histogram(self._excluded),
        }


def takes_labels(shape: Sequence[int], labels: np.ndarray) -> bool:
    """Tell whether an output has a number for each class that the labels name."""
    return len(shape) == 2 and shape[0] == 1 and int(labels.max()) < shape[1]


def _find_classes(values: np.ndarray) -> np.ndarray:
    """Return the class of each row of an array of shape (samples, rows, classes)."""
    return np.argmax(values, axis=-1).reshape(-1)


def judge(
    statistics: Dict[str, Any],
    metric: str,
    tolerance: float,
    floor: Optional[float] = None,
) -> str:
    """Return the verdict on one output, one of `VERDICTS`.

    `floor` is the metric's noise floor; without one, an error above the tolerance never passes.
    Raises ValueError if nothing was compared, which never counts as a pass.
    """
    if statistics["actual_shape"] is not None:
        return "shape"
    if not statistics["samples"]:
        raise ValueError(f"no sample of output '{statistics['name']}' was compared")
    if statistics["nonfinite"] or statistics["reference_nonfinite"]:
        return "nonfinite"
    value = statistics[metric]
    # Without a value (rms_rel of an all-zero reference) any error is too large.
    if statistics["max_abs"] > 0 if value is None else not value < tolerance:
        within = value is not None and floor is not None and value <= ROUNDING_FACTOR * floor
        return "rounding" if within and not _is_vacuous(statistics, value) else "exceeded"
    if metric.endswith("_abs") and _is_vacuous(statistics, tolerance):
        return "vacuous"
    return "passed"


def judge_all(
    outputs: Sequence[Dict[str, Any]],
    metric: str,
    tolerance: float,
    floors: Optional[Sequence[Optional[float]]] = None,
) -> str:
    """Write each output's verdict into it, and return the overall verdict.

    `floors` are the metric's noise floors, where errors of that size may pass. Raises ValueError if
    nothing was compared.
    """
    if not outputs:
        raise ValueError("no output was compared")
    for statistics, floor in zip(outputs, floors or [None] * len(outputs)):
        statistics["verdict"] = judge(statistics, metric, tolerance, floor)
        # The smallest tolerance that would have passed is the next float above the metric's value.
        value = statistics[metric]
        statistics["passing_tolerance"] = (
            None if value is None else float(np.nextafter(value, 1e308))
        )
    verdict = min((s["verdict"] for s in outputs), key=VERDICTS.index)
    constant = all(_is_constant(s) for s in outputs if s["samples"] > 1)
    if verdict in ("passed", "rounding") and outputs[0]["samples"] > 1 and constant:
        return "vacuous"  # the model ignores its inputs, as far as these samples tell
    return verdict


def _is_constant(statistics: Dict[str, Any]) -> bool:
    return statistics["reference_sample_std"] == 0


def _is_vacuous(statistics: Dict[str, Any], tolerance: float) -> bool:
    """Tell whether the reference varies so little that a wrong model would pass.

    What counts is the variation over samples: a model that ignores its input gets the rest right.
    An output that is constant by design (anchors, a passed-through table) is judged by its values.
    Integers are exact, and never vacuous because of their size.
    """
    if np.dtype(statistics["dtype"]).kind != "f":
        return False
    varies = statistics["samples"] > 1 and not _is_constant(statistics)
    spread = statistics["reference_sample_std"] if varies else statistics["reference_std"]
    if not varies and int(np.prod(statistics["shape"])) == 1:
        spread = abs(statistics["reference_mean"])
    return bool(spread < VACUOUS_FACTOR * tolerance)


class _Distribution:
    """Count, mean, root mean square, maximum and quantiles of non-negative numbers."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._squares = 0.0
        self._bins: Optional[np.ndarray] = None
        self.maximum: Optional[float] = None

    def add(self, values: np.ndarray) -> np.ndarray:
        """Add values of shape (samples, elements), and return each sample's sum."""
        sums = values.sum(axis=1)
        if not values.size:
            return sums
        self._count += values.size
        self._sum += float(sums.sum())
        self._squares += float(np.einsum("ij,ij->", values, values))
        self.maximum = max(self.maximum or 0.0, float(values.max()))
        single = np.minimum(values, _LARGEST).astype(np.float32)
        patterns = single.ravel().view(np.uint32) >> _SHIFT
        counts = np.bincount(np.minimum(patterns, _BINS - 1))
        if self._bins is None:
            self._bins = np.zeros(_BINS, np.int64)
        self._bins[: len(counts)] += counts
        return sums

    def mean(self) -> Optional[float]:
        return self._sum / self._count if self._count else None

    def root_mean_square(self) -> Optional[float]:
        return float(np.sqrt(self._squares / self._count)) if self._count else None

    def quantile(self, fraction: float) -> Optional[float]:
        if self._bins is None or self.maximum is None:
            return None
        index = int(np.searchsorted(np.cumsum(self._bins), fraction * self._count))
        if index >= _BINS - 2:
            return self.maximum
        upper = np.array([(index + 1) << _SHIFT], np.uint32).view(np.float32)[0]
        return min(float(upper), self.maximum) if index else 0.0

    def histogram(self, excluded: int) -> Optional[Dict[str, Any]]:
        """Return counts by powers of two: bin i holds edges[i] <= value < edges[i + 1].

        `zeros` counts the values that are 0 (below 1e-41, to be exact) and in no bin, without the
        `excluded` ones, which stand in for values that are not finite. The first bin begins at the
        smallest value's power of two, or at 0 below float32's normal numbers. None if nothing was
        added.
        """
        if self._bins is None:
            return None
        counts = self._bins.copy()
        zeros, counts[0] = int(counts[0]) - excluded, 0
        # The last pattern is that of infinity, which clipped values do not reach.
        octaves = counts[: _BINS - 1].reshape(-1, _OCTAVE).sum(axis=1)
        filled = np.flatnonzero(octaves)
        if not len(filled):
            return {"zeros": zeros, "edges": [], "counts": []}
        first, end = int(filled[0]), int(filled[-1]) + 1
        step = -(-(end - first) // _MOST_BINS)
        end = first + -(-(end - first) // step) * step
        octaves = np.append(octaves, np.zeros(step, np.int64))[first:end].reshape(-1, step)
        # The exponent 0 stands for the numbers below the smallest normal one, 2 ** -126.
        edges = [2.0 ** (i - 127) if i else 0.0 for i in range(first, end + 1, step)]
        return {"zeros": zeros, "edges": edges, "counts": [int(n) for n in octaves.sum(axis=1)]}


class _Moments:
    """Mean and spread of the reference, elementwise over the samples and overall."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._count = 0
        size = int(np.prod(shape))
        self._sum = np.zeros(size)
        self._squares = np.zeros(size)
        # Sums are taken around the first sample, since small variations would be lost in rounding.
        self._origin: Optional[np.ndarray] = None

    def begin(self, values: np.ndarray) -> None:
        """Announce samples of shape (samples, elements), whose columns `add` takes piecemeal."""
        if self._origin is None:
            first = values[0].astype(np.float64)
            self._origin = np.where(np.isfinite(first), first, 0.0)
        self._count += len(values)

    def add(self, values: np.ndarray, columns: slice) -> None:
        assert self._origin is not None
        shifted = values - self._origin[columns]
        self._sum[columns] += shifted.sum(axis=0)
        self._squares[columns] += np.einsum("ij,ij->j", shifted, shifted)

    def _compute_means(self) -> np.ndarray:
        if self._origin is None:
            return np.zeros(0)
        return self._origin + self._sum / self._count

    def _compute_variances(self) -> np.ndarray:
        if self._origin is None:
            return np.zeros(0)
        mean = self._sum / self._count
        return np.maximum(self._squares / self._count - np.square(mean), 0.0)

    def mean(self) -> float:
        means = self._compute_means()
        return float(means.mean()) if means.size else 0.0

    def overall_std(self) -> float:
        means = self._compute_means()
        return float(np.sqrt(self._compute_variances().mean() + means.var())) if means.size else 0.0

    def sample_std(self) -> float:
        variances = self._compute_variances()
        return float(np.sqrt(variances.mean())) if variances.size else 0.0

    def root_mean_square(self) -> float:
        means = self._compute_means()
        return (
            float(np.sqrt((self._compute_variances() + np.square(means)).mean()))
            if means.size
            else 0.0
        )


def _concatenate(blocks: List[np.ndarray]) -> np.ndarray:
    return np.concatenate(blocks) if blocks else np.zeros(0)
