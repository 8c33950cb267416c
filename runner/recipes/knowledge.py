"""What is known of the packages that people convert with, read from stages/recipes.toml.

It is data: which package starts which stage, what its releases want beside them, and what they
read. Nothing here knows their names.
"""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from runner.host.compat import tomllib
from runner.host.paths import ROOT


@dataclass(frozen=True)
class Build:
    """Names under which one tool is published; `take` are those to install, the best first.

    Where a development build was deleted, the release of its number stands in, of the first package
    in `stand_in` that has it; `deleted` says why.
    """

    of: str
    names: tuple[str, ...]
    take: tuple[str, ...]
    reason: str = ""
    stand_in: tuple[str, ...] = ()
    deleted: str = ""


@dataclass(frozen=True)
class Step:
    """What a tool does: it `takes` one kind of model and `makes` another.

    Of the same environment are the packages in `needs`, and those of `also` that are asked for.
    `image` ends its folder's name, or `apart` does where several builds of the tool are wanted;
    `shares` is the image that it uses instead if there is one. With `always` it can be taken
    whether or not its tool is asked for.
    """

    tool: str
    takes: str
    makes: str
    image: str
    stage: Mapping[str, Any]
    releases: SpecifierSet = field(default_factory=SpecifierSet)
    always: bool = False
    apart: str = ""
    shares: str = ""
    needs: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def takes_release(self, version: Version | None) -> bool:
        """Tell whether it is the step of this release; None is one that is not known yet."""
        return version is None or self.releases.contains(version, prereleases=True)


@dataclass(frozen=True)
class NamedIndex:
    """An index besides the main one, and which packages of which tool's releases it is for."""

    name: str
    what: str
    packages: tuple[str, ...]
    of: str
    local: str
    releases: SpecifierSet


@dataclass(frozen=True)
class Knowledge:
    """The contents of recipes.toml."""

    data: Mapping[str, Any]
    steps: tuple[Step, ...]
    builds: tuple[Build, ...]
    indexes: tuple[NamedIndex, ...]

    @property
    def pythons(self) -> tuple[str, ...]:
        return tuple(self.data["pythons"])

    @property
    def margin(self) -> datetime.timedelta:
        return datetime.timedelta(days=self.data["margin-days"])

    @property
    def tools(self) -> frozenset[str]:
        """The packages that steps are about, or that they name, by their canonical names."""
        named = {name for step in self.steps for name in (step.tool, *step.needs, *step.also)}
        beside = {Requirement(text).name for e in self.data["beside"] for text in e["wants"]}
        return frozenset(map(canonicalize_name, named | beside))

    @property
    def main_tools(self) -> frozenset[str]:
        """The packages that start stages, in each of their builds."""
        tools = {step.tool for step in self.steps}
        return frozenset(tools | {n for b in self.builds if b.of in tools for n in b.names})

    def find_build(self, name: str) -> Build | None:
        return next((build for build in self.builds if name in build.names), None)

    def get_family(self, name: str) -> str:
        """Return the tool that a package is a build of: itself, for most."""
        build = self.find_build(name)
        return build.of if build else name

    def is_for_gpu(self, name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in self.data["gpu-packages"])

    def list_beside(self, tool: str, version: Version) -> Iterator[tuple[Requirement, bool]]:
        """Yield what a release wants, and whether that is a package to add, or a limit alone."""
        for entry in self.data["beside"]:
            if entry["of"] == tool and _contains(entry["releases"], version):
                for text in entry["wants"]:
                    yield Requirement(text), entry.get("add", False)

    def find_opset(self, tool: str, version: Version) -> int | None:
        """Return the newest operator set that a release writes or reads, if that is known."""
        table: Mapping[str, int] = self.data["opset"].get(tool, {})
        return next((opset for r, opset in table.items() if _contains(r, version)), None)

    def list_reads(self, tool: str, version: Version) -> Iterator[Mapping[str, Any]]:
        """Yield what a release's loader reads, as image.toml says it, with its format."""
        for entry in self.data["reads"]:
            if entry["of"] == tool and _contains(entry["releases"], version):
                kept = {k: v for k, v in entry.items() if k not in ("of", "releases")}
                kept["reason"] = kept["reason"].replace("{release}", version.public)
                yield kept

    def choose_platform(self, as_of: str) -> str:
        found = [entry["name"] for entry in self.data["platform"] if entry["since"] <= as_of]
        return str(found[-1] if found else self.data["platform"][0]["name"])


@cache
def load_knowledge(root: Path = ROOT) -> Knowledge:
    """Read recipes.toml."""
    data = tomllib.loads((root / "stages" / "recipes.toml").read_text(encoding="utf-8"))
    return Knowledge(
        data,
        tuple(Step(**_convert(entry)) for entry in data["step"]),
        tuple(Build(**_convert(entry)) for entry in data["build"]),
        tuple(NamedIndex(**_convert(entry)) for entry in data["index"]),
    )


def _convert(entry: Mapping[str, Any]) -> dict[str, Any]:
    converted: dict[str, Any] = {
        key.replace("-", "_"): tuple(value) if isinstance(value, list) else value
        for key, value in entry.items()
    }
    if "releases" in converted:
        converted["releases"] = SpecifierSet(converted["releases"])
    return converted


def _contains(releases: str, version: Version) -> bool:
    return SpecifierSet(releases).contains(version, prereleases=True)
