"""`runner quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from runner.cli.options import (
    Cache,
    CalibrateOnNoise,
    Calibration,
    Engine,
    Inputs,
    InputsFile,
    Json,
    Labels,
    Limit,
    MinSqnr,
    Quiet,
    Runtimes,
    Samples,
    Seed,
    Timeout,
    TrustModel,
    Verbose,
    end_with,
    make_observer,
)
from runner.engines.limits import parse_limits


def quantize(
    model: Annotated[Path, typer.Argument(help="A float .tflite file, of whatever tool.")],
    to: Annotated[str, typer.Option(help="float16, dynamic, int8, int16x8; or several.")],
    calibration: Calibration = None,
    calibrate_on_noise: CalibrateOnNoise = False,
    quantize_io: Annotated[
        str, typer.Option(help="int8's inputs and outputs: float or int8 (default: float).")
    ] = "",
    min_sqnr: MinSqnr = None,
    min_top1: Annotated[
        Optional[float],
        typer.Option(help="Share of samples with the float model's class (default: 0.98)."),
    ] = None,
    runtimes: Runtimes = None,
    output: Annotated[
        Optional[Path], typer.Option(help="The run folder (default: runs/quantize-NAME-TIME).")
    ] = None,
    input: Inputs = None,
    samples: Samples = 1000,
    inputs: InputsFile = None,
    labels: Labels = None,
    seed: Seed = 0,
    engine: Engine = "auto",
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    cache: Cache = True,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Quantise a float .tflite file, and judge each result against it."""
    # Imported late: other commands do not need what a run imports.
    from runner.conversion.quantize import quantize as quantize_model
    from runner.conversion.settings import RunSettings
    from runner.planning.check import Check
    from runner.planning.quantization import Quantization, split_modes, split_runtimes

    report = quantize_model(
        model,
        Quantization(
            split_modes(to),
            calibration,
            calibrate_on_noise,
            quantize_io,
            min_sqnr,
            min_top1,
            runtimes=split_runtimes(runtimes),
        ),
        Check(input or (), inputs, samples, seed, labels=labels),
        RunSettings(
            output=output,
            engine=engine,
            trust_model=trust_model,
            limits=parse_limits(limit or (), timeout),
            cache=cache,
            observer=make_observer(as_json, quiet, verbose),
        ),
    )
    end_with(report, as_json, quiet)
