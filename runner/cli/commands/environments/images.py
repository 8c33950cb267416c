"""`runner images`: list the environments, build them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.lazy import make_group
from runner.cli.options import (
    Json,
    Toolchains,
    make_view,
    print_rows,
)
from runner.errors import BadInput
from runner.toolchains.load import list_image_names, load_all_images, select_images

if TYPE_CHECKING:
    from runner.cli.progress import ConsoleView
    from runner.engines.docker.base_image import BaseImage

images_app = make_group("The environments: list them, build them.")


@images_app.command("list")
def list_images(as_json: Json = False) -> None:
    """List the environments, and where they are ready on this machine."""
    from runner.doctor import describe_images

    print_rows(describe_images(load_all_images()), "Images", as_json)
    if not as_json:
        for image in load_all_images():
            for stand_in in image.stand_ins:
                print(f"{image.title}: {stand_in}: {stand_in.reason}.")


@images_app.command()
def build(
    image: Annotated[
        Optional[list[str]], typer.Argument(help="Images (default: the default toolchain's).")
    ] = None,
    toolchain: Toolchains = None,
    engine: Annotated[str, typer.Option(help="docker or process.")] = "docker",
    variant: Annotated[str, typer.Option(help="cpu, or cuda for images that have it.")] = "cpu",
) -> None:
    """Build the images (docker) or install the environments (process) ahead of time."""
    from runner.engines.select import prepare_engine

    chosen = [item for item in select_images(image, toolchain) if item.variant == variant]
    if not chosen:
        raise BadInput(f"None of these images has a variant '{variant}'.")
    with make_view() as view:
        choice = prepare_engine(engine, chosen, view)
    for item in chosen:
        record = choice.engine.environment(item)
        print(f"{item.title}: {record.identity}")


@images_app.command()
def base(
    python: Annotated[
        Optional[list[str]],
        typer.Option(help="Its Python, such as 3.8 (default: those of the images)."),
    ] = None,
    toolchain: Toolchains = None,
    lock: Annotated[
        bool, typer.Option("--lock", help="Write its packages to images/base/packages.lock.")
    ] = False,
) -> None:
    """Build the base images from Debian packages and a CPython of this machine."""
    from runner.engines.docker.base_image import lock_base

    for version in python or sorted({image.python for image in select_images(None, toolchain)}):
        with make_view() as view:
            base = _build_base(view, version)
        print(f"{base.tag}: {base.id}")
        if lock:
            print(f"packages.lock: {'written' if lock_base(base) else 'unchanged'}")


def _build_base(view: ConsoleView, python: str) -> BaseImage:
    from runner.engines.docker.base_image import build_base
    from runner.engines.docker.client import connect

    show = view.task(f"base image, Python {python}")
    built = build_base(connect(), python, lambda line: show(line, None))
    show("built", 1.0)
    return built


@images_app.command()
def sbom(
    image: Annotated[Optional[list[str]], typer.Argument(help="Images (default: all).")] = None,
    toolchain: Toolchains = None,
    output: Annotated[
        Optional[Path], typer.Option(help="A folder for IMAGE.cdx.json (default: print it).")
    ] = None,
) -> None:
    """Write what an image is made of: a bill of materials in CycloneDX 1.5."""
    from runner.engines.process.environments import is_installed, locate_environment
    from runner.host.files import write_text
    from runner.host.text import make_printable
    from runner.packages.sbom import collect_licences, make_bill_of_materials

    chosen = select_images(image, toolchain if image or toolchain else ["all"])
    if output is None and len(chosen) > 1:
        raise BadInput(
            f"These are {len(chosen)} images, each with a bill of its own.",
            "Name a folder for them: --output sbom. Or one image: "
            f"{', '.join(list_image_names())}.",
        )
    if output is not None and output.exists() and not output.is_dir():
        raise BadInput(f"{output} is no folder.", "Name a folder: --output sbom.")
    for item in chosen:
        licences = collect_licences(locate_environment(item)) if is_installed(item) else {}
        bill = make_bill_of_materials(item, licences)
        text = json.dumps(bill, indent=1) + "\n"
        if output is None:
            print(text, end="")
        else:
            write_text(output / f"{item.title}.cdx.json", text)
            print(make_printable(str(output / f"{item.title}.cdx.json")))
