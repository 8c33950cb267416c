"""`runner bisect`: the first toolchain, in order of date, with which a model got worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from runner.cli.options import (
    Arch,
    ArchArgs,
    Engine,
    Inputs,
    InputsFile,
    Json,
    Metric,
    Quiet,
    Samples,
    Seed,
    Tolerance,
    TrustModel,
    make_console,
    parse_json_object,
)
from runner.errors import ExitCode

if TYPE_CHECKING:
    from runner.cli.console import Console
    from runner.suite.bisect import Bisection, Step


def bisect(
    model: Annotated[Path, typer.Argument(help="A model of any format that converts.")],
    first: Annotated[str, typer.Option("--from", help="The first toolchain (default: all).")] = "",
    last: Annotated[str, typer.Option("--to", help="The last one.")] = "",
    what: Annotated[
        Optional[list[str]],
        typer.Option(
            help="What to look at: outcome, error, latency, size, operators, quantised.",
            show_default="outcome, error, latency",
        ),
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option(help="The folder of the runs, kept (default: runs/bisect-MODEL)."),
    ] = None,
    input: Inputs = None,
    arch: Arch = "",
    arch_args: ArchArgs = "",
    samples: Samples = 1000,
    inputs: InputsFile = None,
    seed: Seed = 0,
    tolerance: Tolerance = 1e-6,
    metric: Metric = "mean",
    workers: Annotated[int, typer.Option(help="Conversions at a time (default: all cores).")] = 0,
    engine: Engine = "auto",
    trust_model: TrustModel = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name the first toolchain that fails, drifts or slows down, with evidence; then exit 10."""
    from runner.cli.suite import SuiteView
    from runner.suite.bisect import DEFAULT_WHATS, bisect_model, list_dated
    from runner.suite.cluster import Connection
    from runner.suite.output.page import write_page
    from runner.suite.request import Setting
    from runner.suite.results import read_results
    from runner.suite.run import Orders
    from runner.suite.settings import LatencyTable, Options

    given: dict[str, Any] = {
        "input": input or [],
        "arch": arch,
        "arch_args": parse_json_object(arch_args, "--arch-args"),
        "samples": samples,
        "inputs": str(inputs) if inputs else "",
        "seed": seed,
        "tolerance": tolerance,
        "metric": metric,
    }
    options = Options.model_validate(given).resolve_paths(Path())
    whats = what or DEFAULT_WHATS
    sessions = 5 if "latency" in whats else 0
    orders = Orders(
        Connection(workers=workers),
        Setting(engine, trust_model),
        latency=LatencyTable(sessions=sessions),
    )
    folder = (output or Path("runs") / f"bisect-{model.stem}").absolute()
    console = make_console(quiet=quiet or as_json)
    chains = list_dated(model, first, last)
    with SuiteView(console) as view:
        found = bisect_model(model, chains, folder, options, orders, whats=whats, watcher=view)
    write_page(read_results(folder))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    _show(found, console)
    if found.first_bad is not None or found.good is None:
        raise typer.Exit(ExitCode.WORSE)


def _show(found: Bisection, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from runner.host.text import make_printable

    table = Table(title="In order of date", title_justify="left")
    for column in ("date", "toolchain", "", "error", "operators", "size"):
        table.add_column(column)
    for step in found.steps:
        table.add_row(*map(make_printable, _describe(found, step)))
    console.print(table)
    bad, good = found.first_bad, found.last_good
    if found.good is None:
        console.print("None of these toolchains converts the model within tolerance.")
    elif bad is None:
        console.print(f"None is worse than {found.good.toolchain}.")
    else:
        assert good is not None
        console.print(
            Text(f"First bad: {bad.toolchain} ({bad.date}); ", "red").append(
                f"last good: {good.toolchain} ({good.date})."
            ),
            soft_wrap=True,
        )
        for change in bad.changes:
            if change.worse:
                console.print(Text(f"  {make_printable(str(change))}"), soft_wrap=True)
        for step in (good, bad):
            evidence = found.folder / (step.record.log or step.record.run)
            console.print(Text(make_printable(f"  {step.toolchain}: {evidence}")), soft_wrap=True)
    for note in found.notes:
        console.print(Text(make_printable(note), "dim"), soft_wrap=True)


def _describe(found: Bisection, step: Step) -> list[str]:
    from runner.report.html import figures
    from runner.suite.wording import OUTCOMES

    record = step.record
    mark = OUTCOMES[record.outcome]
    said = f"{mark.sign} {mark.word}"
    if step is found.first_bad:
        said += ", first bad"
    elif step.bad:
        said += ", bad too"
    elif step.skipped:
        said += ", skipped"
    return [
        step.date,
        step.toolchain,
        said,
        figures.scientific(record.error),
        figures.NONE if record.operators is None else figures.count(record.operators),
        figures.NONE if record.bytes is None else figures.size(record.bytes),
    ]
