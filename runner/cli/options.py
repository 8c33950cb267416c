"""What several commands share: options, the display of a run, selection of images, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer
from rich.table import Table
from rich.text import Text

from runner.cli.console import Console
from runner.engines.limits import NAMES
from runner.engines.select import ENGINES
from runner.errors import BadInput, ExitCode, RunnerError
from runner.toolchains.load import list_variants, load_all_images, load_image, load_toolchain
from runner.toolchains.model import Image

if TYPE_CHECKING:
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

errors = Console(stderr=True)


def print_error(error: RunnerError) -> None:
    """Print what is wrong, and below it what to do about it."""
    from runner.host.text import make_printable

    # A message may quote an untrusted file.
    text = Text("error: ", style="bold red")
    text.append(make_printable(error.message), style="default not bold")
    if error.remedy:
        text.append(f"\n→ {make_printable(error.remedy)}", style="default not bold")
    if error.exit_code in (ExitCode.ENVIRONMENT, ExitCode.BAD_INPUT):
        from runner.cli.summary import describe_known_failure
        from runner.known_failures.match import Symptoms, make_known_failure, recognise

        entry = recognise(Symptoms(error.message))
        if entry is not None:
            text.append_text(describe_known_failure(make_known_failure(entry)))
    errors.print(text, soft_wrap=True)


def make_observer(as_json: bool, quiet: bool, verbose: bool) -> Observer:
    """Choose who watches a run: the terminal, or nobody if nothing is to be shown."""
    # Imported late: most commands run nothing.
    from runner.cli.progress import ConsoleView
    from runner.conversion.observer import Observer

    return Observer() if quiet or as_json else ConsoleView(Console(), verbose=verbose)


def end_with(report: Report, as_json: bool, quiet: bool) -> NoReturn:
    """Print what the observer has not shown of a run, then exit with its exit code."""
    if as_json:
        print(report.to_json(), end="")
    elif quiet:
        for record in report.stages:
            if record.status == "failed":
                print_error(RunnerError(f"{record.name}: {record.failure}", record.remedy))
    raise typer.Exit(report.exit_code)


def select_images(names: list[str] | None, toolchains: list[str] | None) -> list[Image]:
    """Return the named images, and those of the named toolchains, each in every variant.

    Without a name, they are those of the default toolchain; 'all' stands for every toolchain that
    comes with the runner. Raises `BadInput`.
    """
    if "all" in (toolchains or ()):
        return load_all_images()
    chains = toolchains or ([] if names else [""])
    wanted = [load_image(name).name for name in names or ()]
    wanted += [image for chain in chains for image in load_toolchain(chain).images]
    return [load_image(n, variant) for n in dict.fromkeys(wanted) for variant in list_variants(n)]


def parse_json_object(text: str, option: str) -> dict[str, Any]:
    """Parse an option's value, a JSON object; return {} if it is empty. Raises `BadInput`."""
    if not text:
        return {}
    try:
        value = _parse_json(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{option} is not JSON: {error}", "Such as '{\"width_mult\": 0.5}'."
        ) from None
    if not isinstance(value, dict):
        raise BadInput(f"{option} must be a JSON object, such as '{{\"width_mult\": 0.5}}'.")
    return value


def _parse_json(text: str) -> Any:
    """Parse a JSON value. Raises `ValueError`, also for NaN and infinity, which are not JSON."""
    value = json.loads(text)
    json.dumps(value, allow_nan=False)
    return value


def parse_stage_options(items: list[str]) -> dict[str, Any]:
    """Parse STAGE.NAME=VALUE items; a value is JSON, or else text. Raises `BadInput`."""
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"--option {item} is not of the form STAGE.NAME=VALUE.")
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
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row.values()))  # they are not markup
    Console().print(table)
