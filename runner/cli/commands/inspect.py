"""`runner inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli.options import (
    Arch,
    ArchArgs,
    Json,
    Limit,
    Timeout,
    TrustModel,
    make_console,
    make_view,
    parse_json_object,
)
from runner.engines.limits import parse_limits
from runner.engines.select import ENGINES
from runner.errors import BadInput


def inspect(
    file: Annotated[Path, typer.Argument(help="A model's file, or a SavedModel's folder.")],
    summary: Annotated[
        bool, typer.Option("--summary", help="Read the file's bytes alone: no environment.")
    ] = False,
    arch: Arch = "",
    arch_args: ArchArgs = "",
    engine: Annotated[
        str, typer.Option(help=f"{', '.join(ENGINES)}; auto installs nothing.")
    ] = "auto",
    trust_model: TrustModel = False,
    timeout: Timeout = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Say what a file is, who wrote it, what is in it, and whether it can be converted."""
    # Imported late: a summary does not need what an engine imports.
    from runner.cli.inspection import render_inspection
    from runner.planning.source import Source, apply_arch, summarize

    if engine not in ENGINES:
        raise BadInput(f"There is no engine '{engine}'.", f"Engines: {', '.join(ENGINES)}.")
    arguments = parse_json_object(arch_args, "--arch-args")
    found = summarize(file)
    apply_arch(found, arch)
    if summary:
        found.not_loaded = "--summary was asked for, so that this was read from the file alone"
    else:
        from runner.conversion.inspect import load
        from runner.conversion.settings import RunSettings

        with make_view(stderr=True) as view:
            settings = RunSettings(
                engine=engine,
                trust_model=trust_model,
                limits=parse_limits(limit or (), timeout),
                observer=view,
            )
            load(found, Source(file, arch, arguments), settings)
    if as_json:
        print(found.to_json(), end="")
    else:
        make_console().print(render_inspection(found))
