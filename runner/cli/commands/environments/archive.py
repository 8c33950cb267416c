"""`runner archive`: save a toolchain to a file, verify it, load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.errors import print_note
from runner.cli.lazy import make_group
from runner.cli.options import (
    Json,
    make_view,
    print_rows,
)
from runner.host.files import format_bytes, format_relative_path

if TYPE_CHECKING:
    from runner.archive.format import Part

archive_app = make_group("A toolchain in one file, for offline use.")

File = Annotated[Path, typer.Argument(help="The archive.", show_default=False)]
Engine = Annotated[str, typer.Option(help="For which engine: process, docker or all.")]


@archive_app.command()
def save(
    file: File,
    engine: Engine = "all",
    run: Annotated[
        Optional[list[Path]], typer.Option(help="A run folder to put in, with its record.")
    ] = None,
    toolchain: Annotated[str, typer.Option(help="Which chain of stages.")] = "",
    wheel: Annotated[
        Optional[list[str]],
        typer.Option(help="A wheel for a pin that has vanished: FILE[#sha256=HEX]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put all that a toolchain needs in one file: packages, interpreter, images, code, locks."""
    from runner.archive.saving import save as save_archive

    try:
        with make_view(stderr=True) as view:
            index = save_archive(
                file, view, engine=engine, toolchain=toolchain, wheels=wheel or (), runs=run or ()
            )
    except BaseException:
        unfinished = file.parent / f".{file.name}.part"
        if unfinished.exists():
            size = format_bytes(unfinished.stat().st_size)
            print_note(f"The same command goes on where this one stopped, after {size}.")
        raise
    totals = _sum_by_kind(index.parts)
    if as_json:
        print(json.dumps({"file": str(file), "bytes": file.stat().st_size, "totals": totals}))
        return
    _print_totals(totals, f"{format_relative_path(file)}: {format_bytes(file.stat().st_size)}")


@archive_app.command()
def verify(file: File, as_json: Json = False) -> None:
    """Check every byte of an archive; damage is named."""
    from runner.archive.loading import verify as verify_archive
    from runner.host.text import make_printable

    with make_view(stderr=True) as view:
        index = verify_archive(file, view)
    totals = _sum_by_kind(index.parts)
    if as_json:
        # Leave out the parts themselves: there are hundreds.
        print(json.dumps({**index.model_dump(exclude={"parts"}), "totals": totals}))
        return
    _print_totals(totals, f"{format_relative_path(file)}: whole")
    for environment in index.environments:
        engines = ["process"] * bool(environment.wheels) + ["docker"] * bool(environment.id)
        print(f"{environment.image}: {' and '.join(engines) or 'no engine'}")
        for stand_in in environment.stand_ins:
            print(f"  {make_printable(stand_in)}.")
    for interpreter in index.interpreters:
        needs = ", ".join(interpreter.needs)
        print(f"CPython {interpreter.version}; of the system it needs {needs}.")


@archive_app.command()
def load(
    file: File,
    engine: Engine = "all",
    run: Annotated[
        Optional[Path], typer.Option(help="A folder to restore the archive's runs into.")
    ] = None,
) -> None:
    """Make this machine ready from an archive: no network needed, now or later."""
    from runner.archive.loading import load as load_archive

    with make_view(stderr=True) as view:
        loaded = load_archive(file, view, engine=engine, runs=run)
    for name, images in loaded.serves.items():
        print(f"{name}: {', '.join(images)}")
    for wheel in loaded.own_wheels:
        print(f"own wheel: --wheel {wheel}")
    for folder in loaded.runs:
        print(f"run: {format_relative_path(folder)}")
    for note in loaded.notes:
        print(f"note: {note}")


def _sum_by_kind(parts: Sequence[Part]) -> list[dict[str, str | int]]:
    """Count the parts of each kind, the bytes of their content, and their bytes in the file."""
    kinds = dict.fromkeys(part.kind for part in parts)
    return [
        {
            "kind": kind,
            "parts": sum(part.kind == kind for part in parts),
            "content_bytes": sum(part.size for part in parts if part.kind == kind),
            "stored_bytes": sum(part.stored_size for part in parts if part.kind == kind),
        }
        for kind in kinds
    ]


def _print_totals(totals: list[dict[str, str | int]], title: str) -> None:
    rows = [
        {
            "kind": str(total["kind"]),
            "parts": str(total["parts"]),
            "content": format_bytes(float(total["content_bytes"])),
            "stored": format_bytes(float(total["stored_bytes"])),
        }
        for total in totals
    ]
    print_rows(rows, title, False)
