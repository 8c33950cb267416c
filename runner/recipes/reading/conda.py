"""Reading conda's environment.yml: its packages by PyPI's names, and those of its pip section."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from runner.errors import BadInput
from runner.recipes.reading.requirements import (
    Ignored,
    Want,
    Wanted,
    read_requirements_lines,
    read_text,
)

# `channel::name`, then a release in one of conda's forms: `=1.8`, `=1.8.1=py38_0`, `>=1.8,<2`.
_SPEC = re.compile(
    r"^(?:[\w./:-]+::)?(?P<name>[A-Za-z0-9_][\w.-]*)(?:\[.*\])?\s*(?P<release>[=<>!~ \d].*)?$"
)
_LIKE = 'Such as: dependencies: ["python=3.8", {pip: ["torch==1.8.1"]}].'


def read_environment(path: Path, pythons: Sequence[str], names: Mapping[str, str]) -> Wanted:
    """Read an environment.yml. Raises `BadInput`.

    `names` gives the names on PyPI of packages that conda calls something else.
    """
    try:
        data = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{path} is not YAML: {reason}.", _LIKE) from None
    entries = data.get("dependencies") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise BadInput(f"{path} has no list 'dependencies'.", _LIKE)
    wants: list[Want] = []
    ignored: list[Ignored] = []
    python = ""
    for entry in entries:
        if isinstance(entry, dict) and set(entry) == {"pip"} and isinstance(entry["pip"], list):
            lines = "\n".join(map(str, entry["pip"]))
            inner = read_requirements_lines(lines, path, pythons)
            wants += inner.wants
            ignored += inner.ignored
        elif isinstance(entry, str):
            found = _read_spec(entry, path, names)
            if isinstance(found, Want) and found.name == "python":
                python = next(iter(_list_pythons(found, pythons)), "")
            elif isinstance(found, Want):
                wants.append(found)
            else:
                ignored.append(found)
        else:
            raise BadInput(f"{path}: {_shorten(entry)} is no dependency.", _LIKE)
    return Wanted(tuple(wants), tuple(ignored), python)


def _read_spec(entry: str, path: Path, names: Mapping[str, str]) -> Want | Ignored:
    match = _SPEC.match(entry.strip())
    if match is None:
        raise BadInput(f"{path}: {_shorten(entry)} is no dependency.", _LIKE)
    name = canonicalize_name(match["name"])
    try:
        specifier = _convert_release((match["release"] or "").strip())
    except InvalidSpecifier:
        return Ignored(entry, "is a release in a form that only conda has")
    # A release that conda's channels have need not be on PyPI.
    return Want(names.get(name, name), specifier, entry, path.name, optional=True)


def _convert_release(text: str) -> SpecifierSet:
    """Convert a release in conda's form; `=1.8` means 1.8 and all that begin so."""
    if not text:
        return SpecifierSet()
    exact = re.fullmatch(r"(==?)?\s*([\w.!+*]+?)(\.\*)?(?:[= ]\s*\S+)?", text)
    if exact is None:
        return SpecifierSet(text.partition(" ")[0] if "," not in text else text.replace(" ", ""))
    operator, release, star = exact.groups()
    # With a build, `=1.8.1=py38_0`, the release is a whole one.
    whole = operator == "==" or "=" in text[exact.end(2) :] or release.count(".") > 1
    return SpecifierSet(f"=={release}" + ("" if whole and not star else ".*"))


def _list_pythons(want: Want, pythons: Sequence[str]) -> Iterator[str]:
    release = want.version
    for python in pythons:
        if release is not None:
            fits = python == ".".join(map(str, release.release[:2]))
        else:
            # Any of its patch releases: a range may exclude the first ones.
            fits = bool(want.specifier) and want.specifier.contains(f"{python}.99")
        if fits:
            yield python


def _shorten(entry: Any) -> str:
    return f"'{str(entry)[:80]}'"
