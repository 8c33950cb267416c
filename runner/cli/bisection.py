"""A bisection on the terminal: what was tried, the first that is bad, and the evidence."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from runner.cli.console import Console
from runner.cli.suite import SuiteView
from runner.host.text import make_printable
from runner.report.html import figures
from runner.report.side_by_side.wording import format_seconds
from runner.suite.bisection.toolchains import Bisection, Step
from runner.suite.results import find_median, read_results
from runner.suite.wording import OUTCOMES

# Where more were left out, only their number is said.
_MOST_NAMED = 12


class ReleaseView(SuiteView):
    """A view of conversions of which nobody knows how many there will be."""

    def _summarize(self) -> Text:
        return Text(f"{self._done.total()} tried")


def show_bisection(found: Bisection, console: Console) -> None:
    """Print what was tried, the first that is bad, and what it is worse in."""
    title = f"{found.package}, in order of version" if found.package else "In order of date"
    table = Table(title=make_printable(title), title_justify="left")
    named = "release" if found.package else "toolchain"
    for column in ("date", named, "", "error", "operators", "size", "latency"):
        table.add_column(column)
    latencies = _read_latencies(found)
    for step in found.steps:
        latency = latencies.get(step.record.artifact, figures.NONE)
        table.add_row(*_describe(found, step), latency)
    console.print(table)
    _show_verdict(found, console)
    for step in found.steps:
        if step.skipped and found.package:
            _say(console, f"{_name(found, step)} skipped: {step.record.reason}", "dim")
    if found.untried:
        few = ", ".join(found.untried) if len(found.untried) <= _MOST_NAMED else ""
        _say(console, f"Not tried: {few or f'{len(found.untried)} others'}.", "dim")
    for note in found.notes:
        _say(console, note, "dim")


def _show_verdict(found: Bisection, console: Console) -> None:
    bad, good = found.first_bad, found.last_good
    if found.good is None and found.package:
        tried = next((step for step in found.steps if not step.skipped), None)
        if tried is not None:
            said = OUTCOMES[tried.record.outcome].word
            _say(console, f"{_name(found, tried)} is {said} already: name an older --from.", "red")
    elif found.good is None:
        _say(console, "None of these toolchains converts the model within tolerance.")
    elif bad is None:
        rest = " Only these were tried: --every tries each release." if found.untried else ""
        _say(console, f"None is worse than {_name(found, found.good)}.{rest}")
    else:
        assert good is not None
        line = Text(f"First bad: {_name(found, bad)} ({bad.date}); ", "red")
        line.append(f"last good: {_name(found, good)} ({good.date}).")
        console.print(line, soft_wrap=True)
        for change in bad.changes:
            if change.worse:
                _say(console, f"  {change}")
        for image, changes in found.lock_changes.items():
            _say(console, f"  also differs in {image}: {', '.join(changes)}")
        if found.control is not None:
            _say(console, f"  {_explain_control(found, found.control)}")
        for step in (good, bad):
            evidence = found.folder / (step.record.log or step.record.run)
            _say(console, f"  {_name(found, step)}: {evidence}")


def _explain_control(found: Bisection, control: Step) -> str:
    """Say whether it is the package itself, or what was published between the two."""
    assert found.last_good is not None and found.first_bad is not None
    tried = f"{found.first_bad.release} with the other packages of {found.last_good.release}"
    if control.skipped:
        return f"{tried} cannot be had, so these may be to blame too: {control.record.reason}"
    if control.bad:
        return f"{tried}: bad too. It is {found.package} itself."
    return f"{tried}: good. It is what came with it, and not {found.package} alone."


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(make_printable(text), style), soft_wrap=True)


def _name(found: Bisection, step: Step) -> str:
    return f"{found.package} {step.release}" if found.package else step.toolchain


def _read_latencies(found: Bisection) -> dict[str, str]:
    """Read the latency of each model made, by its hash."""
    if not any(step.record.run for step in found.steps):
        return {}
    files = read_results(found.folder).latency.files
    medians = {sha256: find_median(timing.sessions) for sha256, timing in files.items()}
    return {sha256: format_seconds(m) for sha256, m in medians.items() if m is not None}


def _describe(found: Bisection, step: Step) -> list[str]:
    record = step.record
    mark = OUTCOMES[record.outcome]
    said = f"{mark.sign} {mark.word}"
    if step is found.first_bad:
        said += ", first bad"
    elif step.bad:
        said += ", bad too"
    elif step.skipped:
        said += ", skipped"
    return [
        step.date,
        make_printable(step.release or step.toolchain),
        said,
        figures.scientific(record.error),
        figures.NONE if record.operators is None else figures.count(record.operators),
        figures.NONE if record.bytes is None else figures.size(record.bytes),
    ]
