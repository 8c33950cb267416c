"""`runner toolchain new`: a toolchain's files from what somebody installed.

Everything is made in a temporary folder beside the final one, and renamed in the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.errors import BadInput
from runner.host.files import make_temporary_name, remove_tree
from runner.host.text import NAME
from runner.recipes.compose import compose
from runner.recipes.files import write_files
from runner.recipes.knowledge import Knowledge, load_knowledge
from runner.recipes.locking.locker import Locker
from runner.recipes.reading.requirements import PIN, Wanted
from runner.recipes.releases import Projects, Releases
from runner.recipes.table import describe_environments, list_ignored
from runner.toolchains.load import (
    find_user_place,
    list_image_names,
    list_user_image_names,
    load_toolchains,
)
from runner.toolchains.model import Image, StandIn


@dataclass(frozen=True)
class Made:
    """A toolchain that was written: its folder and files, what was taken, and what was not."""

    name: str
    folder: Path
    as_of: str
    toolchains: tuple[str, ...]
    images: tuple[Image, ...]
    stages: Mapping[str, tuple[str, ...]]
    rows: tuple[Mapping[str, str], ...]
    ignored: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Order:
    """What `new` is asked for. `source` says where the wishes come from."""

    name: str
    wanted: Wanted
    source: str
    as_of: str = ""
    python: str = ""
    without: tuple[str, ...] = ()


def make_toolchain(
    order: Order,
    projects: Projects,
    *,
    accept: Callable[[Sequence[StandIn]], bool],
    tell: Callable[[str], None] = lambda line: None,
) -> Made:
    """Write a toolchain into the user's folder. Raises `BadInput` or `EnvironmentUnavailable`.

    `accept` is asked whether releases may stand in for those that are gone.
    """
    knowledge = load_knowledge()
    final = check_name(order.name)
    wants = [w for w in order.wanted.wants if w.name not in order.without or w.where == PIN]
    pythons = _choose_pythons(order, knowledge)
    releases = Releases(projects)
    tell("looking up the releases")
    composition = compose(wants, knowledge, releases, as_of=order.as_of, pythons=pythons)
    stand_ins = tuple(dict.fromkeys(t.stand_in for t in composition.settled if t.stand_in))
    if stand_ins and not accept(stand_ins):
        listed = "\n".join(f"- {stand_in}: {stand_in.reason}." for stand_in in stand_ins)
        raise BadInput(
            f"These pins are gone, and others would stand in for them:\n{listed}",
            "Accept that: --accept-stand-ins. For a wheel of your own, there is `convert --wheel`.",
        )
    locker = Locker(
        knowledge,
        releases,
        wants,
        as_of=composition.as_of,
        pythons=pythons,
        source=order.source,
        tell=tell,
    )
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = make_temporary_name(final)
    try:
        locked = [
            locker.lock(e, f"{order.name}-{e.end}", draft / "images" / f"{order.name}-{e.end}")
            for e in composition.environments
        ]
        files = write_files(draft, order.name, composition, locked, knowledge)
        if final.exists():
            raise _make_exists_error(final)
        draft.rename(final)
    finally:
        remove_tree(draft)
        _remove_if_empty(final.parent)
    return Made(
        order.name,
        final,
        composition.as_of,
        files,
        tuple(_move(entry.image, draft, final) for entry in locked),
        {e.image.name: tuple(s.stage["name"] for s in e.environment.steps) for e in locked},
        tuple(describe_environments(locked, wants)),
        tuple(list_ignored(order.wanted, wants, locked, knowledge)),
    )


def _move(image: Image, old: Path, new: Path) -> Image:
    folder = new / image.folder.relative_to(old)
    return replace(
        image,
        folder=folder,
        intent=folder / image.intent.name,
        lock=folder / image.lock.name,
    )


def check_name(name: str) -> Path:
    """Return the folder that a new toolchain gets. Raises `BadInput` for a name that is taken."""
    if not re.fullmatch(NAME, name, re.ASCII) or len(name) > 60:
        raise BadInput(
            f"'{name[:80]}' cannot name a toolchain.",
            "A name has letters, digits and _ . - only, and begins with a letter or a digit.",
        )
    final = find_user_place() / name
    if final.exists() or final.is_symlink():
        raise _make_exists_error(final)
    taken = {title for chain in load_toolchains() for title in (chain.name, chain.short)}
    for title in (name, f"{name}-onnx"):
        if title in taken:
            raise BadInput(f"There is a toolchain '{title}' already.", "Choose another name.")
    ends = {end for step in load_knowledge().steps for end in (step.image, step.apart) if end}
    images = {*list_image_names(), *list_user_image_names()} & {f"{name}-{end}" for end in ends}
    if images:
        raise BadInput(f"There is an image '{min(images)}' already.", "Choose another name.")
    return final


def _make_exists_error(final: Path) -> BadInput:
    return BadInput(f"{final} exists already.", "Choose another name, or remove that folder first.")


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _choose_pythons(order: Order, knowledge: Knowledge) -> tuple[str, ...]:
    """Return the Pythons to try, in order: the one that was named, or where packages came from."""
    if order.python:
        if order.python not in knowledge.pythons:
            raise BadInput(
                f"The stages do not run under Python {order.python}.",
                f"Name one of {', '.join(knowledge.pythons)}.",
            )
        return (order.python,)
    hint = [python for python in knowledge.pythons if python == order.wanted.python]
    return tuple(dict.fromkeys([*hint, *knowledge.pythons]))
