"""`runner compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from runner.cli.console import Console
from runner.cli.options import Json, Limit, Timeout, TrustModel, json_object, print_error
from runner.engines.limits import parse_limits
from runner.engines.select import ENGINES
from runner.errors import RunnerError


def compare(
    reference: Annotated[Path, typer.Argument(help="The model whose outputs count as right.")],
    other: Annotated[Path, typer.Argument(help="The model that is compared with it.")],
    output: Annotated[
        Optional[Path], typer.Option(help="The run folder (default: runs/compare-NAME-TIME).")
    ] = None,
    input: Annotated[
        Optional[list[str]],
        typer.Option(help="[NAME=]SHAPE[:DTYPE] of the reference's inputs; once an input."),
    ] = None,
    arch: Annotated[
        str, typer.Option(help="What builds a PyTorch model: FILE.py:CALLABLE or MODULE:CALLABLE.")
    ] = "",
    arch_args: Annotated[str, typer.Option(help="Its keyword arguments, as JSON.")] = "",
    samples: Annotated[int, typer.Option(help="Generated inputs to compare on.")] = 1000,
    inputs: Annotated[
        Optional[Path], typer.Option(help="Your own inputs to compare on: .npy or .npz.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the generated inputs.")] = 0,
    tolerance: Annotated[float, typer.Option(help="What the metric must stay below.")] = 1e-6,
    metric: Annotated[
        str, typer.Option(help="mean, max, p99 or rms of the absolute error; mean-rel, ...")
    ] = "mean",
    engine: Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}.")] = "auto",
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the stages' output.")] = False,
) -> None:
    """Compare two models (.pt, .onnx, .pb, .tflite) on the same inputs."""
    # Late: other commands do without what a run imports.
    from runner.cli.progress import ConsoleView
    from runner.conversion.compare import compare as compare_models
    from runner.conversion.observer import SilentView

    view = SilentView() if quiet or as_json else ConsoleView(Console(), verbose=verbose)
    report = compare_models(
        reference,
        other,
        output=output,
        engine=engine,
        inputs=input or (),
        samples=samples,
        seed=seed,
        inputs_file=inputs,
        tolerance=tolerance,
        metric=metric,
        arch=arch,
        arch_args=json_object(arch_args, "--arch-args"),
        trust_model=trust_model,
        limits=parse_limits(limit or (), timeout),
        view=view,
    )
    if as_json:
        print(report.to_json(), end="")
    elif quiet:
        for record in report.stages:
            if record.status == "failed":
                print_error(RunnerError(f"{record.name}: {record.failure}", record.remedy))
    raise typer.Exit(report.exit_code)
