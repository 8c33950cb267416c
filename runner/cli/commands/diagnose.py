"""`runner diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from runner.cli.options import (
    Engine,
    Json,
    Limit,
    Timeout,
    TrustModel,
    Verbose,
    make_console,
    make_observer,
)
from runner.conversion.settings import DEFAULT_SAMPLES
from runner.engines.limits import parse_limits
from runner.errors import ExitCode

_CODES = {
    "found": ExitCode.OUT_OF_TOLERANCE,
    "cancellation": ExitCode.OUT_OF_TOLERANCE,
    "quantization": ExitCode.OUT_OF_TOLERANCE,
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
    engine: Engine = "auto",
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find the first operator that introduces the error of a run, and the layer it belongs to."""
    # Imported late: other commands do not need what this imports.
    from runner.cli.diagnosis import render_diagnosis
    from runner.conversion.diagnose import diagnose as diagnose_run
    from runner.conversion.settings import RunSettings

    settings = RunSettings(
        engine=engine,
        trust_model=trust_model,
        limits=parse_limits(limit or (), timeout),
        observer=make_observer(as_json, False, verbose),
    )
    diagnosis = diagnose_run(run, model=model, samples=samples, settings=settings)
    if as_json:
        print(diagnosis.model_dump_json(indent=1))
    else:
        make_console().print(render_diagnosis(diagnosis))
    raise typer.Exit(_CODES[diagnosis.verdict])
