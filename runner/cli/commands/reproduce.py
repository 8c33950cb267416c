"""`runner reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.options import (
    Engine,
    Json,
    Limit,
    Quiet,
    Timeout,
    TrustModel,
    Verbose,
    make_console,
    make_observer,
)
from runner.engines.limits import parse_limits

if TYPE_CHECKING:
    from rich.console import Console

    from runner.schemas.reproduction import ArtifactComparison, Reproduction

_STYLES = {
    "identical": "bold green",
    "equivalent": "bold yellow",
    "different": "bold red",
    "environment-unavailable": "bold red",
}


def reproduce(
    record: Annotated[
        Path, typer.Argument(help="A run folder, its provenance.json, or provenance.dsse.json.")
    ],
    model: Annotated[
        Optional[Path], typer.Option(help="The model, if it is not where it was.")
    ] = None,
    arch: Annotated[
        Optional[Path], typer.Option(help="The Python file of --arch, if it is not where it was.")
    ] = None,
    inputs: Annotated[
        Optional[Path], typer.Option(help="The file of --inputs, if it is not where it was.")
    ] = None,
    calibration: Annotated[
        Optional[Path], typer.Option(help="The file of --calibration, if it has moved.")
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option(help="The new run's folder (default: runs/NAME-TIME).")
    ] = None,
    engine: Engine = "auto",
    wheel: Annotated[
        Optional[list[str]], typer.Option(help="The recorded wheel of yours, if it has moved.")
    ] = None,
    verify_key: Annotated[
        Optional[Path],
        typer.Option(help="Refuse a record that this public key (PEM) did not sign."),
    ] = None,
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a recorded conversion again, and compare the artifacts with the recorded ones."""
    # Imported late: other commands do not need what a conversion imports.
    from runner.conversion.settings import RunSettings
    from runner.reproduction.reproduce import REPRODUCTION_FILE, MovedFiles
    from runner.reproduction.reproduce import reproduce as reproduce_run

    result = reproduce_run(
        record,
        MovedFiles(model, arch, inputs, calibration),
        RunSettings(
            output=output,
            engine=engine,
            wheels=wheel or (),
            trust_model=trust_model,
            limits=parse_limits(limit or (), timeout),
            observer=make_observer(as_json, quiet, verbose),
        ),
        verify_key=verify_key,
    )
    if as_json:
        print(result.to_json(), end="")
    elif not quiet:
        _print_result(make_console(), result, REPRODUCTION_FILE)
    raise typer.Exit(result.exit_code)


def _print_result(console: Console, result: Reproduction, file: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from runner.host.text import make_printable

    def show(text: str, style: str = "") -> None:
        console.print(Text(make_printable(text), style=style), soft_wrap=True)

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("artifact", "recorded", "here", "verdict"):
        table.add_column(column, no_wrap=True)
    for artifact in result.artifacts:
        table.add_row(
            Text(make_printable(artifact.path)),
            (artifact.recorded_sha256 or "-")[:12],
            (artifact.sha256 or "-")[:12],
            artifact.verdict,
        )
    console.print(table)
    for artifact in result.artifacts:
        for text in _format_figures(artifact):
            show(text, "dim")
    for environment in result.environments:
        show(f"environment {environment.image} ({environment.engine}): {environment.source}", "dim")
    for difference in result.differences:
        unused = "" if difference.effective else " (not used: the recorded image is here)"
        show(f"differs: {difference}{unused}", "yellow")
    for alteration in result.alterations:
        show(f"altered: {alteration}", "red")
    if result.first_differing_stage:
        show(f"The first stage that differs: {result.first_differing_stage}. Why:")
        for reason in result.reasons:
            show(f"  - {reason}")
    if result.signed_by:
        show(f"The record is signed by the key {result.signed_by[:16]}.", "dim")
    verdict = result.verdict.replace("-", " ").capitalize()
    console.print(
        Text(f"{verdict}.", style=_STYLES[result.verdict]).append(
            f" {make_printable(result.summary)}", style="not bold default"
        ),
        soft_wrap=True,
    )
    show(f"{file} in the new run's folder says all of this.", "dim")


def _format_figures(artifact: ArtifactComparison) -> list[str]:
    lines = [f"{artifact.path}: {artifact.note}"] if artifact.note else []
    for output in artifact.outputs:
        if output.mean_abs is None:
            lines.append(f"{artifact.path}, '{output.name}': of another shape, or not finite")
            continue
        least = "at most " if artifact.measured == "figures of both runs" else ""
        lines.append(
            f"{artifact.path}, '{output.name}': mean difference {least}{output.mean_abs:.2g} "
            f"(equal is up to {output.allowed:.2g})"
        )
    return lines
