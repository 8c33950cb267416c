"""The common part of the programs that find the first operator that introduces an error.

An artifact is compared with what it was made from, tensor by tensor. Comparing plain runs shows how
an error grows but not where it comes from, since everything after a wrong operator is wrong too. So
the artifact is cut at every tensor with a known counterpart: each piece between two cuts runs on
the *reference's* values, which are right by definition, and its result is compared with the
reference's. Any difference there is due to that piece alone.

How much may differ is measured as well. Float32 gives the exact result of slightly moved operands
(backward stability), so each piece also runs with its inputs moved by one rounding, which shows
what one rounding error does to the result. A sum of n terms accumulates the square root of n such
errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from stages.kit.contract import Job, Signature, report_progress
from stages.kit.layers import deduplicate
from stages.kit.matching import format_shape

Arrays = Dict[str, np.ndarray]
# Maps a sample's number and input values, in the signature's order, to arrays by name.
Reference = Callable[[int, Sequence[np.ndarray]], Arrays]

# Float32's unit of rounding: half the distance between 1 and the next number.
_UNIT = 2.0**-24
# How often each piece runs with moved inputs, and by how much they are moved.
_DRAWS = 2
_MOVED = 2 * _UNIT
# What kernels of different frameworks may differ by: this many times the effect of one rounding,
# plus this many units of the tensor's largest value, for approximated functions such as tanh.
_TIMES = 4.0
_UNITS = 16.0
_MOST_POINTS = 4000


@dataclass(frozen=True)
class Pair:
    """A tensor of the artifact and its counterpart.

    `axes[i]` is the counterpart's axis at position i of the artifact's tensor, `channels[i]` its
    channel (of axis 1) that is the artifact's channel i; None if unchanged.
    """

    name: str
    reference: str
    axes: Optional[Tuple[int, ...]] = None
    channels: Optional[Tuple[int, ...]] = None

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Return the reference's array in the artifact's order of axes and channels."""
        array = np.asarray(array)  # a row of a vector is a numpy scalar
        if self.channels is not None:
            array = array.take(self.channels, 1)
        if self.axes is None or array.ndim != len(self.axes):
            return array
        return np.ascontiguousarray(array.transpose(self.axes))


@dataclass(frozen=True)
class Piece:
    """The operators that compute a tensor from the tensors at which the artifact is cut.

    `terms` is how many products or summands an element of the result accumulates.
    """

    operators: Tuple[str, ...]
    nodes: Tuple[str, ...]
    tensors: Tuple[str, ...]
    inputs: Tuple[str, ...]
    terms: int = 1


class Artifact:
    """The interface to a model's file that the comparison needs; each format implements it."""

    def order(self) -> List[str]:
        """List all tensors that depend on the inputs, each after those it is computed from."""
        raise NotImplementedError

    def piece(self, name: str, cuts: Set[str]) -> Piece:
        """Return the piece that computes a tensor from the cuts."""
        raise NotImplementedError

    def plain(self, names: Sequence[str]) -> Callable[[Sequence[np.ndarray]], List[np.ndarray]]:
        """Return a function that runs the model as it is, from input values to these tensors."""
        raise NotImplementedError

    def cut(
        self, names: Sequence[str], given: Arrays
    ) -> Callable[[Sequence[np.ndarray], Arrays], List[np.ndarray]]:
        """Return a function that runs the pieces of these tensors on given values of the cuts.

        `given` has an example of each cut's value.
        """
        raise NotImplementedError


@dataclass
class _Statistics:
    """One tensor's errors over all samples so far, per channel if it has channels."""

    pair: Pair
    axis: Optional[int]
    failure: str = ""
    size: float = 0.0
    own: Optional[np.ndarray] = None
    moved: Optional[np.ndarray] = None
    grown: float = 0.0
    power: float = 0.0
    nonfinite: bool = False
    reference_nonfinite: bool = False
    shape: Tuple[int, ...] = ()

    def add(self, expected: np.ndarray, value: np.ndarray, moved: Sequence[np.ndarray]) -> None:
        self.shape = expected.shape
        if value.shape != expected.shape:
            self.failure = self.failure or (
                f"shape {format_shape(value.shape)} instead of {format_shape(expected.shape)}"
            )
            return
        wide = expected.astype(np.float64)
        finite = np.isfinite(wide)
        self.reference_nonfinite |= not finite.all()
        if not np.array_equal(np.isfinite(value), finite):
            self.nonfinite = True
        finite &= np.isfinite(value.astype(np.float64))
        error = np.where(finite, np.abs(value.astype(np.float64) - np.where(finite, wide, 0)), 0)
        change = np.zeros_like(error)
        for other in moved:
            if other.shape == value.shape:
                shift = np.abs(other.astype(np.float64) - value.astype(np.float64))
                change = np.maximum(change, np.where(np.isfinite(shift), shift, 0))
        self.size = max(self.size, float(np.abs(np.where(finite, wide, 0)).max(initial=0.0)))
        self.own = _take_larger(self.own, self._reduce_to_channels(error))
        self.moved = _take_larger(self.moved, self._reduce_to_channels(change))

    def add_plain(self, expected: np.ndarray, value: np.ndarray) -> None:
        if value.shape != expected.shape:
            return
        wide = expected.astype(np.float64)
        error = value.astype(np.float64) - wide
        self.grown += float(np.square(np.where(np.isfinite(error), error, 0)).sum())
        self.power += float(np.square(np.where(np.isfinite(wide), wide, 0)).sum())

    def _reduce_to_channels(self, array: np.ndarray) -> np.ndarray:
        if self.axis is None or self.axis >= array.ndim:
            return array.max(initial=0.0).reshape(1)
        others = tuple(i for i in range(array.ndim) if i != self.axis)
        return array.max(axis=others, initial=0.0)

    def point(self, piece: Piece, modules: Sequence[str], whole: bool) -> Dict[str, Any]:
        """Return the tensor's entry in the report; `whole` values (no floats) allow no rounding."""
        own = np.zeros(1) if self.own is None else self.own
        moved = np.zeros(1) if self.moved is None else self.moved
        scale = self.size or 1.0
        limit = _TIMES * np.sqrt(piece.terms) * moved
        if not whole:
            limit = limit + _UNITS * _UNIT * scale
        ratios = own / np.where(limit > 0, limit, _UNIT)
        worst = int(ratios.argmax())
        reason = self.failure
        if not reason and self.nonfinite:
            reason = "NaN or infinity where the reference has none, or the other way round"
        if not reason and ratios[worst] > 1:
            reason = "error"
        return {
            "tensor": self.pair.name,
            "reference": self.pair.reference,
            "shape": list(self.shape),
            "inputs": [name for name in piece.inputs if name != self.pair.name],
            "operators": deduplicate(piece.operators),
            "nodes": deduplicate(piece.nodes),
            "modules": deduplicate(modules),
            "error": _clamp(np.sqrt(self.grown / self.power) if self.power else self.grown**0.5),
            "own_error": _clamp(own[worst] / scale),
            "limit": _clamp(limit[worst] / scale),
            "ratio": _clamp(ratios[worst]),
            "wrong": reason,
            "reference_nonfinite": self.reference_nonfinite,
        }


@dataclass
class Comparison:
    """What one stage's artifact is compared with, and at which tensors."""

    artifact: Artifact
    pairs: Sequence[Pair]
    reference: Reference
    modules: Callable[[Pair, Piece], Sequence[str]]
    # Why tensors are wrong where comparing does not show it; complete after the last sample.
    reasons: Dict[str, str] = field(default_factory=dict)
    # Keeps the artifact's plain values of each sample for the next stage.
    keep: Optional[Callable[[int, Sequence[np.ndarray]], None]] = None
    notes: List[str] = field(default_factory=list)


def compare_tensors(job: Job, samples: Sequence[np.ndarray], comparison: Comparison) -> None:
    """Compare an artifact with its reference tensor by tensor, and fill in `report["trace"]`."""
    artifact = comparison.artifact
    place = {name: index for index, name in enumerate(artifact.order())}
    pairs = sorted((p for p in comparison.pairs if p.name in place), key=lambda p: place[p.name])
    count = len(samples[0]) if samples else 0
    first = comparison.reference(0, [array[0] for array in samples])
    pairs = [pair for pair in pairs if pair.reference in first][:_MOST_POINTS]
    cuts = {pair.name for pair in pairs}
    pieces = {pair.name: artifact.piece(pair.name, cuts) for pair in pairs}
    statistics = {pair.name: _Statistics(pair, _find_channel_axis(pair, first)) for pair in pairs}
    groups = _group_pieces(comparison, pairs, samples, first, statistics)
    plain = _try_plain(comparison, pairs, [array[0] for array in samples])
    for sample in range(count):
        report_progress("trace", sample + 1, count)
        values = [np.ascontiguousarray(array[sample]) for array in samples]
        known = first if sample == 0 else comparison.reference(sample, values)
        given = {pair.name: pair.turned(known[pair.reference]) for pair in pairs}
        for names, run in groups:
            results = run(values, given)
            moved = [run(*_perturb(values, given, sample, draw)) for draw in range(_DRAWS)]
            for index, name in enumerate(names):
                others = [draw[index] for draw in moved]
                statistics[name].add(given[name], np.asarray(results[index]), others)
        if plain is not None:
            for pair, value in zip(pairs, plain(values)):
                statistics[pair.name].add_plain(given[pair.name], np.asarray(value))
        if comparison.keep is not None:
            comparison.keep(sample, values)
    points = []
    for pair in pairs:
        piece = pieces[pair.name]
        reason = comparison.reasons.get(pair.reference, "")
        statistics[pair.name].failure = reason or statistics[pair.name].failure
        # Such a reason concerns the model, not the operators that compute this tensor.
        modules = [] if reason else comparison.modules(pair, piece)
        whole = first[pair.reference].dtype.kind != "f"
        points.append(statistics[pair.name].point(piece, modules, whole))
    job.report["trace"] = {
        "samples": count,
        "tensors": len(place),
        "matched": len(points),
        "points": points,
        "notes": comparison.notes,
    }


def _group_pieces(
    comparison: Comparison,
    pairs: Sequence[Pair],
    samples: Sequence[np.ndarray],
    first: Arrays,
    statistics: Dict[str, _Statistics],
) -> List[Tuple[List[str], Any]]:
    """Return runs that compute all pieces: a single one, or else halves, to isolate what fails."""
    given = {pair.name: pair.turned(first[pair.reference]) for pair in pairs}
    values = [np.ascontiguousarray(array[0]) for array in samples]
    pending: List[List[str]] = [[pair.name for pair in pairs]]
    groups: List[Tuple[List[str], Any]] = []
    while pending:
        names = pending.pop(0)
        if not names:
            continue
        try:
            run = comparison.artifact.cut(names, given)
            run(values, given)
        except Exception as error:  # every framework raises its own types
            if len(names) > 1:
                half = len(names) // 2
                pending[:0] = [names[:half], names[half:]]
            else:
                words = get_first_line(error)
                statistics[names[0]].failure = f"it does not run on the reference's values: {words}"
            continue
        groups.append((names, run))
    return groups


def _try_plain(comparison: Comparison, pairs: Sequence[Pair], first: Sequence[np.ndarray]) -> Any:
    """Return a run of the model as it is; None if it fails, which costs only the error curve."""
    try:
        run = comparison.artifact.plain([pair.name for pair in pairs])
        run(first)
        return run
    except Exception as error:
        comparison.notes.append(f"The model as a whole does not run: {get_first_line(error)}")
        return None


def _perturb(
    values: Sequence[np.ndarray], given: Arrays, sample: int, draw: int
) -> Tuple[List[np.ndarray], Arrays]:
    """Move each float of the inputs and cuts by one rounding, up or down at random."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([sample, draw])))

    def move(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f":
            return array
        signs = generator.integers(0, 2, array.shape, dtype=np.int8) * 2 - 1
        return np.asarray(array * (1 + _MOVED * signs), array.dtype)

    return [move(value) for value in values], {name: move(a) for name, a in given.items()}


def _find_channel_axis(pair: Pair, first: Arrays) -> Optional[int]:
    """Return the position of the reference's second axis in the artifact's tensor; None if none."""
    if first[pair.reference].ndim < 2:
        return None
    return 1 if pair.axes is None else list(pair.axes).index(1)


def _take_larger(old: Optional[np.ndarray], new: np.ndarray) -> np.ndarray:
    return new if old is None or old.shape != new.shape else np.maximum(old, new)


def _clamp(value: Any) -> float:
    return float(min(float(value), 1e300)) if np.isfinite(value) else 1e300


def get_first_line(error: BaseException) -> str:
    """Return the first line of a framework's error, cut to 300 characters, or else its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def read_signature(job: Job) -> Signature:
    """Return the traced artifact's signature, which is in the request."""
    return Signature.from_dict(job.request["signature"])
