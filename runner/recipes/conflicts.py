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
_ABSENT = re.compile(r"there (?:is|are) no versions? of (?P<what>[^\s,]+)")
_UNKNOWN = re.compile(r"Because (?P<what>[A-Za-z0-9][\w.-]*) was not found in the package registry")
_UNUSABLE = re.compile(r"(?P<what>[A-Za-z0-9][\w.-]*[=<>!~][^\s,]+) has no usable wheels")


@dataclass(frozen=True)
class Conflict:
    """What excludes what: `one` needs `between`, and `other` is a line that does not allow it."""

    one: str
    between: str
    other: str

    def __str__(self) -> str:
        return f"{self.one} needs {self.between}, and {self.other} excludes it"


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
        package = canonicalize_name(re.split(r"[\[=<>!~]", between)[0])
        who = match["who"]
        asker = canonicalize_name(re.split(r"[=<>!~]", who)[0])
        if package in asked and asker != package and not _agree(between, asked[package]):
            return Conflict(asked.get(asker, who), between, asked[package])
    return None


def find_absent(message: str) -> str:
    """Return the requirement that no index has, by uv's explanation; '' if it is not that."""
    text = _unwrap(message)
    found = _UNKNOWN.search(text) or _UNUSABLE.search(text) or _ABSENT.search(text)
    return found["what"].rstrip(".,") if found else ""


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
