"""`runner lock`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.options import Json, Toolchains
from runner.errors import BadInput, EnvironmentUnavailable, UsageError
from runner.host.paths import ROOT

if TYPE_CHECKING:
    from runner.packages.audit import Finding

_AT_ONCE = 4


def lock(
    image: Annotated[Optional[list[str]], typer.Argument(help="Images (default: all).")] = None,
    toolchain: Toolchains = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a lock is stale.")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Write nothing; tell where each pin can be had.")
    ] = False,
    archive: Annotated[
        Optional[Path], typer.Option(help="With --audit: an archive that may have it.")
    ] = None,
    wheel: Annotated[
        Optional[list[str]],
        typer.Option(help="With --audit: a wheel for a pin that has vanished."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Resolve the images' intents, and the runner's own, as of their dates; write the locks."""
    if audit:
        if check:
            raise UsageError("--check and --audit are two questions.", "Ask one at a time.")
        _audit(image, toolchain, archive, wheel or [], as_json)
        return
    if archive or wheel or as_json:
        raise UsageError("--archive, --wheel and --json go with --audit.")
    from runner.packages import resolver
    from runner.toolchains.load import select_images

    every = not image and not toolchain
    wanted: list[tuple[str, Path, Callable[[], str]]] = [
        (item.title, item.lock, partial(resolver.resolve, item))
        for item in select_images(image, ["all"] if every else toolchain)
    ]
    if every and (ROOT / "pyproject.toml").exists():
        wanted.append(("runner", ROOT / "requirements.lock", resolver.resolve_own))
    stale = []
    # Resolving is mostly waiting for the index.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        texts = list(pool.map(lambda item: item[2](), wanted))
    for (title, path, _), text in zip(wanted, texts, strict=True):
        if not check:
            print(f"{title}: {'written' if resolver.write(path, text) else 'unchanged'}")
        elif difference := resolver.diff_lock(path, text):
            stale.append(title)
            print(difference)
        else:
            print(f"{title}: current")
    if stale:
        raise BadInput(f"Stale locks: {', '.join(stale)}.", "Write them: runner lock.")


def _audit(
    names: list[str] | None,
    toolchains: list[str] | None,
    archive: Path | None,
    wheels: list[str],
    as_json: bool,
) -> None:
    """Print the audit's findings; raise an error that names the pins that nobody has."""
    from runner.archive.reader import Archive
    from runner.packages.audit import audit_pins
    from runner.packages.user_wheel import accept_wheel
    from runner.toolchains.load import select_images
    from runner.toolchains.model import add_wheels

    every = not names and not toolchains
    images = select_images(names, ["all"] if every else toolchains)
    accepted = tuple(accept_wheel(wheel, images) for wheel in wheels)
    images = [add_wheels(image, accepted) for image in images]
    with Archive(archive) if archive else nullcontext() as opened:
        findings = audit_pins(images, own=every, archive=opened)
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=1))
    else:
        for lock in dict.fromkeys(finding.lock for finding in findings):
            _print_lock(lock, [finding for finding in findings if finding.lock == lock])
    lost = [f"- {f.lock}: {f.pin}: {f.detail}" for f in findings if f.level == "error"]
    if lost:
        silent = any(finding.status == "unknown" for finding in findings)
        raise EnvironmentUnavailable(
            "These pins cannot be had from here:\n" + "\n".join(lost),
            "Check the network and the package index, then ask again."
            if silent
            else "Name a stand-in with its reason in image.toml, or give an --archive or a --wheel "
            "that has it.",
        )


def _print_lock(lock: str, findings: list[Finding]) -> None:
    """Print how many pins of a lock each source has, and every pin that is not just available."""
    counts = Counter(source for finding in findings for source in finding.sources)
    places = ", ".join(f"{count} from {source}" for source, count in counts.items()) or "none"
    print(f"{lock}: {len(findings)} pins; {places}")
    for finding in findings:
        # The error that follows names the pins that nobody has.
        if finding.level != "error" and (finding.status != "available" or finding.detail):
            where = f" ({', '.join(finding.sources)})" if finding.sources else ""
            print(f"  {finding.pin}: {finding.status}{where}: {finding.detail}")
