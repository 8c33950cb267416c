"""Reading what somebody installed: a requirements file, in any of the forms that pip takes.

Nothing is fetched: lines that name a source tree or an index are kept apart, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlparse

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from runner.errors import BadInput
from runner.host.files import read_bytes
from runner.packages.lockfile import parse_release

# Where a wish of the command line comes from.
PIN = "--pin"
_MOST_BYTES = 4 << 20
_MOST_FILES = 50
# An option and its value, or a bare flag, in a requirements file.
_OPTION = re.compile(r"^(--?[A-Za-z][A-Za-z-]*)(?:[ =]\s*(.*))?$")
_INCLUDES = ("-r", "--requirement", "-c", "--constraint")
_INDEXES = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links")
# An option after a requirement, such as --hash=sha256:....
_TRAILING = re.compile(r"\s--(?:hash|config-settings|global-option|install-option)[ =].*$")
_LINUX = {
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_release": "",
    "platform_version": "",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "extra": "",
}


@dataclass(frozen=True)
class Want:
    """A package that was asked for. `text` is how, `where` the file and line.

    `limit` marks a line of a constraints file: it asks for nothing by itself. `optional` marks a
    pin that may be of a build that only its own channel has. `marker` says under which Pythons.
    """

    name: str
    specifier: SpecifierSet
    text: str
    where: str = ""
    marker: str = ""
    limit: bool = False
    optional: bool = False

    @property
    def version(self) -> Version | None:
        """The one release that it pins, or None."""
        exact = [s for s in self.specifier if s.operator in ("==", "===")]
        if len(exact) != 1 or exact[0].version.endswith(".*"):
            return None
        return Version(exact[0].version)


@dataclass(frozen=True)
class Ignored:
    """A line that is not used, and why not."""

    text: str
    reason: str


@dataclass(frozen=True)
class Wanted:
    """Everything that was asked for, in its order. `python` is the Python that was, '' if none."""

    wants: tuple[Want, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    python: str = ""


def read_requirements(path: Path, pythons: Sequence[str]) -> Wanted:
    """Read a requirements file and what it includes. Raises `BadInput`.

    `pythons` are the Pythons in question: what is for none of them is ignored.
    """
    reader = _Reader(pythons)
    reader.read_file(path)
    return reader.finish()


def read_requirements_lines(text: str, path: Path, pythons: Sequence[str]) -> Wanted:
    """Read lines as those of a requirements file at `path`. Raises `BadInput`."""
    reader = _Reader(pythons)
    reader.read_lines(text, path)
    return reader.finish()


def read_pin(text: str) -> Want:
    """Read the value of a --pin. Raises `BadInput`."""
    found = _parse(text, PIN)
    if isinstance(found, Ignored):
        raise BadInput(f"--pin {text}: {found.reason}.", "Such as --pin torch==1.8.1.")
    return found


class _Reader:
    """Collects what files ask for, in their order."""

    def __init__(self, pythons: Sequence[str]) -> None:
        self._pythons = pythons
        self._wants: list[Want] = []
        self._ignored: list[Ignored] = []
        self._seen: list[Path] = []

    def finish(self) -> Wanted:
        return Wanted(tuple(self._wants), tuple(self._ignored))

    def read_file(self, path: Path, *, limit: bool = False) -> None:
        place = path.resolve()
        if place in self._seen:
            return
        text = read_text(path, f"of {self._seen[0].name}" if self._seen else "")
        self._seen.append(place)
        if len(self._seen) > _MOST_FILES:
            raise BadInput(f"{self._seen[0]} includes more than {_MOST_FILES} files.")
        self.read_lines(text, path, limit=limit)

    def read_lines(self, text: str, path: Path, *, limit: bool = False) -> None:
        for number, line in _join_lines(text):
            option = _OPTION.match(line)
            if option and option[1] in _INCLUDES:
                other = path.parent / (option[2] or "").strip().strip("\"'")
                self.read_file(other, limit=limit or option[1] in ("-c", "--constraint"))
                continue
            found = _read_line(line, option, f"{path.name}, line {number}")
            if isinstance(found, Want) and not self._applies(found):
                found = Ignored(line, "is for other machines or Pythons")
            if isinstance(found, Want):
                self._wants.append(replace(found, limit=limit))
            else:
                self._ignored.append(found)

    def _applies(self, want: Want) -> bool:
        """Tell whether a requirement's marker holds on Linux under one of the Pythons."""
        return not want.marker or any(evaluate_marker(want.marker, p) for p in self._pythons)


def read_text(path: Path, what: str = "") -> str:
    """Read a text file of the user's. Raises `BadInput`."""
    name = f"{path} {what}".rstrip()
    try:
        content = read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}.", "Name a text file.") from None
    if content is None:
        raise BadInput(f"{name} has more than {_MOST_BYTES:,} bytes.", "Name a requirements file.")
    # Windows' PowerShell writes `pip freeze > FILE` as UTF-16.
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise BadInput(f"{name} is no text file.", "Name a requirements file.") from None
    if "\0" in text:
        raise BadInput(f"{name} is no text file.", "Name a requirements file.")
    return text


def _join_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines without comments, continued ones joined, each with its number."""
    held, start = "", 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        start = start or number
        # A comment may end a continued line too, and pip then goes on.
        content = re.sub(r"(^|\s)#.*$", "", line.rstrip())
        if content.endswith("\\"):
            held += content[:-1] + " "
            continue
        joined = (held + content).strip()
        if joined:
            yield start, joined
        held, start = "", 0


def _read_line(line: str, option: re.Match[str] | None, where: str) -> Want | Ignored:
    if option and option[1] in _INDEXES:
        return Ignored(line, "is an index: pip's own settings and RUNNER_INDEX_NAME name those")
    if option and option[1] in ("-e", "--editable"):
        return Ignored(line, "is a source tree; only published releases can be pinned")
    if option:
        return Ignored(line, "is an option of pip")
    return _parse(_TRAILING.sub("", line), where)


def _parse(text: str, where: str) -> Want | Ignored:
    """Parse one requirement. Raises `BadInput`."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        if re.match(r"^(?:(?:git|hg|svn|bzr)\+|\.{0,2}/|[a-z]+://|\S+\.(?:whl|zip|gz)$)", text):
            return _parse_location(text.split()[0], text, where)
        reason = str(error).partition("\n")[0]
        raise BadInput(
            f"{where}: '{text[:200]}' is no requirement: {reason}.", "Such as torch==1.8.1."
        ) from None
    marker = str(requirement.marker or "")
    if requirement.url:
        found = _parse_location(requirement.url, text, where)
        return replace(found, marker=marker) if isinstance(found, Want) else found
    name = canonicalize_name(requirement.name)
    return Want(name, requirement.specifier, text, where, marker)


def _parse_location(location: str, text: str, where: str) -> Want | Ignored:
    """Take a wheel's or sdist's address as a pin of its release."""
    release = parse_release(unquote(urlparse(location).path.rpartition("/")[2]))
    if release is None or location.startswith(("git+", "hg+", "svn+", "bzr+")):
        return Ignored(text, "is a source tree; only published releases can be pinned")
    name, version = release
    return Want(name, SpecifierSet(f"=={version}"), text, where)


def evaluate_marker(marker: str, python: str) -> bool:
    """Tell whether a marker holds on x86-64 Linux under a Python, such as '3.8'."""
    environment = {
        **_LINUX,
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
    }
    try:
        return Marker(marker).evaluate(environment)
    except (UndefinedComparison, UndefinedEnvironmentName):
        return True
