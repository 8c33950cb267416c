"""What several commands share: options, the display of a run, tables.

A command's module is imported for its help and for what is wrong with its options, too: what only
its work needs is imported by the function that does it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from runner.cli.errors import print_error
from runner.engines.limits import NAMES
from runner.engines.select import ENGINES
from runner.errors import RunnerError, UsageError

if TYPE_CHECKING:
    from runner.cli.console import Console
    from runner.cli.progress import ConsoleView
    from runner.conversion.observer import Observer
    from runner.schemas.report import Report

TrustModel = Annotated[
    bool,
    typer.Option(
        "--trust-model",
        envvar="RUNNER_TRUST_MODEL",
        help="Run the model's own code, even where nothing isolates it.",
    ),
]
Timeout = Annotated[
    Optional[int],
    typer.Option(help="Seconds that a stage may run (default: 21600; 0: no limit)."),
]
Limit = Annotated[
    Optional[list[str]],
    typer.Option(help=f"NAME=NUMBER for a stage: {', '.join(NAMES)}; such as memory=4g."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the stages' output.")]
Engine = Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}.")]
Target = Annotated[
    str, typer.Option(help="What is to run the model: litert, for the operators of today's LiteRT.")
]
Arch = Annotated[
    str, typer.Option(help="What builds a PyTorch model: FILE.py:CALLABLE or MODULE:CALLABLE.")
]
ArchArgs = Annotated[str, typer.Option(help="Its keyword arguments, as JSON.")]
Inputs = Annotated[
    Optional[list[str]],
    typer.Option(help="[NAME=]SHAPE[:DTYPE], such as 1x3x224x224; repeat for each input."),
]
InputsFile = Annotated[
    Optional[Path],
    typer.Option(help="Your own inputs to check with: .npz, .npy, or images."),
]
Labels = Annotated[
    Optional[Path],
    typer.Option(help="True classes of --inputs' samples (.npy or .txt), for the accuracy."),
]
Calibration = Annotated[
    Optional[Path],
    typer.Option(help="What the model really sees, for int8: .npz, .npy, folder of images."),
]
CalibrateOnNoise = Annotated[
    bool, typer.Option("--calibrate-on-noise", help="Do without; the model is not to be used.")
]
MinSqnr = Annotated[
    Optional[float],
    typer.Option(help="Signal to noise that a quantised output needs, in dB (default: 20)."),
]
Runtimes = Annotated[
    Optional[str],
    typer.Option(
        help="Images whose interpreters try quantised models, or none (default: litert and "
        "tflite, if installed)."
    ),
]
Cache = Annotated[
    bool,
    typer.Option(
        help="Take stages that were made before from the cache.", envvar="RUNNER_STAGE_CACHE"
    ),
]
Samples = Annotated[int, typer.Option(help="Generated inputs to check with.")]
Seed = Annotated[int, typer.Option(help="The seed of the generated inputs.")]
Tolerance = Annotated[float, typer.Option(help="What the metric must stay below.")]
Metric = Annotated[
    str, typer.Option(help="mean, max, p99 or rms of the absolute error; mean-rel, ...")
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Let no error above the tolerance pass as float32's rounding."),
]
Wheels = Annotated[
    Optional[list[str]],
    typer.Option(help="A wheel for a pin that has vanished: FILE[#sha256=HEX]."),
]

Toolchains = Annotated[
    Optional[list[str]],
    typer.Option("--toolchain", help="All images of a toolchain; 'all' for every toolchain's."),
]


def make_console(*, stderr: bool = False, quiet: bool = False, width: int | None = None) -> Console:
    """Make the console that a command prints its result to."""
    from runner.cli.console import Console

    return Console(stderr=stderr, quiet=quiet, width=width)


def make_view(*, stderr: bool = False) -> ConsoleView:
    """Make an observer that shows on the terminal how far a run or a set-up is."""
    from runner.cli.progress import ConsoleView

    return ConsoleView(make_console(stderr=stderr))


def make_observer(as_json: bool, quiet: bool, verbose: bool) -> Observer:
    """Choose who watches a run: the terminal, or nobody if nothing is to be shown."""
    if quiet or as_json:
        from runner.conversion.observer import Observer

        return Observer()
    from runner.cli.progress import ConsoleView

    return ConsoleView(make_console(), verbose=verbose)


def end_with(report: Report, as_json: bool, quiet: bool) -> NoReturn:
    """Print what the observer has not shown of a run, then exit with its exit code."""
    if as_json:
        print(report.to_json(), end="")
    elif quiet:
        for record in report.stages:
            if record.status == "failed":
                print_error(RunnerError(f"{record.name}: {record.failure}", record.remedy))
    raise typer.Exit(report.exit_code)


def parse_json_object(text: str, option: str) -> dict[str, Any]:
    """Parse an option's value, a JSON object; return {} if it is empty. Raises `UsageError`."""
    if not text:
        return {}
    try:
        value = _parse_json(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{option} is not JSON: {error}", "Such as '{\"width_mult\": 0.5}'."
        ) from None
    if not isinstance(value, dict):
        raise UsageError(f"{option} must be a JSON object, such as '{{\"width_mult\": 0.5}}'.")
    return value


def _parse_json(text: str) -> Any:
    """Parse a JSON value. Raises `ValueError`, also for NaN and infinity, which are not JSON."""
    value = json.loads(text)
    json.dumps(value, allow_nan=False)
    return value


def parse_stage_options(items: list[str]) -> dict[str, Any]:
    """Parse STAGE.NAME=VALUE items; a value is JSON, or else text. Raises `UsageError`."""
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--option {item} is not of the form STAGE.NAME=VALUE.")
        try:
            options[key] = _parse_json(value)
        except (ValueError, RecursionError):
            options[key] = value
    return options


def print_rows(rows: list[dict[str, str]], title: str, as_json: bool) -> None:
    """Print a table whose columns are the keys of the first row, or print JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row.values()))  # they are not markup
    make_console().print(table)
