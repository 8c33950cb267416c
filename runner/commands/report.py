"""`runner report`: what is left of finished runs, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from runner.commands.common import Json, errors, print_error
from runner.errors import ExitCode

report_app = typer.Typer(
    help="Reports of finished runs: one table over many, a run's page.", no_args_is_help=True
)


@report_app.command("page")
def page(
    run: Annotated[Path, typer.Argument(help="A run folder, with its report.json.")],
) -> None:
    """Write a run's report.html from its report.json, again or for the first time."""
    from runner.files import relative_to_here
    from runner.page import write_page
    from runner.runs import read_report, run_folder
    from runner.view import printable

    folder = run_folder(run)
    print(printable(relative_to_here(write_page(read_report(folder), folder.absolute()))))


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
    from runner.batch import as_csv, as_table, rows
    from runner.files import write_text
    from runner.page import write_table
    from runner.runs import find_runs
    from runner.view import printable

    found = find_runs(runs)
    made = rows(found.reports)
    if csv is not None:
        write_text(csv, as_csv(made))
    if html is not None:
        write_table(made, found.unreadable, html)
    if as_json:
        print(json.dumps([row.as_dict() for row in made], indent=1))
    else:
        console = Console()
        if not console.is_terminal:  # a file or a pipe has no edge to fit into
            console = Console(width=180)
        console.print(as_table(made, console.width))
    for error in found.unreadable:
        print_error(error)
    if found.unreadable:
        total = len(found.unreadable) + len(found.reports)
        errors.print(f"{len(found.unreadable)} of {total} runs are not in the table.")
        raise typer.Exit(ExitCode.BAD_INPUT)
    for written in (csv, html):
        if written is not None and not as_json:
            print(printable(str(written)))
