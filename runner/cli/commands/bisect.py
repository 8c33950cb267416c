"""`runner bisect`: the first toolchain, or release of a package, with which a model got worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

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
    Target,
    Tolerance,
    TrustModel,
    make_console,
    parse_json_object,
)
from runner.errors import EnvironmentUnavailable, ExitCode, UsageError


def bisect(
    model: Annotated[Path, typer.Argument(help="A model of any format that converts.")],
    first: Annotated[
        str, typer.Option("--from", help="The first toolchain (default: all), or release.")
    ] = "",
    last: Annotated[str, typer.Option("--to", help="The last one.")] = "",
    package: Annotated[
        str, typer.Option(help="Try the releases of this package, in one toolchain.")
    ] = "",
    toolchain: Annotated[
        str,
        typer.Option(help="With --package: in which toolchain (default: nearest to --from)."),
    ] = "",
    image: Annotated[
        Optional[list[str]],
        typer.Option(help="With --package: change this environment (default: all that have it)."),
    ] = None,
    loosen: Annotated[
        Optional[list[str]],
        typer.Option(help="With --package: another package whose pin gives way."),
    ] = None,
    pre_releases: Annotated[
        bool, typer.Option("--pre-releases", help="With --package: try pre-releases too.")
    ] = False,
    yanked: Annotated[
        bool, typer.Option("--yanked", help="With --package: try withdrawn releases too.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--every", help="With --package: try each, and do not halve.")
    ] = False,
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
    target: Target = "",
    input: Inputs = None,
    arch: Arch = "",
    arch_args: ArchArgs = "",
    samples: Samples = 1000,
    inputs: InputsFile = None,
    seed: Seed = 0,
    tolerance: Tolerance = 1e-6,
    metric: Metric = "mean",
    workers: Annotated[
        int, typer.Option(help="Conversions at a time (default: all cores); of toolchains.")
    ] = 0,
    engine: Engine = "auto",
    trust_model: TrustModel = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Name the first toolchain that fails, drifts or slows down, with evidence; then exit 10."""
    from runner.cli.bisection import ReleaseView, show_bisection
    from runner.cli.suite import SuiteView
    from runner.suite.bisection.toolchains import DEFAULT_WHATS, bisect_model, list_dated
    from runner.suite.cluster import Connection
    from runner.suite.output.page import write_page
    from runner.suite.request import Setting
    from runner.suite.results import read_results
    from runner.suite.run import Orders
    from runner.suite.settings import LatencyTable, Options

    if not package and (toolchain or image or loosen or pre_releases or yanked or every):
        raise UsageError(
            "--toolchain, --image, --loosen, --pre-releases, --yanked and --every go with "
            "--package.",
            "Without it, toolchains are tried: --from 2020-09 --to 2026.",
        )
    if package and target:
        raise UsageError("--target goes with toolchains, not with --package.")
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
    latency = LatencyTable(sessions=5 if "latency" in whats else 0)
    setting = Setting(engine, trust_model)
    ending = f"{model.stem}-{package}" if package else model.stem
    folder = (output or Path("runs") / f"bisect-{ending}").absolute()
    console = make_console(quiet=quiet or as_json)
    if package:
        from runner.packages.index import PackageIndexes
        from runner.recipes.candidates import Span
        from runner.suite.bisection.releases import Way, bisect_releases

        span = Span(package, first, last, toolchain, image or (), pre_releases, yanked)
        way = Way(setting, latency, whats, loosen or (), every)
        with ReleaseView(console) as view:
            found = bisect_releases(model, span, folder, PackageIndexes(), options, way, view)
    else:
        chains = list_dated(model, first, last, target)
        orders = Orders(Connection(workers=workers), setting, latency=latency)
        with SuiteView(console) as view:
            found = bisect_model(model, chains, folder, options, orders, whats=whats, watcher=view)
    if (folder / "suite.json").is_file():  # not where every release was skipped
        write_page(read_results(folder))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    show_bisection(found, console)
    if package and all(step.skipped for step in found.steps):
        raise EnvironmentUnavailable(
            f"None of these releases of {found.package} could be tried.",
            "Where another pin excludes them, let it give way: --loosen NAME. Or name another "
            "--toolchain.",
        )
    if found.first_bad is not None or found.good is None:
        raise typer.Exit(ExitCode.WORSE)
