"""`runner benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

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
from runner.errors import BadInput, ExitCode


def benchmark(
    files: Annotated[list[Path], typer.Argument(help="TensorFlow Lite models.")],
    runtime: Annotated[
        Optional[list[str]],
        typer.Option(help="An image whose interpreter runs them; repeat for several."),
    ] = None,
    threads: Annotated[
        str, typer.Option(help="Numbers of threads, such as 1,4 (default: 1 and the cores).")
    ] = "",
    rounds: Annotated[int, typer.Option(help="How often each file takes a turn.")] = 15,
    seconds: Annotated[float, typer.Option(help="How long a turn is.")] = 0.1,
    reference: Annotated[
        Optional[Path],
        typer.Option(help="The folder `reference` of a side-by-side run: to compute errors, too."),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many of its samples to take.")] = 8,
    engine: Engine = "auto",
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure the latency of .tflite files, in turns, in one or several interpreters."""
    # Imported late: other commands do not need what a run imports.
    from runner.cli.benchmark import render_benchmark
    from runner.conversion.benchmark import benchmark as measure_files
    from runner.conversion.measurement import Measurement
    from runner.conversion.settings import RunSettings

    found = measure_files(
        files,
        runtime or (),
        Measurement(
            threads=parse_threads(threads),
            rounds=rounds,
            seconds=seconds,
            samples=samples,
            reference=reference,
        ),
        RunSettings(
            engine=engine,
            trust_model=trust_model,
            limits=parse_limits(limit or (), timeout),
            observer=make_observer(as_json, quiet, verbose),
        ),
    )
    if as_json:
        print(found.to_json(), end="")
    else:
        make_console().print(render_benchmark(found))
    for file in found.files:
        results = [found.find(r.image, file.name) for r in found.runtimes]
        if not any(result and not result.failure for result in results):
            raise typer.Exit(ExitCode.STAGE_FAILED)


def parse_threads(text: str) -> tuple[int, ...]:
    """Parse numbers of threads, comma-separated. Raises `BadInput`."""
    try:
        return tuple(int(number) for number in text.split(",") if number.strip())
    except ValueError:
        raise BadInput(f"--threads {text} are no numbers.", "Such as 1,4.") from None
