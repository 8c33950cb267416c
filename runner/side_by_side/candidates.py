"""The toolchains that were asked for: a plan for each that reads the file, else why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.conversion.settings import RunSettings
from runner.errors import BadInput
from runner.formats.kinds import STARTS
from runner.packages.user_wheel import accept_wheel
from runner.planning.check import Check
from runner.planning.plan import Plan, make_plan
from runner.planning.source import Source
from runner.toolchains.load import load_image, load_toolchain, load_toolchains
from runner.toolchains.model import Toolchain

ALL = "all"
# What lies beside the run folders.
REFERENCE, BENCHMARK = "reference", "benchmark"


@dataclass(frozen=True)
class Candidate:
    """A toolchain that may convert the file: its plan, or why it is refused.

    `name` is what it is called here, and its run's folder. One that is not `asked` for by name may
    be refused without harm.
    """

    chain: Toolchain
    name: str
    plan: Plan | None
    refusal: BadInput | None = None
    asked: bool = True


def split_names(text: str) -> list[str]:
    """Split the value of --toolchain into names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def names_several(text: str) -> bool:
    """Tell whether --toolchain asks for several toolchains, side by side."""
    return "," in text or text == ALL


def list_candidates(
    source: Source,
    check: Check,
    names: Sequence[str],
    accepts: str,
    options: Mapping[str, Any],
    settings: RunSettings,
    output: Path,
) -> list[Candidate]:
    """Plan a run for each toolchain of these names, or of all that there are.

    `accepts` is the kind of file that they are to start from. Raises `BadInput` for an unknown name
    or option, and where every toolchain refuses for the same reason.
    """
    asked = list(names) != [ALL]
    titles = names if asked else dict.fromkeys(chain.title for chain in load_toolchains())
    chains = {c.name: c for c in (load_toolchain(title, accepts) for title in titles)}
    for option, value in options.items():
        if value not in ("", None) and not any(c.find_takers(option) for c in chains.values()):
            raise BadInput(
                f"None of these toolchains has the option '{option}'.",
                "See `runner stages --toolchain NAME`.",
            )
    found: list[Candidate] = []
    for chain in chains.values():
        taken = {candidate.name for candidate in found}
        name = chain.title if chain.title not in (*taken, REFERENCE, BENCHMARK) else chain.name
        candidate = Candidate(chain, name, None, asked=asked)
        if chain.accepts != accepts:
            found.append(replace(candidate, refusal=_explain_other_start(chain, accepts)))
            continue
        try:
            plan = make_plan(
                source,
                check,
                toolchain=chain.name,
                options={key: value for key, value in options.items() if chain.find_takers(key)},
                wheels=_select_wheels(chain, chains.values(), settings.wheels),
                gpu=settings.gpu,
                output=output / name,
            )
            found.append(replace(candidate, plan=plan))
        except BadInput as error:
            found.append(replace(candidate, refusal=error))
    said = {str(candidate.refusal) for candidate in found}
    if len(said) == 1 and found[0].refusal is not None:
        raise found[0].refusal
    if all(candidate.plan is None for candidate in found):
        reasons = " ".join(f"{candidate.name}: {candidate.refusal}" for candidate in found)
        raise BadInput(f"None of these toolchains takes {source.path}. {reasons}")
    return found


def list_dropped_options(found: Sequence[Candidate], options: Mapping[str, Any]) -> list[str]:
    """Say which toolchains go without an option that was given."""
    notes = []
    for key, value in options.items():
        without = [c.name for c in found if c.plan is not None and not c.chain.find_takers(key)]
        if value not in ("", None) and without:
            notes.append(f"Without the option {key}, which they do not have: {', '.join(without)}.")
    return notes


def _explain_other_start(chain: Toolchain, accepts: str) -> BadInput:
    own = chain.title.partition("+")[0]
    starts = [c.accepts for c in load_toolchains() if c.title == own]
    titles = " or ".join(STARTS[start].title for start in starts)
    return BadInput(f"It starts from {titles}, not from {STARTS[accepts].title}.")


def _select_wheels(
    chain: Toolchain, chains: Sequence[Toolchain] | Any, wheels: Sequence[str]
) -> list[str]:
    """Select the user's wheels that replace a pin of this toolchain.

    Raises `BadInput` for one that replaces a pin of none.
    """
    selected = []
    for wheel in wheels:
        errors = []
        for other in chains:
            try:
                accept_wheel(wheel, [load_image(name) for name in other.images])
                if other is chain:
                    selected.append(wheel)
            except BadInput as error:
                errors.append(error)
        if len(errors) == len(chains):
            raise errors[0]
    return selected
