"""Which toolchain to take, and what each of the others costs against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.report.html import figures
from runner.report.side_by_side.wording import COSTS, OUTCOMES, VERDICTS, format_seconds
from runner.schemas.comparison import Cell, ToolchainResult

# Latencies closer than this are the same: a machine is never that quiet.
_SAME_SPEED = 1.1
# Errors closer than this, or below the rounding of the reference, are the same.
_SAME_ERROR = 3.0
_SAME_SIZE = 1.1


def choose(results: Sequence[ToolchainResult], cells: Sequence[Cell]) -> ToolchainResult | None:
    """Choose the result to take among those that passed; None if none did.

    What some interpreter computes wrongly comes after what all compute rightly or refuse, and what
    needs Flex after what does not. Then the fastest one is taken, by its latency in one thread;
    among equally fast ones that of the fewest operators, then the smallest.
    """
    passed = [result for result in results if result.outcome == "passed"]

    def find_faults(result: ToolchainResult) -> tuple[int, bool]:
        wrong = [c for c in cells if c.toolchain == result.toolchain and c.state == "wrong"]
        return len(wrong), bool(result.flex)

    least = min(map(find_faults, passed), default=None)
    left = [result for result in passed if find_faults(result) == least]
    times = [result.latency[0].median for result in left if result.latency]
    if times:
        limit = _SAME_SPEED * min(times)
        left = [r for r in left if r.latency and r.latency[0].median <= limit]
    return min(left, key=lambda r: (r.operators or 0, r.bytes or 0), default=None)


def describe_choice(results: Sequence[ToolchainResult], best: ToolchainResult | None) -> str:
    """Say in a sentence which toolchain to take, and why; or that none will do."""
    if best is None:
        tried = [r for r in results if r.outcome == "out-of-tolerance" and r.error is not None]
        if not tried:
            return VERDICTS["none"]
        closest = min(tried, key=lambda r: r.error or 0.0)
        error = f"an error of {figures.scientific(closest.error)}"
        return VERDICTS["closest"].format(toolchain=closest.toolchain, error=error)
    if sum(result.outcome == "passed" for result in results) == 1:
        return VERDICTS["only"].format(toolchain=best.toolchain)
    return VERDICTS["take"].format(toolchain=best.toolchain, why=", ".join(_list_merits(best)))


def _list_merits(best: ToolchainResult) -> Iterator[str]:
    yield f"an error of {figures.scientific(best.error)}"
    for latency in best.latency[:1]:
        yield f"{format_seconds(latency.median)} a run in one thread"
    if best.operators is not None:
        flex = f", {best.flex} of them Flex" if best.flex else ""
        yield f"{figures.count(best.operators)} operators{flex}"


def describe_costs(
    result: ToolchainResult, best: ToolchainResult | None, cells: Sequence[Cell]
) -> str:
    """Say what a toolchain costs against the one to take, or why it has no result."""
    if result.outcome in ("failed", "refused", "interrupted", "not-run"):
        place = f" in the stage {result.stage}" if result.stage else ""
        return f"{OUTCOMES[result.outcome].word}{place}"
    if result is best:
        return "to be taken"
    said = [] if result.outcome == "passed" else [OUTCOMES[result.outcome].word]
    if best is not None:
        said += _compare(result, best)
    for state, key in (("wrong", "wrong-elsewhere"), ("fails", "not-loaded-elsewhere")):
        found = [c for c in cells if c.toolchain == result.toolchain and c.state == state]
        if found:
            runtimes = " and ".join(dict.fromkeys(cell.runtime for cell in found))
            said.append(COSTS[key].format(runtimes=runtimes))
    return ", ".join(said)


def _compare(result: ToolchainResult, best: ToolchainResult) -> Iterator[str]:
    yield from _compare_errors(result, best)
    if result.latency and best.latency:
        ratio = result.latency[0].median / (best.latency[0].median or 1e-9)
        if ratio > _SAME_SPEED:
            yield COSTS["slower"].format(times=_format_factor(ratio))
        elif ratio < 1 / _SAME_SPEED:
            yield COSTS["faster"].format(times=_format_factor(1 / ratio))
        else:
            yield COSTS["as-fast"]
    elif best.latency:
        yield COSTS["not-timed"]
    if result.operators != best.operators and None not in (result.operators, best.operators):
        yield COSTS["operators"].format(
            count=figures.count(result.operators or 0), best=figures.count(best.operators or 0)
        )
    if result.flex:
        yield COSTS["flex"].format(count=result.flex)
    if result.bytes and best.bytes and result.bytes > _SAME_SIZE * best.bytes:
        yield COSTS["larger"].format(times=_format_factor(result.bytes / best.bytes))
    elif result.bytes and best.bytes and best.bytes > _SAME_SIZE * result.bytes:
        yield COSTS["smaller"].format(times=_format_factor(best.bytes / result.bytes))


def _compare_errors(result: ToolchainResult, best: ToolchainResult) -> Iterator[str]:
    ours, theirs = result.error, best.error
    if ours is None or theirs is None:
        return
    least = max(result.noise_floor or 0.0, best.noise_floor or 0.0)
    if max(ours, least) <= _SAME_ERROR * max(theirs, least) and (
        max(theirs, least) <= _SAME_ERROR * max(ours, least)
    ):
        yield COSTS["same-numbers"]
    elif ours > theirs:
        yield COSTS["larger-error"].format(times=_format_factor(ours / max(theirs, least, 1e-30)))
    else:
        yield COSTS["smaller-error"].format(times=_format_factor(theirs / max(ours, least, 1e-30)))


def _format_factor(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
