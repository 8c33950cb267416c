"""`runner compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from runner.cli.options import (
    Arch,
    ArchArgs,
    Engine,
    Inputs,
    InputsFile,
    Json,
    Limit,
    Metric,
    Quiet,
    Samples,
    Seed,
    Strict,
    Timeout,
    Tolerance,
    TrustModel,
    Verbose,
    end_with,
    make_observer,
    parse_json_object,
)
from runner.engines.limits import parse_limits


def compare(
    reference: Annotated[Path, typer.Argument(help="The model whose outputs count as right.")],
    other: Annotated[Path, typer.Argument(help="The model that is compared with it.")],
    output: Annotated[
        Optional[Path], typer.Option(help="The run folder (default: runs/compare-NAME-TIME).")
    ] = None,
    input: Inputs = None,
    arch: Arch = "",
    arch_args: ArchArgs = "",
    samples: Samples = 1000,
    inputs: InputsFile = None,
    seed: Seed = 0,
    tolerance: Tolerance = 1e-6,
    metric: Metric = "mean",
    strict: Strict = False,
    engine: Engine = "auto",
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare two models (.pt, .onnx, .pb, .tflite) on the same inputs."""
    # Imported late: other commands do not need what a run imports.
    from runner.conversion.compare import compare as compare_models
    from runner.conversion.settings import RunSettings
    from runner.planning.check import Check
    from runner.planning.source import Source

    report = compare_models(
        Source(reference, arch, parse_json_object(arch_args, "--arch-args")),
        other,
        Check(input or (), inputs, samples, seed, tolerance, metric, strict),
        RunSettings(
            output=output,
            engine=engine,
            trust_model=trust_model,
            limits=parse_limits(limit or (), timeout),
            observer=make_observer(as_json, quiet, verbose),
        ),
    )
    end_with(report, as_json, quiet)
