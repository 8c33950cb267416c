"""`runner diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from runner.cli.console import Console
from runner.cli.options import Json, Limit, Timeout, TrustModel
from runner.conversion.trace import DEFAULT_SAMPLES
from runner.engines.limits import parse_limits
from runner.engines.select import ENGINES
from runner.errors import ExitCode

_CODES = {
    "found": ExitCode.OUT_OF_TOLERANCE,
    "reference": ExitCode.OUT_OF_TOLERANCE,
    "incomplete": ExitCode.STAGE_FAILED,
    "rounding": ExitCode.PASSED,
}


def diagnose(
    run: Annotated[Path, typer.Argument(help="The folder of a run, with its report.json.")],
    model: Annotated[
        Optional[Path], typer.Option(help="The model, where it is not where the run found it.")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="How many of the check's samples to trace, the worst ones first.")
    ] = DEFAULT_SAMPLES,
    engine: Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}.")] = "auto",
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the programs' output.")] = False,
) -> None:
    """Find the first operator where the error of a run is born, and the layer it belongs to."""
    # Late: other commands do without what this imports.
    from runner.cli.diagnosis import rendered
    from runner.cli.progress import ConsoleView
    from runner.conversion.diagnose import diagnose as diagnose_run
    from runner.conversion.observer import SilentView

    view = SilentView() if as_json else ConsoleView(Console(), verbose=verbose)
    diagnosis = diagnose_run(
        run,
        model=model,
        samples=samples,
        engine=engine,
        trust_model=trust_model,
        limits=parse_limits(limit or (), timeout),
        view=view,
    )
    if as_json:
        print(diagnosis.model_dump_json(indent=1))
    else:
        Console().print(rendered(diagnosis))
    raise typer.Exit(_CODES[diagnosis.verdict])
