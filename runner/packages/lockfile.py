"""The pins of a lock, and the choice of a release's file for an environment."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from packaging import tags
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    NormalizedName,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

# The manylinux names from before PEP 600 put glibc's version into them, by its minor number.
_OLDER_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"^ +# via (.+)$", re.MULTILINE)


class Named(Protocol):
    """Anything with a file name, such as a file of an index."""

    @property
    def name(self) -> str: ...


_File = TypeVar("_File", bound=Named)


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock.

    `hashes` are those of every file of the release, `via` names the packages that require it, and
    `text` is its entry in the lock.
    """

    name: NormalizedName
    version: Version
    hashes: tuple[str, ...]
    marker: str = ""
    via: tuple[NormalizedName, ...] = ()
    text: str = ""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def parse_lock(text: str) -> list[Pin]:
    """Parse the pins of a lock, except the user's own wheels, which are given by URL."""
    pins = []
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        line = block.partition("\n")[0].rstrip(" \\")
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line.partition(" --hash")[0])
        versions = [s.version for s in requirement.specifier if s.operator == "=="]
        if requirement.url or len(versions) != 1:
            continue
        marker = str(requirement.marker) if requirement.marker else ""
        via = _VIA.search(block)
        pins.append(
            Pin(
                canonicalize_name(requirement.name),
                Version(versions[0]),
                tuple(_HASH.findall(block)),
                marker,
                tuple(canonicalize_name(name.strip()) for name in via[1].split(",")) if via else (),
                block,
            )
        )
    return pins


def compare_locks(old: str, new: str) -> list[str]:
    """List what differs between two locks: other releases, what came, what went, each by name."""
    before, after = ({p.name: p.version for p in parse_lock(text)} for text in (old, new))
    changes = []
    for name in sorted(before.keys() | after.keys()):
        versions = [str(lock[name]) if name in lock else "none" for lock in (before, after)]
        if versions[0] != versions[1]:
            changes.append(f"{name} {versions[0]} → {versions[1]}")
    return changes


def parse_pin(text: str) -> Pin:
    """Parse `name==version` as a pin without hashes."""
    name, _, version = text.partition("==")
    return Pin(canonicalize_name(name), Version(version), ())


def list_stage_tags(python: str, platform: str) -> list[tags.Tag]:
    """List the wheel tags that a stage's environment supports, the best first.

    `platform` is a lock's, such as x86_64-manylinux2014; the platforms before it are included.
    """
    version = tuple(map(int, python.split(".")))
    interpreter = f"cp{''.join(map(str, version))}"
    platforms = list(_list_platforms(platform))
    return [
        *tags.cpython_tags(version, platforms=platforms),
        *tags.compatible_tags(version, interpreter=interpreter, platforms=platforms),
    ]


def _list_platforms(platform: str) -> Iterator[str]:
    machine, _, level = platform.partition("-")
    newest = next((n for n, name in _OLDER_NAMES.items() if name == level), None)
    for minor in range(newest or int(level.rpartition("_")[2]), 4, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in _OLDER_NAMES:
            yield f"{_OLDER_NAMES[minor]}_{machine}"
    yield f"linux_{machine}"


def list_host_tags() -> list[tags.Tag]:
    """List the wheel tags that the running Python supports, the best first."""
    return list(tags.sys_tags())


def host_python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def applies_here(pin: Pin) -> bool:
    """Tell whether the runner's own lock installs a pin on this Python and platform."""
    return not pin.marker or Marker(pin.marker).evaluate()


def parse_release(name: str) -> tuple[NormalizedName, Version] | None:
    """Parse the project and the version from a wheel's or sdist's file name; None for others."""
    try:
        if name.endswith(".whl"):
            return parse_wheel_filename(name)[:2]
        return parse_sdist_filename(name)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None


def filter_release(pin: Pin, files: Iterable[_File]) -> list[_File]:
    """List the files that belong to a pin's release."""
    return [file for file in files if parse_release(file.name) == (pin.name, pin.version)]


def choose_file(files: Sequence[_File], wanted: Sequence[tags.Tag]) -> _File | None:
    """Choose the file that an installer takes: the wheel with the best tag, or else the sdist."""
    rank: Mapping[tags.Tag, int] = {tag: i for i, tag in enumerate(wanted)}
    best: tuple[int, _File] | None = None
    for file in files:
        if not file.name.endswith(".whl"):
            continue
        ranks = [rank[tag] for tag in parse_wheel_filename(file.name)[3] if tag in rank]
        if ranks and (best is None or min(ranks) < best[0]):
            best = min(ranks), file
    if best is not None:
        return best[1]
    return next((file for file in files if not file.name.endswith(".whl")), None)
