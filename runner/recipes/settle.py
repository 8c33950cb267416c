"""The release of each tool: as it was asked for, as of the date, or what stands in for it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from runner.errors import BadInput, EnvironmentUnavailable
from runner.recipes.knowledge import Build, Knowledge, NamedIndex
from runner.recipes.reading.requirements import Want
from runner.recipes.releases import Release, Releases, add_days
from runner.toolchains.model import StandIn

# A stand-in's own requirements were published with it, or soon after.
_AFTER_STAND_IN = datetime.timedelta(days=3)
_PLAIN_BUILD = "nothing here runs on a GPU; it is the index's own build of the same release"


@dataclass(frozen=True)
class Settled:
    """A tool and the release that the environment gets.

    `pin` is the line of the intent; where that release is gone, `stand_in` says what is installed
    in its place. `reason` says why it is not what was asked for. `index` is where it lies, if that
    is not the main one.
    """

    want: Want
    family: str
    release: Release
    reason: str = ""
    stand_in: StandIn | None = None
    index: NamedIndex | None = None

    @property
    def version(self) -> Version:
        return self.release.version

    @property
    def title(self) -> str:
        return f"{self.family} {self.version.public}"

    @property
    def pin(self) -> str:
        return self.stand_in.pin if self.stand_in else str(self.release)

    @property
    def needs_date(self) -> str:
        """The date that the environment needs at least, in the form of image.toml; '' if any."""
        if self.stand_in is None or not self.release.uploaded:
            return ""
        return add_days(self.release.uploaded, _AFTER_STAND_IN)

    @cached_property
    def note(self) -> str:
        """Why it is taken, in a few words."""
        if self.stand_in:
            return f"stands in: {self.stand_in.reason}"
        if self.reason:
            return self.reason
        if self.want.version is not None:
            return "as pinned"
        published = f", published {self.release.day}" if self.release.day else ""
        return f"the newest that fits{published}"


class Settler:
    """Finds releases under the date, the Pythons and the wishes of one command."""

    def __init__(
        self, knowledge: Knowledge, releases: Releases, pythons: Sequence[str], as_of: str
    ) -> None:
        self._knowledge = knowledge
        self._releases = releases
        self._pythons = pythons
        self.as_of = as_of

    def settle(self, want: Want, within: SpecifierSet, wanted: frozenset[str]) -> Settled:
        """Find the release for a package.

        `within` narrows down one that is not pinned; `wanted` are all packages that are asked for.
        Raises `BadInput` or `EnvironmentUnavailable`.
        """
        build = self._knowledge.find_build(want.name) or Build(
            want.name, (), (want.name,), _PLAIN_BUILD
        )
        self._releases.fetch(build.take)
        pinned = want.version
        if pinned is None:
            return self._settle_newest(want, build, within, wanted)
        public = Version(pinned.public)
        for name in build.take:
            found = self._releases.find(name, public)
            if found is not None and self._is_usable(found):
                index = self._find_index(found, wanted, self._releases)
                if index is not None:
                    return self._settle_on_index(want, build, found, index)
                same = name == want.name and not pinned.local and not _extras(want)
                self._check_date(want, found)
                return Settled(want, build.of, found, "" if same else build.reason)
        if pinned.is_devrelease and build.stand_in:
            return self._settle_stand_in(want, build, public)
        raise self._make_gone_error(want, build, public)

    def _is_usable(self, release: Release) -> bool:
        platforms = [entry["name"] for entry in self._knowledge.data["platform"]]
        return any(release.installs(p, platform) for p in self._pythons for platform in platforms)

    def _settle_newest(
        self, want: Want, build: Build, within: SpecifierSet, wanted: frozenset[str]
    ) -> Settled:
        if build.stand_in and not set(build.stand_in) & set(build.take):
            raise BadInput(
                f"{want.text} names a development build and no release of it.",
                f"Pin one, or a release: --pin {build.of}==VERSION.",
            )
        platforms = [entry["name"] for entry in self._knowledge.data["platform"]]
        usable = [(python, platform) for python in self._pythons for platform in platforms]
        for specifier in dict.fromkeys((want.specifier & within, want.specifier)):
            for name in build.take:
                found = self._releases.find_newest(name, specifier, self.as_of, usable=usable)
                if found is None:
                    continue
                index = self._find_index(found, wanted, self._releases)
                if index is not None:
                    return self._settle_on_index(want, build, found, index)
                reason = "" if name == want.name else build.reason
                published = f", published {found.day}" if found.day else ""
                newest = f"the newest as of the date{published}"
                return Settled(want, build.of, found, f"{newest}; {reason}".rstrip("; "))
        raise EnvironmentUnavailable(
            f"No release of {want.name} fits '{want.text}'"
            + (f" as of {self.as_of[:10]}." if self.as_of else "."),
            self._explain_problem(want.name) or "Name a later date with --as-of, or pin a release.",
        )

    def _find_index(
        self, release: Release, wanted: frozenset[str], releases: Releases
    ) -> NamedIndex | None:
        """Find the further index that has a release, and all of its packages that are wanted."""
        for index in self._knowledge.indexes:
            if index.of != release.name or not index.releases.contains(release.version):
                continue
            needed = [name for name in index.packages if name in wanted or name == index.of]
            has_all = all(
                any(v.local == index.local for v in releases.list_all(name)) for name in needed
            )
            local = Version(f"{release.version.public}+{index.local}")
            found = releases.find(release.name, local)
            if has_all and found is not None and self._is_usable(found):
                return index
        return None

    def _settle_on_index(
        self, want: Want, build: Build, release: Release, index: NamedIndex
    ) -> Settled:
        local = Version(f"{release.version.public}+{index.local}")
        found = self._releases.find(release.name, local)
        assert found is not None
        self._check_date(want, release)
        return Settled(want, build.of, found, f"from {index.what}", index=index)

    def _check_date(self, want: Want, release: Release) -> None:
        if self.as_of and release.uploaded and release.uploaded >= self.as_of:
            later = add_days(release.uploaded, datetime.timedelta(days=1))[:10]
            raise BadInput(
                f"{want.text} ({want.where}) was published on {release.day}, and --as-of "
                f"{self.as_of[:10]} is before that.",
                f"Name a later date, --as-of {later}, or leave it out; or pin an older release.",
            )

    def _settle_stand_in(self, want: Want, build: Build, gone: Version) -> Settled:
        wanted = Version(gone.base_version)
        for name in build.stand_in:
            found = self._releases.find(name, wanted)
            if found is not None and self._is_usable(found):
                reason = build.deleted.format(
                    year=_find_year(gone, found), version=wanted, date=found.day or "a later day"
                )
                # Without what names a machine's build (+cu111), as a lock would pin it.
                stand_in = StandIn(f"{want.name}=={gone}", str(found), reason)
                return Settled(want, build.of, found, stand_in=stand_in)
        raise self._make_gone_error(want, build, gone)

    def _make_gone_error(
        self, want: Want, build: Build, version: Version
    ) -> EnvironmentUnavailable | BadInput:
        problem = self._explain_problem(build.take[0])
        if problem:
            return EnvironmentUnavailable(
                f"The releases of {build.take[0]} could not be listed: {problem}.",
                "Check the network and the package index (PIP_INDEX_URL, SSL_CERT_FILE).",
            )
        there = self._releases.find(build.take[-1], version)
        if there is not None:
            return self._make_python_error(want, there)
        known = [v for name in build.take for v in self._releases.list_all(name)]
        final = {v for v in known if not v.is_prerelease and not v.local}
        # The newest of the same series first, then those around it.
        near = sorted(final, reverse=True)
        near.sort(key=lambda v: v.release[:2] != version.release[:2])
        hint = ", ".join(map(str, near[:4]))
        return EnvironmentUnavailable(
            f"{want.text} ({want.where}) is on no index that pip is set up for.",
            f"Releases that are: {hint}. Such as: --pin {build.take[0]}=={near[0]}."
            if near
            else f"Leave it out: --without {want.name}.",
        )

    def _make_python_error(self, want: Want, release: Release) -> EnvironmentUnavailable:
        """Explain that none of the Pythons runs a release; name those that do."""
        platforms = [entry["name"] for entry in self._knowledge.data["platform"]]
        pythons = [
            python
            for python in self._knowledge.pythons
            if any(release.installs(python, platform) for platform in platforms)
        ]
        tried = ", ".join(self._pythons)
        return EnvironmentUnavailable(
            f"{want.text} ({want.where}) has no files for x86-64 Linux and Python {tried}.",
            f"It has some for Python {', '.join(pythons)}: --python {pythons[0]}."
            if pythons
            else "Pin another release.",
        )

    def _explain_problem(self, name: str) -> str:
        return self._releases.problems.get(name, "")


def _extras(want: Want) -> bool:
    return "[" in want.text.partition("=")[0]


def _find_year(gone: Version, release: Release) -> str:
    """Return the year of a nightly, whose number is a date, or else that of the release."""
    number = str(gone.dev or "")
    return number[:4] if len(number) == 8 else release.day[:4]
