"""`runner lock`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from runner.commands.common import selected
from runner.errors import RunnerError
from runner.toolchain import ROOT


def lock(
    image: Annotated[Optional[list[str]], typer.Argument(help="Images (default: all).")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a lock is stale.")
    ] = False,
) -> None:
    """Resolve the images' intents, and the runner's own, as of their dates; write the locks."""
    from runner import locks

    wanted: list[tuple[str, Path, Callable[[], str]]] = [
        (item.title, item.lock, partial(locks.resolve, item)) for item in selected(image)
    ]
    if not image and (ROOT / "pyproject.toml").exists():
        wanted.append(("runner", ROOT / "requirements.lock", locks.resolve_own))
    stale = []
    for title, path, resolve in wanted:
        text = resolve()
        if not check:
            print(f"{title}: {'written' if locks.write(path, text) else 'unchanged'}")
        elif difference := locks.difference(path, text):
            stale.append(title)
            print(difference)
        else:
            print(f"{title}: current")
    if stale:
        raise RunnerError(f"Stale locks: {', '.join(stale)}.", "Write them: runner lock.")
