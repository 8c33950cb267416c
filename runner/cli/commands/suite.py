"""`runner suite`: many models with many toolchains, on this machine or on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.lazy import make_group
from runner.cli.options import Cache, Engine, Json, Quiet, TrustModel, make_console
from runner.errors import BadInput, ExitCode

if TYPE_CHECKING:
    from runner.cli.console import Console
    from runner.suite.plan import SuitePlan
    from runner.suite.results import Results

suite_app = make_group("Many models with many toolchains: run them, compare two sets of results.")

Scheduler = Annotated[
    str,
    typer.Option(help="A Dask scheduler: tcp://HOST:PORT or tls://HOST:PORT (default: here)."),
]
Workers = Annotated[
    int,
    typer.Option(help="Conversions at a time here (default: one a core, each with 2 GiB)."),
]


@suite_app.command()
def run(
    suite: Annotated[Path, typer.Argument(help="The suite's file, suite.toml.")],
    output: Annotated[
        Optional[Path],
        typer.Option(help="The folder of the results (default: NAME-results beside the file)."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what there is to do, and do nothing.")
    ] = False,
    scheduler: Scheduler = "",
    workers: Workers = 0,
    tls_ca: Annotated[Optional[Path], typer.Option(help="With tls://: the authority.")] = None,
    tls_cert: Annotated[Optional[Path], typer.Option(help="This client's certificate.")] = None,
    tls_key: Annotated[Optional[Path], typer.Option(help="Its private key.")] = None,
    store: Annotated[
        str, typer.Option(help="Files by way of this URL: a shared folder, s3://... (fsspec).")
    ] = "",
    archive: Annotated[
        Optional[Path], typer.Option(help="Workers install environments from this archive.")
    ] = None,
    again: Annotated[
        Optional[list[str]],
        typer.Option(help="Do those again whose outcome was this, such as failed."),
    ] = None,
    baseline: Annotated[
        Optional[Path], typer.Option(help="Results to compare with, on the page.")
    ] = None,
    engine: Engine = "auto",
    trust_model: TrustModel = False,
    cache: Cache = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert every model of a suite with every toolchain; what is there is not done again."""
    from runner.cli.suite import JsonView, SuiteView, render_results
    from runner.host.files import format_relative_path
    from runner.suite.cluster import Connection
    from runner.suite.output.page import write_page
    from runner.suite.plan import make_suite_plan
    from runner.suite.request import Setting
    from runner.suite.results import Results, read_results
    from runner.suite.run import Orders, run_suite
    from runner.suite.settings import read_suite

    read = read_suite(suite)
    folder = (output or suite.with_name(f"{suite.stem}-results")).absolute()
    base = read_results(baseline) if baseline else None
    for path in (archive, tls_ca, tls_cert, tls_key):
        if path is not None and not path.is_file():
            raise BadInput(f"There is no file {path}.")
    planned = make_suite_plan(read)
    console = make_console(quiet=quiet or as_json)
    if plan:
        _show_plan(planned, Results(folder), again or [], as_json, console)
        return
    orders = Orders(
        Connection(scheduler, workers, tls_ca, tls_cert, tls_key),
        Setting(engine, trust_model, cache),
        store,
        archive,
        again or (),
        read.file.latency,
    )
    try:
        with JsonView() if as_json else SuiteView(console) as view:
            results = run_suite(planned, folder, orders, view)
    except KeyboardInterrupt:
        console.print("Interrupted. What is finished is kept: the same command goes on.")
        write_page(read_results(folder), base)
        raise
    page = write_page(results, base)
    console.print(render_results(results))
    console.print(f"{format_relative_path(page)}", soft_wrap=True)
    if any(not record.is_final for record in results.records):
        raise typer.Exit(ExitCode.INCOMPLETE)


def _show_plan(
    planned: SuitePlan, results: Results, again: list[str], as_json: bool, console: Console
) -> None:
    """Print how many conversions there are, how many are there, and which are refused."""
    from rich.text import Text

    from runner.host.text import make_printable
    from runner.suite.run import split_done

    there, waiting = split_done(planned, results, again)
    refused = [record for record in there if not record.key]
    counts = {
        "conversions": len(planned.conversions),
        "models": len(planned.models),
        "toolchains": len(planned.toolchains),
        "variants": len(planned.variants),
        "there": len(there) - len(refused),
        "refused": len(refused),
        "to do": len(waiting),
    }
    if as_json:
        todo = [str(conversion.cell) for conversion in waiting]
        print(json.dumps({**counts, "waiting": todo, "images": planned.images}, indent=1))
        return
    console.print(
        f"{counts['models']} models × {counts['toolchains']} toolchains × "
        f"{counts['variants']} variants = {counts['conversions']} conversions: "
        f"{counts['there']} are there, {counts['refused']} refused, {counts['to do']} to do.",
        soft_wrap=True,
    )
    for record in refused:
        console.print(
            Text(f"– {make_printable(f'{record.cell}: {record.reason}')}", "dim"), soft_wrap=True
        )
    console.print(f"Environments: {', '.join(planned.images) or 'none'}.", soft_wrap=True)


@suite_app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="The results to compare with.")],
    new: Annotated[Path, typer.Argument(help="The results that are judged.")],
    base_toolchain: Annotated[
        str, typer.Option(help="Of BASE, this toolchain's results only.")
    ] = "",
    new_toolchain: Annotated[
        str, typer.Option(help="Of NEW, this toolchain's: to compare two toolchains.")
    ] = "",
    what: Annotated[
        Optional[list[str]],
        typer.Option(help="Only this: outcome, error, size, operators, quantised or latency."),
    ] = None,
    html: Annotated[Optional[Path], typer.Option(help="Write the comparison as a page.")] = None,
    junit: Annotated[Optional[Path], typer.Option(help="Write it as JUnit XML, for CI.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name what got worse and what got better, beyond the noise; exit 10 if anything got worse."""
    from rich.text import Text

    from runner.host.text import make_printable
    from runner.suite.compare import WHATS, compare_results
    from runner.suite.output.junit import write_junit
    from runner.suite.output.page import write_html
    from runner.suite.results import read_results

    results = read_results(new)
    found = compare_results(
        read_results(base),
        results,
        base_toolchain=base_toolchain,
        new_toolchain=new_toolchain,
        whats=what or WHATS,
    )
    if html is not None:
        write_html(results, html, found, open_comparison=True)
    if junit is not None:
        write_junit(found, junit)
    console = make_console(quiet=quiet or as_json)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    for title, colour, changes in (
        ("worse", "red", found.worse),
        ("better", "green", found.better),
    ):
        for change in changes:
            line = Text(f"{title}: ", colour).append(make_printable(str(change)), "default")
            console.print(line, soft_wrap=True)
    for cell in found.only_base:
        console.print(Text(f"gone: {make_printable(str(cell))}", "red"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(make_printable(note), "dim"), soft_wrap=True)
    console.print(
        f"{len(found.pairs)} conversions compared: {len(found.worse)} worse, "
        f"{len(found.better)} better, {len(found.only_base)} gone, {len(found.only_new)} new.",
        soft_wrap=True,
    )
    if found.failed:
        raise typer.Exit(ExitCode.WORSE)


@suite_app.command()
def page(
    results: Annotated[Path, typer.Argument(help="The folder of a suite's results.")],
    baseline: Annotated[Optional[Path], typer.Option(help="Results to compare with.")] = None,
) -> None:
    """Write the page of a suite again, with another baseline or none."""
    from runner.host.files import format_relative_path
    from runner.suite.output.page import write_page
    from runner.suite.results import read_results

    base = read_results(baseline) if baseline else None
    print(format_relative_path(write_page(read_results(results.absolute()), base)))
