"""`runner report`: reports of finished runs, for people and for machines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from runner.cli.errors import print_error, print_note
from runner.cli.lazy import Group, make_group
from runner.cli.options import (
    Json,
    make_console,
)
from runner.errors import BadInput, ExitCode


class _TableByDefault(Group):
    """A group that takes `runner report RUN ...` for `runner report table RUN ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["table", *args]
        return super().parse_args(ctx, args)


report_app = make_group(
    "Reports of finished runs: a table over many, a run's page, a bundle for an issue.",
    _TableByDefault,
)


@report_app.command("page")
def page(
    run: Annotated[Path, typer.Argument(help="A run folder, with its report.json.")],
) -> None:
    """Write a run's report.html from its report.json, again or for the first time."""
    from runner.host.files import format_relative_path
    from runner.host.text import make_printable
    from runner.report.html.render import write_page
    from runner.report.runs import find_run_folder, read_report

    folder = find_run_folder(run)
    print(make_printable(format_relative_path(write_page(read_report(folder), folder.absolute()))))


@report_app.command("table")
def table(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders that hold run folders.")
    ],
    html: Annotated[Optional[Path], typer.Option(help="Write the table as a page.")] = None,
    csv: Annotated[Optional[Path], typer.Option(help="Write it as comma-separated values.")] = None,
    as_json: Json = False,
) -> None:
    """One table over many runs: outcome, error, size, operators, time."""
    from runner.host.files import open_user_output
    from runner.host.text import make_printable
    from runner.report.html.table import write_table
    from runner.report.runs import find_runs
    from runner.report.table import make_rows, render_table, write_csv

    found = find_runs(runs)
    made = make_rows(found.reports)
    if csv is not None:
        with open_user_output(csv) as path:
            path.write_text(write_csv(made), encoding="utf-8")
    if html is not None:
        write_table(made, found.unreadable, html)
    if as_json:
        print(json.dumps([row.as_dict() for row in made], indent=1))
    else:
        console = make_console()
        if not console.is_terminal:  # a file or a pipe has no width to fit into
            console = make_console(width=180)
        console.print(render_table(made, console.width))
    for error in found.unreadable:
        print_error(error)
    if found.unreadable:
        total = len(found.unreadable) + len(found.reports)
        print_note(f"{len(found.unreadable)} of {total} runs are not in the table.")
        raise typer.Exit(ExitCode.BAD_INPUT)
    for written in (csv, html):
        if written is not None and not as_json:
            print(make_printable(str(written)))


@report_app.command()
def bundle(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    output: Annotated[
        Optional[Path], typer.Option(help="The archive: .zip or .tar.gz (default: RUN-report.zip).")
    ] = None,
) -> None:
    """Make an archive for an issue: the report, the logs, the graphs; no weights, no samples."""
    from runner.host.text import make_printable
    from runner.report.issue_bundle import write_bundle

    written = write_bundle(run, output)
    for member, size in written.members:
        print(make_printable(f"  {member} ({size} bytes)"))
    for name, reason in written.left_out:
        print(make_printable(f"  left out: {name}: {reason}"))
    said = f"{written.path}: read it before you hand it on; names of layers are in it, weights not."
    print(make_printable(said))


@report_app.command()
def explain(
    log: Annotated[
        Optional[Path], typer.Argument(help="A log or an error message (default: standard input).")
    ] = None,
) -> None:
    """Look an error up in the catalogue of known failures, from whatever tool it comes."""
    from rich.text import Text

    from runner.cli.summary import describe_known_failure
    from runner.host.text import make_printable
    from runner.known_failures.match import (
        ANYWHERE,
        Symptoms,
        make_known_failure,
        pick_meaningful_lines,
        read_stream_tail,
        read_tail,
        recognise,
    )

    if log is not None and not log.is_file():
        raise BadInput(f"There is no file {log}.")
    text = read_stream_tail(sys.stdin.buffer) if log is None else read_tail(log)
    console = make_console()
    entry = recognise(Symptoms(text, stage=ANYWHERE))
    if entry is None:
        console.print("Not a known failure. The last meaningful lines:")
        for line in pick_meaningful_lines(text):
            console.print(Text(f"  {make_printable(line)}"), soft_wrap=True)
        return
    said = Text(entry.id, style="bold").append_text(
        describe_known_failure(make_known_failure(entry, "none"))
    )
    console.print(said, soft_wrap=True)
