"""What several commands share: options, selections, tables."""

from __future__ import annotations

import json
from typing import Annotated, Any, Optional

import typer
from rich.table import Table
from rich.text import Text

from runner.cli.console import Console
from runner.engines.limits import NAMES
from runner.errors import BadInput, ExitCode, RunnerError
from runner.toolchains.load import all_images, load_image
from runner.toolchains.model import Image

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

errors = Console(stderr=True)


def print_error(error: RunnerError) -> None:
    """What is wrong, and below it what to do."""
    from runner.host.text import printable

    # A message may quote a file of anybody's.
    text = Text("error: ", style="bold red")
    text.append(printable(error.message), style="default not bold")
    if error.remedy:
        text.append(f"\n→ {printable(error.remedy)}", style="default not bold")
    if error.exit_code in (ExitCode.ENVIRONMENT, ExitCode.BAD_INPUT):
        from runner.cli.summary import known_failure
        from runner.known_failures import Symptoms, known, recognise

        entry = recognise(Symptoms(error.message))
        if entry is not None:
            text.append_text(known_failure(known(entry)))
    errors.print(text, soft_wrap=True)


def selected(names: list[str] | None) -> list[Image]:
    """The images of these names, or all; each in every variant. Raises `BadInput`."""
    if not names:
        return all_images()
    wanted = [load_image(name).name for name in names]
    return [image for image in all_images() if image.name in wanted]


def json_object(text: str, option: str) -> dict[str, Any]:
    """An option's value that is a JSON object; {} if it is empty. Raises `BadInput`."""
    if not text:
        return {}
    try:
        value = _json(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{option} is not JSON: {error}", "Such as '{\"width_mult\": 0.5}'."
        ) from None
    if not isinstance(value, dict):
        raise BadInput(f"{option} must be a JSON object, such as '{{\"width_mult\": 0.5}}'.")
    return value


def _json(text: str) -> Any:
    """A JSON value. Raises `ValueError`, also for NaN and infinity, which are none."""
    value = json.loads(text)
    json.dumps(value, allow_nan=False)
    return value


def stage_options(items: list[str]) -> dict[str, Any]:
    """STAGE.NAME=VALUE as a dictionary; values are JSON, or else text. Raises `BadInput`."""
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"--option {item} is not of the form STAGE.NAME=VALUE.")
        try:
            options[key] = _json(value)
        except (ValueError, RecursionError):
            options[key] = value
    return options


def print_rows(rows: list[dict[str, str]], title: str, as_json: bool) -> None:
    """A table whose columns are the keys of the first row; or JSON."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row.values()))  # nothing in them is markup
    Console().print(table)
