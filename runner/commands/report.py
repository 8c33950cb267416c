"""`runner report`: what to do with the reports of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.text import Text

from runner.errors import BadInput

report_app = typer.Typer(help="The reports of runs: what to hand on.", no_args_is_help=True)


@report_app.command()
def bundle(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    output: Annotated[
        Optional[Path], typer.Option(help="The archive: .zip or .tar.gz (default: RUN-report.zip).")
    ] = None,
) -> None:
    """Make an archive for an issue: the report, the logs, the graphs; no weights, no samples."""
    from runner.bundle import write_bundle

    written = write_bundle(run, output)
    for member, size in written.members:
        print(f"  {member} ({size} bytes)")
    for name, reason in written.left_out:
        print(f"  left out: {name}: {reason}")
    print(f"{written.path}: read it before you hand it on; names of layers are in it, weights not.")


@report_app.command()
def explain(
    log: Annotated[
        Optional[Path], typer.Argument(help="A log or an error message (default: standard input).")
    ] = None,
) -> None:
    """Look an error up in the catalogue of known failures, from whatever tool it comes."""
    from runner.failures import Symptoms, known, last_words, recognise
    from runner.failures.match import ANYWHERE, tail
    from runner.view import known_failure, printable

    if log is not None and not log.is_file():
        raise BadInput(f"There is no file {log}.")
    text = sys.stdin.read() if log is None else tail(log)
    console = Console()
    entry = recognise(Symptoms(text, stage=ANYWHERE))
    if entry is None:
        console.print("Not a known failure. The last meaningful lines:")
        for line in last_words(text):
            console.print(Text(f"  {printable(line)}"), soft_wrap=True)
        return
    said = Text(entry.id, style="bold").append_text(known_failure(known(entry, "none")))
    console.print(said, soft_wrap=True)
