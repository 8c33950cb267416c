"""`runner toolchain`: make toolchains of what others installed, list them, check them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.lazy import make_group
from runner.cli.options import (
    Engine,
    Json,
    Quiet,
    make_console,
    print_rows,
)
from runner.errors import BadInput

if TYPE_CHECKING:
    from runner.recipes.new import Made
    from runner.recipes.reading.requirements import Wanted
    from runner.toolchains.model import StandIn

toolchain_app = make_group("Toolchains: those there are, and your own of what others installed.")


@toolchain_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Its name, for --toolchain.")],
    requirements: Annotated[
        Optional[list[Path]], typer.Option(help="A requirements file, such as of pip freeze.")
    ] = None,
    environment: Annotated[
        Optional[Path], typer.Option(help="Conda's environment.yml, instead or besides.")
    ] = None,
    pin: Annotated[
        Optional[list[str]], typer.Option(help="One requirement, such as torch==1.8.1.")
    ] = None,
    without: Annotated[
        Optional[list[str]], typer.Option(help="A package of the files to leave out.")
    ] = None,
    as_of: Annotated[
        str,
        typer.Option(help="Its date, YYYY-MM-DD (default: soon after the newest pin's release)."),
    ] = "",
    python: Annotated[
        str, typer.Option(help="Its Python, such as 3.8 (default: the newest that fits).")
    ] = "",
    accept_stand_ins: Annotated[
        bool,
        typer.Option("--accept-stand-ins", help="Let releases stand in for pins that are gone."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a toolchain of what a requirements file pins, in ./toolchains/NAME."""
    # Imported late: other commands do not need an index's client.
    from packaging.utils import canonicalize_name

    from runner.packages.index import PackageIndexes
    from runner.recipes.new import Order, check_name, make_toolchain

    check_name(name)
    wanted, source = _read_wishes(requirements or [], environment, pin or [])
    excluded = tuple(map(canonicalize_name, without or []))
    order = Order(name, wanted, source, _parse_date(as_of), python, excluded)
    errors = make_console(stderr=True)

    def accept(stand_ins: Sequence[StandIn]) -> bool:
        if accept_stand_ins or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return accept_stand_ins
        for stand_in in stand_ins:
            typer.echo(f"{stand_in}: {stand_in.reason}.", err=True)
        return typer.confirm("Are these to stand in?", err=True)

    def tell(line: str) -> None:
        if not quiet and not as_json:
            errors.print(line, style="dim", markup=False)

    made = make_toolchain(order, PackageIndexes(), accept=accept, tell=tell)
    if as_json:
        print(json.dumps(_as_dict(made), indent=1))
    elif not quiet:
        _print_made(made)


def _read_wishes(
    requirements: Sequence[Path], environment: Path | None, pins: Sequence[str]
) -> tuple[Wanted, str]:
    """Read everything that was asked for, and say where it comes from. Raises `BadInput`."""
    from runner.recipes.knowledge import load_knowledge
    from runner.recipes.reading.conda import read_environment
    from runner.recipes.reading.requirements import Wanted, read_pin, read_requirements

    knowledge = load_knowledge()
    parts = [read_requirements(path, knowledge.pythons) for path in requirements]
    sources = [path.name for path in requirements]
    if environment is not None:
        names = knowledge.data["conda-names"]
        parts.append(read_environment(environment, knowledge.pythons, names))
        sources.append(environment.name)
    if pins:
        # A pin of the command line takes the place of what the files say of the package.
        given = tuple(map(read_pin, pins))
        names = {want.name for want in given}
        parts = [
            Wanted(tuple(w for w in p.wants if w.name not in names), p.ignored, p.python)
            for p in parts
        ]
        parts.append(Wanted(given))
        sources.append("--pin")
    if not sources:
        raise BadInput(
            "Say what the toolchain is made of.",
            "--requirements requirements.txt, --environment environment.yml, or --pin "
            "torch==1.8.1 --pin onnx-tf==1.8.0 --pin tensorflow==2.5.0.",
        )
    wants = tuple(want for part in parts for want in part.wants)
    ignored = tuple(line for part in parts for line in part.ignored)
    python = next((part.python for part in parts if part.python), "")
    return Wanted(wants, ignored, python), " and ".join(sources)


def _parse_date(text: str) -> str:
    """Return the end of what exists, in the form of image.toml. Raises `BadInput`."""
    import datetime
    import re

    try:
        if text and not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            raise ValueError
        day = datetime.date.fromisoformat(text) if text else None
    except ValueError:
        raise BadInput(f"--as-of {text} is no date.", "Such as --as-of 2021-06-01.") from None
    return f"{day.isoformat()}T00:00:00Z" if day else ""


def _as_dict(made: Made) -> dict[str, object]:
    return {
        "name": made.name,
        "folder": str(made.folder),
        "as_of": made.as_of[:10],
        "toolchains": list(made.toolchains),
        "images": [
            {
                "name": image.name,
                "stages": list(made.stages[image.name]),
                "python": image.python,
                "as_of": image.as_of[:10],
                "platform": image.platform,
            }
            for image in made.images
        ],
        "taken": [dict(row) for row in made.rows],
        "ignored": [{"line": line, "reason": reason} for line, reason in made.ignored],
    }


def _print_made(made: Made) -> None:
    from runner.host.files import format_relative_path
    from runner.host.text import make_printable

    for image in made.images:
        rows = [
            {k: v for k, v in r.items() if k != "image"}
            for r in made.rows
            if r["image"] == image.name
        ]
        title = (
            f"{image.name}: {', '.join(made.stages[image.name])}; Python {image.python}, "
            f"as of {image.as_of[:10]}"
        )
        print_rows(rows, title, False)
    reasons: dict[str, list[str]] = {}
    for line, reason in made.ignored:
        reasons.setdefault(reason, []).append(line)
    for reason, lines in reasons.items():
        more = f" and {len(lines) - 12} more" if len(lines) > 12 else ""
        print(make_printable(f"Not used, {reason}: {', '.join(lines[:12])}{more}"))
    folder = format_relative_path(made.folder)
    print(make_printable(f"Written: {folder} ({', '.join(made.toolchains)})"))
    option = "--model" if made.name in made.toolchains else "--from-onnx"
    print(f"Use it: runner convert {option} MODEL --toolchain {made.name}")
    print(f"Try it: runner toolchain check {made.name}")


@toolchain_app.command("list")
def list_toolchains(as_json: Json = False) -> None:
    """List the toolchains, yours included, and where they are ready on this machine."""
    from runner.doctor import describe_images
    from runner.recipes.show import describe_toolchains
    from runner.toolchains.load import load_image, load_toolchains

    names = dict.fromkeys(name for chain in load_toolchains() for name in chain.images)
    built = {row["image"]: row["docker"] for row in describe_images([*map(load_image, names)])}
    print_rows(describe_toolchains(built), "Toolchains", as_json)


@toolchain_app.command()
def show(name: Annotated[str, typer.Argument(help="A toolchain.")], as_json: Json = False) -> None:
    """Show a toolchain's stages, environments, options, and what stands in for what is gone."""
    from runner.host.text import make_printable
    from runner.recipes import show as describe

    chains = describe.find_toolchains(name)
    if as_json:
        shown = [
            {
                "name": chain.name,
                "short": chain.short,
                "date": chain.date,
                "accepts": chain.accepts,
                "description": chain.description,
                "stages": describe.describe_stages(chain),
                "images": describe.describe_images(chain),
                "remarks": describe.list_remarks(chain),
                "file": str(chain.file),
            }
            for chain in chains
        ]
        print(json.dumps(shown, indent=1))
        return
    for chain in chains:
        print(make_printable(f"{chain.name}: {chain.description}"))
        print_rows(describe.describe_stages(chain), "Stages", False)
        print_rows(describe.describe_images(chain), "Environments", False)
        for remark in describe.list_remarks(chain):
            print(make_printable(f"- {remark}"))
        print()


@toolchain_app.command()
def check(
    name: Annotated[str, typer.Argument(help="A toolchain.")],
    engine: Engine = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert small models with a toolchain, and say which of them come out right."""
    from runner.cli.options import make_observer
    from runner.recipes.check import Result, check_toolchain
    from runner.toolchains.load import load_toolchain

    chain = load_toolchain(name, "pytorch")
    notes = make_console(stderr=True)

    def tell(result: Result) -> None:
        if not quiet and not as_json:
            notes.print(f"{result.probe.name}: {result.outcome}", style="dim", markup=False)

    observer = make_observer(as_json=True, quiet=True, verbose=False)
    results = check_toolchain(chain, engine=engine, observer=observer, tell=tell)
    if as_json or not quiet:
        print_rows([result.as_row() for result in results], f"{chain.name}, checked", as_json)
    failed = next((r for r in results if r.probe.essential and not r.passed), None)
    if failed is not None:
        raise typer.Exit(failed.exit_code)
