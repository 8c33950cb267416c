"""The common part of the programs that find where an error is born.

An artifact is compared with what it was made from, tensor by tensor. Comparing plain runs shows how
an error grows, and not where it comes from, since whatever follows a wrong operator is wrong too.
So the artifact is cut at every tensor that has a certain counterpart: each piece between two cuts
is run on the *reference's* values, which are right by definition, and its result is set against the
reference's result. What differs there is that piece's own doing.

How much may differ is measured as well. Float32 gives the exact result of slightly moved operands
(backward stability), so each piece is also run with its inputs moved by one rounding: that is what
an error of one rounding does to the result. A sum of n terms gathers the square root of n of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from stages.kit.contract import Job, Signature, progress
from stages.kit.layers import distinct

Arrays = Dict[str, np.ndarray]
# The values of a sample's inputs, in the signature's order, to arrays by name.
Reference = Callable[[int, Sequence[np.ndarray]], Arrays]

# Float32's unit of rounding: half the distance between 1 and the next number.
_UNIT = 2.0**-24
# How often each piece is run with moved inputs, and by how many units they are moved.
_DRAWS = 2
_MOVED = 2 * _UNIT
# Kernels of different frameworks are allowed this many times the effect of one rounding, and
# this many units of the tensor's largest value, for functions such as tanh that they approximate.
_TIMES = 4.0
_UNITS = 16.0
_MOST_POINTS = 4000


@dataclass(frozen=True)
class Pair:
    """A tensor of the artifact and its counterpart; `axes[i]` is the counterpart's axis there."""

    name: str
    reference: str
    axes: Optional[Tuple[int, ...]] = None

    def turned(self, array: np.ndarray) -> np.ndarray:
        """The reference's array in the artifact's order of axes."""
        array = np.asarray(array)  # a row of scalars is none
        if self.axes is None or array.ndim != len(self.axes):
            return array
        return np.ascontiguousarray(array.transpose(self.axes))


@dataclass(frozen=True)
class Piece:
    """The operators that compute a tensor from the tensors at which the artifact is cut.

    `terms` is how many products or summands an element of the result gathers.
    """

    operators: Tuple[str, ...]
    nodes: Tuple[str, ...]
    tensors: Tuple[str, ...]
    inputs: Tuple[str, ...]
    terms: int = 1


class Artifact:
    """What the comparison needs of a model's file; each format has its own."""

    def order(self) -> List[str]:
        """All tensors that depend on the inputs, each after those that it is computed from."""
        raise NotImplementedError

    def piece(self, name: str, cuts: Set[str]) -> Piece:
        """What computes a tensor from the cuts."""
        raise NotImplementedError

    def plain(self, names: Sequence[str]) -> Callable[[Sequence[np.ndarray]], List[np.ndarray]]:
        """Runs the model as it is; the result gives these tensors for the inputs' values."""
        raise NotImplementedError

    def cut(
        self, names: Sequence[str], given: Arrays
    ) -> Callable[[Sequence[np.ndarray], Arrays], List[np.ndarray]]:
        """Runs the pieces of these tensors on given values of the cuts.

        `given` has an example of each cut's value.
        """
        raise NotImplementedError


@dataclass
class _Statistics:
    """One tensor's errors over all samples so far, a row a channel where there are channels."""

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
                f"shape {_shown(value.shape)} instead of {_shown(expected.shape)}"
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
        self.own = _larger(self.own, self._by_channel(error))
        self.moved = _larger(self.moved, self._by_channel(change))

    def add_plain(self, expected: np.ndarray, value: np.ndarray) -> None:
        if value.shape != expected.shape:
            return
        wide = expected.astype(np.float64)
        error = value.astype(np.float64) - wide
        self.grown += float(np.square(np.where(np.isfinite(error), error, 0)).sum())
        self.power += float(np.square(np.where(np.isfinite(wide), wide, 0)).sum())

    def _by_channel(self, array: np.ndarray) -> np.ndarray:
        if self.axis is None or self.axis >= array.ndim:
            return array.max(initial=0.0).reshape(1)
        others = tuple(i for i in range(array.ndim) if i != self.axis)
        return array.max(axis=others, initial=0.0)

    def point(self, piece: Piece, modules: Sequence[str], whole: bool) -> Dict[str, Any]:
        """What the report says of the tensor. `whole` numbers and truth values have no rounding."""
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
            "operators": distinct(piece.operators),
            "nodes": distinct(piece.nodes),
            "modules": distinct(modules),
            "error": _finite(np.sqrt(self.grown / self.power) if self.power else self.grown**0.5),
            "own_error": _finite(own[worst] / scale),
            "limit": _finite(limit[worst] / scale),
            "ratio": _finite(ratios[worst]),
            "wrong": reason,
            "reference_nonfinite": self.reference_nonfinite,
        }


@dataclass
class Comparison:
    """What one stage's artifact is compared with, and by which tensors."""

    artifact: Artifact
    pairs: Sequence[Pair]
    reference: Reference
    modules: Callable[[Pair, Piece], Sequence[str]]
    # Tensors that are wrong for a reason that comparing does not show, known after the last sample.
    reasons: Dict[str, str] = field(default_factory=dict)
    # Keeps the artifact's plain values of each sample for the next stage.
    keep: Optional[Callable[[int, Sequence[np.ndarray]], None]] = None
    notes: List[str] = field(default_factory=list)


def compare_tensors(job: Job, samples: Sequence[np.ndarray], comparison: Comparison) -> None:
    """Compare an artifact with its reference, tensor by tensor; the result is `report["trace"]`."""
    artifact = comparison.artifact
    place = {name: index for index, name in enumerate(artifact.order())}
    pairs = sorted((p for p in comparison.pairs if p.name in place), key=lambda p: place[p.name])
    count = len(samples[0]) if samples else 0
    first = comparison.reference(0, [array[0] for array in samples])
    pairs = [pair for pair in pairs if pair.reference in first][:_MOST_POINTS]
    cuts = {pair.name for pair in pairs}
    pieces = {pair.name: artifact.piece(pair.name, cuts) for pair in pairs}
    statistics = {pair.name: _Statistics(pair, _channel_axis(pair, first)) for pair in pairs}
    groups = _groups(comparison, pairs, samples, first, statistics)
    plain = _plain(comparison, pairs, [array[0] for array in samples])
    for sample in range(count):
        progress("trace", sample + 1, count)
        values = [np.ascontiguousarray(array[sample]) for array in samples]
        known = first if sample == 0 else comparison.reference(sample, values)
        given = {pair.name: pair.turned(known[pair.reference]) for pair in pairs}
        for names, run in groups:
            results = run(values, given)
            moved = [run(*_moved(values, given, sample, draw)) for draw in range(_DRAWS)]
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
        # Such a reason is about the model, and not about the operators before this tensor.
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


def _groups(
    comparison: Comparison,
    pairs: Sequence[Pair],
    samples: Sequence[np.ndarray],
    first: Arrays,
    statistics: Dict[str, _Statistics],
) -> List[Tuple[List[str], Any]]:
    """Runs that compute all pieces: one where it works, else halves, to find what does not run."""
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
        except Exception as error:  # each framework raises types of its own
            if len(names) > 1:
                half = len(names) // 2
                pending[:0] = [names[:half], names[half:]]
            else:
                words = first_line(error)
                statistics[names[0]].failure = f"it does not run on the reference's values: {words}"
            continue
        groups.append((names, run))
    return groups


def _plain(comparison: Comparison, pairs: Sequence[Pair], first: Sequence[np.ndarray]) -> Any:
    """The model as it is, if it runs at all: only the curve is made of it."""
    try:
        run = comparison.artifact.plain([pair.name for pair in pairs])
        run(first)
        return run
    except Exception as error:
        comparison.notes.append(f"The model as a whole does not run: {first_line(error)}")
        return None


def _moved(
    values: Sequence[np.ndarray], given: Arrays, sample: int, draw: int
) -> Tuple[List[np.ndarray], Arrays]:
    """Inputs and cuts with each float moved by one rounding, up or down by chance."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([sample, draw])))

    def move(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f":
            return array
        signs = generator.integers(0, 2, array.shape, dtype=np.int8) * 2 - 1
        return np.asarray(array * (1 + _MOVED * signs), array.dtype)

    return [move(value) for value in values], {name: move(a) for name, a in given.items()}


def _channel_axis(pair: Pair, first: Arrays) -> Optional[int]:
    """Where the reference's second axis lies in the artifact's tensor; None if there is none."""
    if first[pair.reference].ndim < 2:
        return None
    return 1 if pair.axes is None else list(pair.axes).index(1)


def _larger(old: Optional[np.ndarray], new: np.ndarray) -> np.ndarray:
    return new if old is None or old.shape != new.shape else np.maximum(old, new)


def _finite(value: Any) -> float:
    return float(min(float(value), 1e300)) if np.isfinite(value) else 1e300


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def first_line(error: BaseException) -> str:
    """The first words of what a framework says, or at least the kind of its error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def signature_of(job: Job) -> Signature:
    """The signature of the artifact that is traced, which the request carries."""
    return Signature.of(job.request["signature"])
