"""The table at the end of a run: its stages, what failed and what to do, the verdict."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from runner.host.files import format_bytes, format_relative_path
from runner.host.text import make_printable
from runner.report.elsewhere import list_places
from runner.report.wording import (
    COLOURS,
    OUTCOMES,
    STATUSES,
    VERDICTS,
    compute_sqnr,
    explain_accuracy,
    explain_gate,
    find_accuracy,
    find_agreement,
    name_reference,
    summarize_outcome,
)
from runner.schemas.report import KnownFailure, Report, StageRecord

# Characters of a log's line that are shown.
_LONGEST_LINE = 200


def render_summary(report: Report, folder: Path) -> RenderableType:
    """Render the table of a finished run, what failed and what to do about it, and the verdict."""
    title = f"{report.model.name} ({report.model.kind})"
    other = report.options.get("compared_with")  # set by a comparison, which converts nothing
    if other:
        title += f" and {other}"
    table = Table(
        title=Text(make_printable(title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in ("stage", "version", "artifact"):
        table.add_column(column, no_wrap=True)
    for column in ("size", "seconds", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for record in report.stages:
        table.add_row(*_make_cells(record))
    parts: list[RenderableType] = [table]
    if report.quantized:
        parts.append(_render_quantized(report))
    if told := explain_accuracy(report):
        parts.append(Text(make_printable(told)))
    parts += [
        Text(make_printable(f"{record.name} also in {name}: {figures}"), style="dim")
        for record in report.quantized
        for name, figures, fine in list_places(report, record.name)
        if fine
    ]
    parts += [Text(f"note: {make_printable(note)}", style="dim") for note in report.notes]
    parts += [
        Text(f"{record.name}: {stand_in}", style="dim")
        for record in report.stages
        if record.environment
        for stand_in in record.environment.stand_ins
    ]
    if fixes := sorted({f for r in report.stages if r.report for f in r.report.fixes}):
        parts.append(Text(make_printable(f"fixes applied: {', '.join(fixes)}"), style="dim"))
    parts += [
        explain_failure(record, folder)
        for record in (*report.stages, *report.quantized)
        if record.status == "failed"
    ]
    parts += [
        Text(f"\n{record.name}:").append_text(describe_known_failure(record.known))
        for record in report.stages
        if record.known and record.status != "failed"
    ]
    outcome = OUTCOMES[report.outcome]
    ending = Text(summarize_outcome(report), f"bold {COLOURS[outcome.mark.tone]}")
    parts.append(ending.append(f" {explain_gate(report)}", "default not bold"))
    if told := name_reference(report):
        parts.append(Text(make_printable(told), style="dim"))
    parts.append(Text(f"{format_relative_path(folder)}/report.html", style="dim"))
    ended = report.outcome in ("passed", "out-of-tolerance", "vacuous")
    if ended and report.artifacts and not other:
        parts.append(
            Text(f"{format_relative_path(folder)}/{report.artifacts[-1].path}", style="bold")
        )
    return Group(*parts)


def _make_cells(record: StageRecord) -> list[str]:
    report = record.report
    check = report.check if report else None
    artifact = report.artifact if report else None
    worst = max((o.mean_abs or 0.0 for o in check.outputs), default=0.0) if check else None
    mark = VERDICTS[check.verdict] if check else None
    verdict = f"[{COLOURS[mark.tone]}]{mark.short}[/]" if mark else f"[dim]{record.status}[/]"
    return [
        record.name,
        # The stage's own tool comes first; the report lists them all.
        escape(make_printable(" ".join(next(iter(report.versions.items()), ())))) if report else "",
        artifact.path if artifact else "",
        format_bytes(artifact.bytes) if artifact else "",
        "cached" if record.cached else f"{record.seconds:.1f}" if record.seconds else "",
        "" if worst is None else f"{worst:.1e}",
        "[red]failed[/]" if record.status == "failed" else verdict,
    ]


def _render_quantized(report: Report) -> Table:
    """Render the table of the quantised models: how large, and how near to the reference."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("quantised", no_wrap=True)
    labelled = bool(explain_accuracy(report))
    # The accuracy is worth more than the time, and a terminal has no room for both.
    last = "accuracy" if labelled else "seconds"
    for column in ("size", "of float", "signal to noise", "same class", last):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    whole = report.artifacts[-1].bytes if report.artifacts else 0
    for record in report.quantized:
        done = record.report if record.status == "ok" else None
        check = done.check if done else None
        made = done.artifact if done else None
        ratio = compute_sqnr(check) if check else None
        agreement = find_agreement(check) if check else None
        known = find_accuracy(check) if check else None
        accuracy = f"{known[1]:.2%}" if known else ""
        seconds = "cached" if record.cached else f"{record.seconds:.1f}"
        mark = VERDICTS[check.verdict] if check else STATUSES[record.status]
        table.add_row(
            record.name,
            format_bytes(made.bytes) if made else "",
            f"{made.bytes / whole:.0%}" if made and whole else "",
            "" if ratio is None else f"{ratio:.1f} dB",
            "" if agreement is None else f"{agreement:.1%}",
            accuracy if labelled else seconds,
            f"[{COLOURS[mark.tone]}]{mark.short or mark.word}[/]",
        )
    return table


def explain_failure(record: StageRecord, folder: Path) -> RenderableType:
    """Explain a stage's failure: why, what to do, and where the log is."""
    text = Text(f"\n{record.name}: {make_printable(record.failure.strip())}", style="red")
    if record.remedy:
        text.append(f"\n→ {make_printable(record.remedy)}", style="default")
    if record.known:
        # The stage's own remedy is for this model, the catalogue's for any: prefer the former.
        text.append_text(describe_known_failure(record.known, remedy=not record.remedy))
    elif record.blame == "stage" and (record.last_lines or not record.remedy):
        lines = " The last lines of its log:" if record.last_lines else ""
        text.append(f"\n  Not a known failure.{lines}", style="default")
        for line in record.last_lines:
            text.append(f"\n    {make_printable(line)[:_LONGEST_LINE]}", style="dim")
    if record.log:
        place = format_relative_path(folder / record.log)
        text.append(f"\n  {place} holds the whole log.", style="dim")
    if record.blame in ("stage", "environment") and not (record.known and record.known.fix):
        text.append(
            f"\n  To report it: runner report bundle {format_relative_path(folder)} makes an "
            "archive for an issue, without the model's weights.",
            style="dim",
        )
    return text.append("\n")


def describe_known_failure(known: KnownFailure, remedy: bool = True) -> Text:
    """Describe the cause and the source, and the remedy unless one is shown already."""
    text = Text()
    if remedy:
        text.append(f"\n→ {known.remedy}", style="default not bold")
    text.append(f"\n  Why: {known.cause}", style="default not bold")
    return text.append(f"\n  {known.source} (known failure: {known.id})", style="dim not bold")
