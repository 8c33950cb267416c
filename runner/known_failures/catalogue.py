"""The entries of the catalogue, read from `data/*.toml` and validated."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from runner.host.compat import tomllib

if sys.version_info >= (3, 11):
    from re import _parser as parser  # type: ignore[attr-defined]
else:
    import sre_parse as parser

DATA = Path(__file__).resolve().parent / "data"
# A repeat that can match more characters than this makes a search quadratic: one of them is
# harmless in lines of bounded length, two are not.
_LONG = 100


class Entry(BaseModel):
    """One known failure.

    It is recognised where any of `patterns` (regular expressions, searched line by line) is found,
    and `also` too if given, in one of `stages` ('setup' is what precedes the first stage; none
    means anywhere), and in one of `images` if given: each tool has failures of its own.
    `exit_status` and `verdict` are conditions beside or instead of patterns: how
    the stage's process ended, and what its check said. `example` is what the tool prints, so that
    people who search for it find it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    example: str = Field(min_length=10, max_length=300)
    patterns: tuple[str, ...] = ()
    also: str = ""
    stages: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    exit_status: tuple[int, ...] = ()
    verdict: Literal["", "shape", "nonfinite"] = ""
    cause: str = Field(min_length=20)
    remedy: str = Field(min_length=20)
    source: str = Field(pattern=r"^https://\S+$")
    # The name of the fix that handles it; 'all' if it takes several, '' if none does.
    fix: str = ""

    @field_validator("patterns")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            check_bounded(pattern)
        return patterns

    @field_validator("also")
    @classmethod
    def _check_also(cls, pattern: str) -> str:
        check_bounded(pattern)
        return pattern


class _File(BaseModel):
    """A file of entries; `images` holds for those that name none themselves."""

    model_config = ConfigDict(extra="forbid")
    images: tuple[str, ...] = ()
    failure: list[Entry]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(
            entry.model_copy(update={"images": entry.images or self.images})
            for entry in self.failure
        )


def load_families(folder: Path = DATA) -> list[tuple[str, tuple[Entry, ...]]]:
    """Read the entries of each file, paired with the file's stem, in order.

    Raises pydantic's `ValidationError` for a malformed entry, and `ValueError` for a duplicate id
    or an entry that would match everything.
    """
    families = [
        (path.stem, _File.model_validate(tomllib.loads(path.read_text())).entries)
        for path in sorted(folder.glob("*.toml"))
    ]
    seen: set[str] = set()
    for entry in (entry for _, entries in families for entry in entries):
        if entry.id in seen:
            raise ValueError(f"two known failures are called '{entry.id}'")
        if not (entry.patterns or entry.exit_status or entry.verdict):
            raise ValueError(f"the known failure '{entry.id}' has neither pattern nor condition")
        seen.add(entry.id)
    return families


@functools.cache
def load_catalogue(folder: Path = DATA) -> tuple[Entry, ...]:
    """Return all entries, in the order in which they are tried. Raises as `load_families` does."""
    return tuple(entry for _, entries in load_families(folder) for entry in entries)


def check_bounded(pattern: str) -> None:
    """Raise `ValueError` for a pattern whose search can take more than quadratic time.

    It may have one long repeat at most, no repeat inside a repeat and no back reference, since the
    text of a failed stage may be anything.
    """
    long = _count_long_repeats(parser.parse(pattern), inside=False)
    if long > 1:
        raise ValueError(f"{pattern!r} has {long} repeats without a small bound; one is allowed")


def _count_long_repeats(parsed: Any, inside: bool) -> int:
    count = 0
    for operation, argument in parsed:
        name = str(operation)
        if "REPEAT" in name:
            _, most, body = argument
            if inside and most > 1:
                raise ValueError("a repeat inside a repeat can take exponential time")
            count += most > _LONG
            count += _count_long_repeats(body, inside or most > 1)
        elif name == "SUBPATTERN":
            count += _count_long_repeats(argument[-1], inside)
        elif name == "BRANCH":
            count += max(_count_long_repeats(branch, inside) for branch in argument[1])
        elif name in ("ASSERT", "ASSERT_NOT"):
            count += _count_long_repeats(argument[1], inside)
        elif name == "GROUPREF":
            raise ValueError("a back reference can take exponential time")
    return count
