"""Whether a toolchain takes a file: a reader's findings against what the image can read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from runner.formats.facts import FileFacts
from runner.formats.kinds import KINDS, STARTS
from runner.host.paths import ROOT
from runner.schemas.inspection import Acceptance, Obstacle
from runner.toolchains.load import load_image, load_toolchains
from runner.toolchains.model import Reads, Toolchain

_WEIGHTS = ("state-dict", "checkpoint")


def judge(found: FileFacts, chain: Toolchain | None = None) -> None:
    """Add to a reader's findings whether a toolchain takes the file, and how or why not.

    Without `chain`, the first toolchain that starts from such files decides.
    """
    kind = KINDS[found.format]
    if found.format == "tflite":
        found.toolchain = Acceptance(
            accepted=False if found.problems else None,
            command="runner compare REFERENCE",
            obstacles=found.problems,
        )
        return
    if chain is None:
        chain = next((c for c in load_toolchains() if c.accepts == kind.start), None)
    if chain is None or chain.accepts != kind.start:
        start = [Obstacle(reason=f"{_describe_starts()}.", remedy=found.remedy)]
        found.toolchain = Acceptance(accepted=False, obstacles=found.problems or start)
        return
    reads = load_image(chain.stages[0].image).reads.get(found.format, Reads())
    # What an option such as --arch settles comes last: it does not help if the file is not read.
    settled = [problem for problem in found.problems if problem.settled_by]
    others = [problem for problem in found.problems if not problem.settled_by]
    refused = _find_refused_operators(found, reads) if not found.damaged else ()
    limits = [*_find_limits(found, reads), *refused]
    if limits and not found.damaged:
        limits = [_add_other_toolchains(limits[0], found, kind.start, chain), *limits[1:]]
    obstacles = [*others, *limits, *settled]
    found.notes += _collect_notes(found, reads)
    command = f"runner convert {STARTS[kind.start].option}"
    if found.format in _WEIGHTS:
        command = "runner convert --arch FILE.py:CALLABLE --model"
    found.toolchain = Acceptance(accepted=not obstacles, command=command, obstacles=obstacles)


def _add_other_toolchains(
    obstacle: Obstacle, found: FileFacts, start: str, chain: Toolchain
) -> Obstacle:
    """Add to an obstacle's remedy which toolchains take the file as it is."""
    newest_first = sorted(load_toolchains(), key=lambda other: other.date, reverse=True)
    others = [
        other.title
        for other in newest_first
        if other.accepts == start and other.title != chain.title and _takes(other, found)
    ]
    if not others:
        return obstacle
    more = f" (or {', '.join(others[1:])})" if others[1:] else ""
    remedy = f"Another toolchain takes it as it is: --toolchain {others[0]}{more}."
    return obstacle.model_copy(update={"remedy": f"{remedy} {obstacle.remedy}".rstrip()})


def _takes(chain: Toolchain, found: FileFacts) -> bool:
    reads = load_image(chain.stages[0].image).reads.get(found.format, Reads())
    limits = (*_find_limits(found, reads), *_find_refused_operators(found, reads))
    return not limits


def _describe_starts() -> str:
    titles = list(dict.fromkeys(STARTS[chain.accepts].title for chain in load_toolchains()))
    return f"A conversion starts from {', '.join(titles[:-1])} or {titles[-1]}"


def _find_limits(found: FileFacts, reads: Reads) -> Iterator[Obstacle]:
    """Yield the reason, if there is one, why the loader does not read the file."""
    too_new = reads.newest and found.version > reads.newest
    other = reads.containers and found.container not in reads.containers
    if too_new or other or reads.never:
        reason = reads.reason.format(version=found.version, newest=reads.newest)
        yield Obstacle(reason=f"It {reason}.", remedy=reads.remedy, runs=not too_new, refused=True)


def _find_refused_operators(found: FileFacts, reads: Reads) -> Iterator[Obstacle]:
    """Yield an obstacle for each reason why operators of the file are never converted."""
    if not reads.operators:
        return
    table = _load_operators(reads.operators)
    converted = {*table["converted"], *table["rewritten"]}
    own = [kind for kind in found.operators or () if "::" not in kind and kind not in converted]
    reasons: dict[tuple[str, str], list[str]] = {}
    for kind in own:
        entry = next((e for e in table["refused"] if kind in e["operators"]), table["unknown"])
        reasons.setdefault((entry["why"], entry["remedy"]), []).append(kind)
    for (why, remedy), kinds in reasons.items():
        yield Obstacle(
            reason=f"{', '.join(kinds[:5])} cannot be converted: {why}", remedy=remedy, refused=True
        )


@cache
def _load_operators(file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / file).read_text(encoding="utf-8"))
    return loaded


def _collect_notes(found: FileFacts, reads: Reads) -> Iterator[str]:
    if reads.native and reads.native < found.version <= reads.newest:
        yield reads.newer.format(version=found.version, native=reads.native)
    if reads.newest_ir and found.ir_version > reads.newest_ir:
        yield (
            f"IR version {found.ir_version} is newer than {reads.newest_ir_of}'s "
            f"{reads.newest_ir}; the file is read as version {reads.newest_ir}, if its operators "
            "are old enough."
        )
    if found.control_flow and reads.control_flow:
        yield f"Control flow ({', '.join(found.control_flow)}): {reads.control_flow}."
