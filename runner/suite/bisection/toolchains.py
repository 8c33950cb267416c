"""Which toolchain broke it? One model through the toolchains in order of date.

All of them are converted, side by side and each kept, and then looked at in order: what one year
broke another may have mended, so that halving an interval could miss the first that is worse.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.formats.identify import read_file
from runner.formats.kinds import KINDS
from runner.suite.compare import Change, compare_results
from runner.suite.plan import make_suite_plan
from runner.suite.results import Record, ResultSet
from runner.suite.run import Orders, Watcher, run_suite
from runner.suite.settings import LatencyTable, Options, Suite, SuiteFile
from runner.suite.wording import RANKS
from runner.toolchains.load import aim, load_toolchain, load_toolchains
from runner.toolchains.model import Toolchain

# What is looked for unless more is asked for: it fails, it drifts, it slows down.
DEFAULT_WHATS = ("outcome", "error", "latency")
# These say nothing of the model: a toolchain that does not read the file, or that cannot be had.
_SKIPPED = ("refused", "unavailable", "killed", "missing")


@dataclass(frozen=True)
class Step:
    """A toolchain and what it made of the model; `changes` are against the first that was good.

    `release` is that of the package whose releases are tried, '' where toolchains are.
    """

    toolchain: str
    date: str
    record: Record
    changes: Sequence[Change] = ()
    release: str = ""

    @property
    def skipped(self) -> bool:
        return self.record.outcome in _SKIPPED

    @property
    def bad(self) -> bool:
        return any(change.worse for change in self.changes)

    def as_dict(self) -> dict[str, Any]:
        return {
            "toolchain": self.toolchain,
            "date": self.date,
            "bad": self.bad,
            "skipped": self.skipped,
            "changes": [str(change) for change in self.changes],
            "record": self.record.model_dump(),
        }


@dataclass(frozen=True)
class Bisection:
    """The toolchains in order of date; `good` is the one that the others are compared with.

    Of the releases of a `package`, the steps are those that were tried, `untried` the others, and
    `lock_changes` says, by image, what else differs between the last good one and the first bad.
    `control` is then the first bad one beside the other packages of the last good one.
    """

    model: str
    folder: Path
    steps: Sequence[Step]
    good: Step | None
    notes: Sequence[str] = ()
    package: str = ""
    untried: Sequence[str] = ()
    lock_changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    control: Step | None = None

    @property
    def first_bad(self) -> Step | None:
        return next((step for step in self.steps if step.bad), None)

    @property
    def last_good(self) -> Step | None:
        """Return the last toolchain before the first bad one that was as good as the good one.

        One that failed is not, though what is looked at may be something else.
        """
        before: list[Step] = []
        for step in self.steps:
            if step.bad:
                break
            if RANKS[step.record.outcome] == 0 and (step is self.good or before):
                before.append(step)
        return before[-1] if before else None

    def as_dict(self) -> dict[str, Any]:
        def name(step: Step | None) -> str | None:
            return (step.release or step.toolchain) if step else None

        releases = {
            "package": self.package,
            "not tried": list(self.untried),
            "also differs": {image: list(found) for image, found in self.lock_changes.items()},
            "alone": self.control.as_dict() if self.control else None,
        }
        return {
            "model": self.model,
            **(releases if self.package else {}),
            "good": name(self.good),
            "last good": name(self.last_good),
            "first bad": name(self.first_bad),
            "steps": [
                {**step.as_dict(), **({"release": step.release} if self.package else {})}
                for step in self.steps
            ],
            "notes": list(self.notes),
        }


def list_dated(path: Path, first: str = "", last: str = "", target: str = "") -> list[Toolchain]:
    """List the toolchains that start from such a file by date, from the first to the last named.

    Each is for its own target if none is given.

    Raises `BadInput` for a name that is none of them, and where fewer than two are left.
    """
    kind = KINDS[read_file(path).format].start or "pytorch"
    chains = [chain for chain in load_toolchains() if chain.accepts == kind and chain.date]
    chains.sort(key=lambda chain: (chain.date, chain.name))
    titles = [chain.title for chain in chains]
    places = []
    for name, otherwise in ((first, 0), (last, len(chains) - 1)):
        title = load_toolchain(name, kind).title if name else ""
        if title and title not in titles:
            raise BadInput(f"'{name}' is no toolchain for such a file.", f"In order: {titles}.")
        places.append(titles.index(title) if title else otherwise)
    chains = chains[places[0] : places[1] + 1]
    if len(chains) < 2:
        raise BadInput("There is nothing between these two.", f"In order of date: {titles}.")
    return [load_toolchain(aim(chain.name, target)) for chain in chains]


def bisect_model(
    path: Path,
    chains: Sequence[Toolchain],
    output: Path,
    options: Options = Options(),
    orders: Orders = Orders(latency=LatencyTable(sessions=5)),
    *,
    whats: Sequence[str] = DEFAULT_WHATS,
    watcher: Watcher = Watcher(),
) -> Bisection:
    """Convert a model with these toolchains, and find the first that is worse than the first good.

    Runs that are in `output` already are taken as they are. Raises `BadInput` where no toolchain
    takes the model, and what `run_suite` raises.
    """
    file = SuiteFile(
        name=f"{path.name} by date",
        models=[glob.escape(path.name)],
        toolchains=[chain.title for chain in chains],
        defaults=options,
    )
    plan = make_suite_plan(Suite(path.absolute().parent, file))
    if all(conversion.request is None for conversion in plan.conversions):
        refusal = plan.conversions[-1].refusal
        assert refusal is not None
        raise refusal
    results = run_suite(plan, output, orders, watcher)
    return judge(results, chains, whats)


def judge(
    results: ResultSet, chains: Sequence[Toolchain], whats: Sequence[str] = DEFAULT_WHATS
) -> Bisection:
    """Find the first toolchain that is worse than the first good one, among one model's results."""
    dates = {chain.title: chain.date for chain in chains}
    steps: list[Step] = []
    good: Step | None = None
    notes: dict[str, None] = {}
    for record in results.records:
        step = Step(record.toolchain, dates[record.toolchain], record)
        if good is None and RANKS[record.outcome] == 0:
            good = step
        elif good is not None and not step.skipped:
            found = compare_results(
                results,
                results,
                base_toolchain=good.toolchain,
                new_toolchain=step.toolchain,
                whats=whats,
            )
            notes |= dict.fromkeys(found.notes)
            step = Step(step.toolchain, step.date, record, found.changes)
        steps.append(step)
    return Bisection(results.models[0], results.folder, steps, good, list(notes))
