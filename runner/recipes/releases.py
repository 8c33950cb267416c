"""The releases of packages: when each was published, and under which Pythons it installs."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.version import Version

from runner.packages.index import IndexFile, Listing
from runner.packages.lockfile import choose_file, list_stage_tags, parse_release

_AT_ONCE = 8


class Projects(Protocol):
    """What lists the files of projects: the user's package indexes."""

    def list_project(self, name: str) -> Listing:
        """List the files of all releases of a project. Raises nothing."""


@dataclass(frozen=True)
class Release:
    """A release of a package. `uploaded` is when, in ISO 8601; '' where no index says it."""

    name: str
    version: Version
    files: tuple[IndexFile, ...]
    uploaded: str = ""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def day(self) -> str:
        return self.uploaded[:10]

    @property
    def yanked(self) -> bool:
        return all(file.yanked for file in self.files)

    def installs(self, python: str, platform: str) -> bool:
        """Tell whether an installer finds a file for a Python that needs no compiler.

        A release that has wheels for some Linux has to have one that fits; of others it is assumed
        that their sources build without a compiler.
        """
        chosen = self._choose(python, platform)
        if chosen is None or chosen.name.endswith(".whl"):
            return chosen is not None
        return not any(_is_for_linux(file) for file in self.files)

    def is_source(self, python: str, platform: str) -> bool:
        """Tell whether an installer would take the sources."""
        chosen = self._choose(python, platform)
        return chosen is not None and not chosen.name.endswith(".whl")

    def _choose(self, python: str, platform: str) -> IndexFile | None:
        fits = [file for file in self.files if _takes_python(file, python)]
        return choose_file(fits, _list_tags(python, platform))


class Releases:
    """The releases that the user's package indexes have, each project asked for once."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects
        self._known: dict[str, Mapping[Version, Release]] = {}
        self.problems: dict[str, str] = {}

    def fetch(self, names: Iterable[str]) -> None:
        """Ask for several projects at once."""
        missing = [name for name in dict.fromkeys(names) if name not in self._known]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for name, listing in zip(
                missing, pool.map(self._projects.list_project, missing), strict=True
            ):
                self._known[name] = _group(name, listing.files)
                if listing.problems and not listing.files:
                    self.problems[name] = "; ".join(listing.problems)

    def list_all(self, name: str) -> Mapping[Version, Release]:
        """Return the releases of a project by version, with their files; {} if it is not there."""
        self.fetch([name])
        return self._known[name]

    def find(self, name: str, version: Version) -> Release | None:
        return self.list_all(name).get(version)

    def find_newest(
        self, name: str, specifier: SpecifierSet, as_of: str, *, usable: Sequence[tuple[str, str]]
    ) -> Release | None:
        """Find the newest final release as of a date that installs under one of these Pythons.

        `usable` are pairs of a Python and a platform; an empty `as_of` is no limit.
        """
        for version, release in sorted(self.list_all(name).items(), reverse=True):
            if version.is_prerelease or version.local or release.yanked:
                continue
            if not specifier.contains(version) or (as_of and release.uploaded >= as_of):
                continue
            if any(release.installs(python, platform) for python, platform in usable):
                return release
        return None


def _group(name: str, files: Iterable[IndexFile]) -> Mapping[Version, Release]:
    grouped: dict[Version, list[IndexFile]] = {}
    for file in files:
        found = parse_release(file.name)
        if found is not None:
            grouped.setdefault(found[1], []).append(file)
    return {
        version: Release(
            name, version, tuple(of), min((f.uploaded for f in of if f.uploaded), default="")
        )
        for version, of in grouped.items()
    }


@functools.cache
def _list_tags(python: str, platform: str) -> list[Tag]:
    return list_stage_tags(python, platform)


def _is_for_linux(file: IndexFile) -> bool:
    return file.name.endswith(".whl") and "linux" in file.name


def _takes_python(file: IndexFile, python: str) -> bool:
    try:
        # Some releases exclude the first patch releases of a Python.
        return not file.requires_python or SpecifierSet(file.requires_python).contains(
            f"{python}.99"
        )
    except InvalidSpecifier:
        return True


def add_days(moment: str, days: datetime.timedelta) -> str:
    """Return the day so long after a moment, as image.toml has it: an end that is excluded."""
    day = datetime.date.fromisoformat(moment[:10]) + days
    return f"{day.isoformat()}T00:00:00Z"
