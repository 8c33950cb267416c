"""Why a resolver found no solution, in one sentence: the two that exclude each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

# `Because A depends on B>=1,<2 and ...`, in uv's words, on one line.
_DEPENDS = re.compile(
    r"(?P<who>[A-Za-z0-9][\w.-]*[^\s,]*) depends on (?P<what>[A-Za-z0-9][\w.\[\]-]*[^\s]*)"
)
_ABSENCES = (
    (
        re.compile(r"Because (?P<what>[A-Za-z0-9][\w.-]*) was not found in the package registry"),
        "{} is on no index that pip is set up for",
    ),
    (
        re.compile(r"(?P<what>[A-Za-z0-9][\w.-]*[=<>!~][^\s,]+) has no (?:usable )?wheels"),
        "{} has no file for it",
    ),
    (
        re.compile(r"there (?:is|are) no versions? of (?P<what>[^\s]+)"),
        "there is no {}",
    ),
    (
        re.compile(r"only (?P<what>[A-Za-z0-9][\w.-]*[=<>!~][^\s]+) (?:is|are) available"),
        "there is only {}",
    ),
)


@dataclass(frozen=True)
class Conflict:
    """What excludes what: `one` needs `between`, and `other` is a line that does not allow it."""

    one: str
    between: str
    other: str

    def __str__(self) -> str:
        return f"{self.one} needs {self.between}, and {self.other} excludes it"


@dataclass(frozen=True)
class Absence:
    """A package that is not there as required, and what to say of it."""

    name: str
    words: str

    def __str__(self) -> str:
        return self.words


def find_conflict(message: str, lines: Iterable[str]) -> Conflict | None:
    """Find the two lines that exclude each other in uv's explanation; None if it names none.

    `lines` are the requirements and constraints that it was given.
    """
    text = _unwrap(message)
    asked: dict[str, str] = {}
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.specifier:
            asked.setdefault(canonicalize_name(requirement.name), line)
    for match in _DEPENDS.finditer(text):
        between = match["what"].rstrip(".,")
        package = _split(between)
        who = match["who"]
        asker = _split(who)
        if package in asked and asker != package and not _agree(between, asked[package]):
            return Conflict(asked.get(asker, who), between, asked[package])
    return None


def find_absent(message: str) -> Absence | None:
    """Find the requirement that no index fulfils, in uv's explanation; None if it is not that."""
    text = _unwrap(message)
    for pattern, words in _ABSENCES:
        found = pattern.search(text)
        if found is not None:
            what = found["what"].rstrip(".,")
            return Absence(_split(what), words.format(what))
    return None


def _split(requirement: str) -> str:
    """Return the name in a requirement."""
    return canonicalize_name(re.split(r"[\[=<>!~]", requirement)[0])


def _agree(between: str, other: str) -> bool:
    """Tell whether a pin is allowed by what another package needs."""
    try:
        needed, asked = Requirement(between), Requirement(other)
    except InvalidRequirement:
        return True
    pins = [s.version for s in asked.specifier if s.operator == "=="]
    return all(needed.specifier.contains(pin, prereleases=True) for pin in pins) and bool(pins)


def _unwrap(message: str) -> str:
    """Return uv's explanation as one line: it wraps lines at the terminal's width."""
    _, mark, rest = message.partition("╰─▶")
    return " ".join((rest if mark else message).split())
