"""Two sets of results compared: what got worse and what got better, beyond each figure's noise.

What is compared, and what counts as a change:

outcome     another rank: passed (also at rounding), proves nothing, out of tolerance, no model
error       a quarter more, where anything up to twice PyTorch's own float32 rounding counts as that
size        one per cent
operators   one operator, one that needs TensorFlow's own kernels (Flex) above all
quantised   a state, 0.5 dB of signal to noise, 0.5 % of samples with PyTorch's class
latency     10 %, and more than sessions, files and sets differ by themselves (`_judge_latencies`)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from runner.errors import BadInput
from runner.host.files import format_bytes
from runner.report.html.figures import scientific
from runner.report.side_by_side.wording import format_seconds
from runner.suite.plan import Cell
from runner.suite.results import LatencyRecord, Record, ResultSet, find_median
from runner.suite.wording import OUTCOMES, RANKS

What = Literal["outcome", "error", "size", "operators", "quantised", "latency"]
WHATS: tuple[What, ...] = ("outcome", "error", "size", "operators", "quantised", "latency")

_ERROR_SHARE = 1.25
_ROUNDINGS = 2.0
_SIZE_SHARE = 1.01
_LEAST_SQNR, _LEAST_TOP1 = 0.5, 0.005
# Of latencies, all as logarithms: the least that is called a change, and how many deviations.
_LEAST_LATENCY = math.log(1.10)
_DEVIATIONS = 4.0
_LEAST_SESSIONS = 2
# Of so many files, how far they scatter tells the noise between two sets.
_FEW_FILES = 8
_MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True)
class Change:
    """One thing that got worse or better; `before` and `after` are figures in words."""

    cell: Cell
    what: What
    worse: bool
    before: str
    after: str
    why: str = ""

    def __str__(self) -> str:
        said = f"{self.cell}: {self.what}: {self.before} → {self.after}"
        return f"{said} ({self.why})" if self.why else said


@dataclass(frozen=True)
class SuiteComparison:
    """What two sets of results have in common, and what differs; cells are those of NEW."""

    base: str
    new: str
    pairs: Sequence[tuple[Record, Record]]
    changes: Sequence[Change]
    only_base: Sequence[Cell] = ()
    only_new: Sequence[Cell] = ()
    notes: Sequence[str] = field(default_factory=list)

    @property
    def worse(self) -> list[Change]:
        return [change for change in self.changes if change.worse]

    @property
    def better(self) -> list[Change]:
        return [change for change in self.changes if not change.worse]

    @property
    def failed(self) -> bool:
        """Tell whether a gate is to close: something got worse, or is gone."""
        return bool(self.worse or self.only_base)

    def as_dict(self) -> dict[str, Any]:
        def describe(change: Change) -> dict[str, Any]:
            cell = change.cell
            return {
                "model": cell.model,
                "toolchain": cell.toolchain,
                "variant": cell.variant,
                "what": change.what,
                "before": change.before,
                "after": change.after,
                "why": change.why,
            }

        return {
            "base": self.base,
            "new": self.new,
            "compared": len(self.pairs),
            "worse": [describe(change) for change in self.worse],
            "better": [describe(change) for change in self.better],
            "only in base": [str(cell) for cell in self.only_base],
            "only in new": [str(cell) for cell in self.only_new],
            "notes": list(self.notes),
        }


def compare_results(
    base: ResultSet,
    new: ResultSet,
    *,
    base_toolchain: str = "",
    new_toolchain: str = "",
    whats: Sequence[str] = WHATS,
) -> SuiteComparison:
    """Compare two sets of results, conversion by conversion.

    With the names of two toolchains, what the one made is compared with what the other made.
    `whats` are the figures to look at. Raises `BadInput` if nothing is in both.
    """
    if unknown := [what for what in whats if what not in WHATS]:
        raise BadInput(
            f"There is nothing '{unknown[0]}' to compare.", f"Known: {', '.join(WHATS)}."
        )
    before = _select(base, base_toolchain, by_model=bool(new_toolchain))
    after = _select(new, new_toolchain, by_model=bool(base_toolchain))
    pairs = [(before[key], after[key]) for key in after if key in before]
    if not pairs:
        raise BadInput(
            f"{base.folder} and {new.folder} have no conversion in common.",
            "Models, toolchains and variants are matched by their names; two toolchains are "
            "compared by --base-toolchain and --new-toolchain.",
        )
    changes = [change for pair in pairs for change in _compare_pair(*pair)]
    latencies, notes = _judge_latencies(base, new, pairs)
    changes += latencies
    order = {what: number for number, what in enumerate(WHATS)}
    places = {str(record.cell): number for number, (_, record) in enumerate(pairs)}
    changes = [change for change in changes if change.what in whats]
    changes.sort(key=lambda change: (order[change.what], places[str(change.cell)]))
    return SuiteComparison(
        base=_title(base, base_toolchain),
        new=_title(new, new_toolchain),
        pairs=pairs,
        changes=changes,
        only_base=[record.cell for key, record in before.items() if key not in after],
        only_new=[record.cell for key, record in after.items() if key not in before],
        notes=notes if "latency" in whats else [],
    )


def _title(results: ResultSet, toolchain: str) -> str:
    name = results.folder.name
    return f"{name} ({toolchain})" if toolchain else name


def _select(results: ResultSet, toolchain: str, *, by_model: bool) -> dict[tuple[str, ...], Record]:
    """Select the records of a toolchain, or all, by what pairs them with another set's."""
    if toolchain and toolchain not in results.toolchains:
        raise BadInput(
            f"{results.folder} has no results of the toolchain '{toolchain}'.",
            f"It has: {', '.join(results.toolchains)}.",
        )
    found: dict[tuple[str, ...], Record] = {}
    for record in results.records:
        if toolchain and record.toolchain != toolchain:
            continue
        name = () if toolchain and by_model else (record.toolchain,)
        if record.outcome != "missing":
            found[(record.model, *name, record.variant)] = record
    return found


def _compare_pair(before: Record, after: Record) -> Iterable[Change]:
    cell = after.cell

    def change(what: What, worse: bool, first: str, second: str, why: str = "") -> Change:
        return Change(cell, what, worse, first, second, why)

    ranks = RANKS[before.outcome], RANKS[after.outcome]
    if ranks[0] != ranks[1]:
        worse = ranks[1] > ranks[0]
        words = OUTCOMES[before.outcome].word, OUTCOMES[after.outcome].word
        yield change("outcome", worse, *words, after.reason if worse else "")
    if before.error is not None and after.error is not None and before.metric == after.metric:
        levels = [_lift(record) for record in (before, after)]
        if max(levels) > _ERROR_SHARE * min(levels):
            texts = scientific(before.error), scientific(after.error)
            yield change("error", levels[1] > levels[0], *texts, f"{after.metric}")
    sizes = before.bytes or 0, after.bytes or 0
    if all(sizes) and max(sizes) > _SIZE_SHARE * min(sizes):
        share = sizes[1] / sizes[0] - 1
        texts = format_bytes(sizes[0]), format_bytes(sizes[1])
        yield change("size", share > 0, *texts, f"{share:+.1%}")
    if before.operators is not None and after.operators is not None:
        counts = [(r.flex or 0, r.operators or 0) for r in (before, after)]
        if counts[0] != counts[1]:
            texts = _count_operators(before), _count_operators(after)
            yield change("operators", counts[1] > counts[0], *texts)
    yield from _compare_quantized(cell, before, after)


def _lift(record: Record) -> float:
    """Return the error, where anything up to twice the reference's own rounding counts as that."""
    return max(record.error or 0.0, _ROUNDINGS * (record.noise_floor or 0.0), 1e-30)


def _count_operators(record: Record) -> str:
    return f"{record.operators:,}" + (f" ({record.flex} Flex)" if record.flex else "")


def _compare_quantized(cell: Cell, before: Record, after: Record) -> Iterable[Change]:
    for mode, new in after.quantized.items():
        old = before.quantized.get(mode)
        if old is None:
            continue
        if old.status != new.status:
            worse = new.status != "ok"
            yield Change(cell, "quantised", worse, f"{mode} {old.status}", f"{mode} {new.status}")
        elif abs((new.sqnr or 0) - (old.sqnr or 0)) > _LEAST_SQNR and old.sqnr and new.sqnr:
            texts = f"{mode} {old.sqnr:.1f} dB", f"{mode} {new.sqnr:.1f} dB"
            yield Change(cell, "quantised", new.sqnr < old.sqnr, *texts)
        if old.top1 is None or new.top1 is None:
            continue
        if abs(new.top1 - old.top1) > _LEAST_TOP1:
            texts = f"{mode} {old.top1:.1%}", f"{mode} {new.top1:.1%}"
            yield Change(cell, "quantised", new.top1 < old.top1, *texts, "same class")


@dataclass(frozen=True)
class _Latencies:
    """One file's latencies in a set: of each session, as the logarithm of yardsticks."""

    sessions: Sequence[float]
    seconds: float

    @property
    def middle(self) -> float:
        return find_median(self.sessions) or 0.0

    @property
    def reach(self) -> float:
        return max(self.sessions) - min(self.sessions)

    @property
    def variance(self) -> float:
        mean = sum(self.sessions) / len(self.sessions)
        return sum((s - mean) ** 2 for s in self.sessions) / (len(self.sessions) - 1)


def _judge_latencies(
    base: ResultSet, new: ResultSet, pairs: Sequence[tuple[Record, Record]]
) -> tuple[list[Change], list[str]]:
    """Judge the latencies of each pair; say in notes why any could not be compared.

    A latency is in yardsticks: a file that every session measures in turn with the others, so that
    a faster or a busier machine moves both. A change has to be larger than all of: 10 per cent;
    what the sessions of the file itself differ by, in both sets; four deviations of a session,
    pooled over all files; four deviations of how the two sets' files scatter around their middle.
    """
    if reason := _explain_incomparable(base.latency, new.latency):
        return [], [reason]
    found = []
    for before, after in pairs:
        old, fresh = _read_latencies(base, before), _read_latencies(new, after)
        if old is not None and fresh is not None:
            found.append((after.cell, old, fresh))
    if not found:
        return [], []
    moves = [fresh.middle - old.middle for _, old, fresh in found]
    variances = [side.variance for _, old, fresh in found for side in (old, fresh)]
    noise = math.sqrt(sum(variances) / len(variances))
    scatter = 0.0
    if len(moves) >= _FEW_FILES:
        centre = find_median(moves) or 0.0
        scatter = _MAD_TO_DEVIATION * (find_median([abs(m - centre) for m in moves]) or 0.0)
    least = max(_LEAST_LATENCY, _DEVIATIONS * noise, _DEVIATIONS * scatter)
    changes = []
    for (cell, old, fresh), move in zip(found, moves, strict=True):
        beyond = max(least, old.reach + fresh.reach)
        if abs(move) > beyond:
            texts = format_seconds(old.seconds), format_seconds(fresh.seconds)
            why = f"{math.expm1(move):+.0%}, noise {math.expm1(beyond):.0%}"
            changes.append(Change(cell, "latency", move > 0, *texts, why))
    return changes, [f"Latency: what differs by less than {math.expm1(least):.0%} is noise here."]


def _explain_incomparable(base: LatencyRecord, new: LatencyRecord) -> str:
    """Say why two sets' latencies cannot be compared; '' if they can, or if neither has any."""
    if not (base.files and new.files):
        return (
            "Latency is not compared: it was not measured in both."
            if (base.files or new.files)
            else ""
        )
    for name, one, other in (
        ("on", base.machine, new.machine),
        ("in", base.runtime, new.runtime),
    ):
        if one != other:
            return f"Latency is not compared: one was measured {name} {one}, one {name} {other}."
    return ""


def _read_latencies(results: ResultSet, record: Record) -> _Latencies | None:
    timing = results.find_latency(record)
    if timing is None or len(timing.sessions) < _LEAST_SESSIONS:
        return None
    if (
        len(timing.yardstick) != len(timing.sessions)
        or min(*timing.sessions, *timing.yardstick) <= 0
    ):
        return None
    logs = [math.log(s / y) for s, y in zip(timing.sessions, timing.yardstick, strict=True)]
    return _Latencies(logs, find_median(timing.sessions) or 0.0)


def group_changes(changes: Iterable[Change]) -> Mapping[str, list[Change]]:
    """Group changes by the conversion that they are of, as it is called."""
    grouped: dict[str, list[Change]] = {}
    for change in changes:
        grouped.setdefault(str(change.cell), []).append(change)
    return grouped
