"""`runner doctor`, `runner stages`, `runner schemas`: this machine and this version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.options import (
    Json,
    make_console,
    print_rows,
)
from runner.errors import ExitCode
from runner.toolchains.load import load_toolchain


def stages(
    toolchain: Annotated[str, typer.Option(help="Which chain of stages.")] = "",
    as_json: Json = False,
) -> None:
    """List the stages of a toolchain."""
    chain = load_toolchain(toolchain)
    rows = [
        {
            "stage": stage.name,
            "service": stage.service,
            "image": stage.image,
            "consumes": stage.consumes,
            "produces": stage.produces,
            "options": ", ".join(stage.options),
        }
        for stage in chain.stages
    ]
    print_rows(rows, f"{chain.name}: {chain.description}", as_json)


def doctor(as_json: Json = False) -> None:
    """Say what works on this machine, and how to mend the rest."""
    from rich.text import Text

    from runner.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=1))
    else:
        console = make_console()
        marks = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}
        for finding in findings:
            console.print(f"{marks[finding.level]} [bold]{finding.topic}[/]: ", end="")
            console.print(Text(finding.message))
            if finding.remedy:
                console.print(Text(f"  → {finding.remedy}"))
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(ExitCode.ENVIRONMENT)


def schemas(
    folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path("docs/schemas"),
) -> None:
    """Write the JSON schemas of the reports, the records and an inspection."""
    from runner.host.files import write_text
    from runner.schemas import list_schema_models

    for name, model in list_schema_models().items():
        text = json.dumps(model.model_json_schema(by_alias=True), indent=1) + "\n"
        write_text(folder / f"{name}.schema.json", text)
        print(folder / f"{name}.schema.json")
