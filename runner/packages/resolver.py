"""The writing of locks by `runner lock`: from an intent, as of a date, with hashes.

`convert` never resolves anything: it installs what the locks say. A lock is a function of the
intent, of image.toml and of the index's history, so writing it twice gives the same bytes.
"""

from __future__ import annotations

import difflib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from uv import find_uv_bin

from runner.errors import BadInput, EnvironmentUnavailable
from runner.host.compat import tomllib
from runner.host.files import write_text
from runner.host.paths import ROOT
from runner.packages.cpython import find_cpython
from runner.packages.pip_settings import make_uv_environment
from runner.toolchains.model import Image

BANNER = "# Written by `runner lock`. Do not edit: change"


def resolve(image: Image, constraints: Sequence[str] = ()) -> str:
    """Resolve an image's intent as of its date, if it has any, and return the lock's text.

    `constraints` narrow down packages that the lock may come to name. What has only sources is
    asked for its requirements by the environment's own Python. Raises `EnvironmentUnavailable`
    with the resolver's own message if it finds no solution.
    """
    options = [
        *("--python-version", image.python, "--python-platform", image.platform),
        *(("--exclude-newer", image.as_of) if image.as_of else ()),
        *_find_python(image.python),
    ]
    for package, date in sorted(image.as_of_package.items()):
        options += ["--exclude-newer-package", f"{package}={date}"]
    with tempfile.TemporaryDirectory() as folder:
        # The lock's annotations name the file, so it has the intent's own name.
        (Path(folder) / image.intent.name).write_text(_apply_stand_ins(image))
        if image.overrides:
            (Path(folder) / "overrides.txt").write_text("\n".join(image.overrides) + "\n")
            options += ["--override", "overrides.txt"]
        if constraints:
            (Path(folder) / "constraints.txt").write_text("\n".join(constraints) + "\n")
            options += ["--constraint", "constraints.txt"]
        main_only = not image.indexes
        if image.indexes:
            options += ["--index-strategy", "unsafe-best-match"]
        text = _compile(image.intent.name, Path(folder), options, main_only=main_only)
        return _make_banner(image) + text


def _find_python(version: str) -> list[str]:
    try:
        return ["--python", str(find_cpython(version, install=False).path)]
    except EnvironmentUnavailable:  # then any Python has to do, which mostly it does
        return []


def resolve_own(root: Path = ROOT) -> str:
    """Resolve what the runner itself, its tests and its checks need, for every platform."""
    project = root / "pyproject.toml"
    as_of = tomllib.loads(project.read_text())["tool"]["runner"]["as-of"]
    options = ["--universal", "--python-version", "3.10", "--extra", "dev"]
    text = _compile(project.name, root, [*options, "--exclude-newer", as_of])
    return f"{BANNER} {project.name}.\n# As of {as_of}.\n\n{text}"


def write(lock: Path, text: str) -> bool:
    """Write a lock if it changed, and tell whether it did.

    Raises `BadInput` rather than overwrite a file without our banner.
    """
    old = lock.read_text(encoding="utf-8") if lock.exists() else ""
    if old and not old.startswith(BANNER):
        raise BadInput(
            f"{lock} was not written by `runner lock`, so it is not overwritten.",
            "Move it away if it should become a lock.",
        )
    if old != text:
        write_text(lock, text)
    return old != text


def diff_lock(lock: Path, text: str) -> str:
    """Return a unified diff from the lock as it is to `text`; empty if they agree."""
    old = lock.read_text(encoding="utf-8") if lock.exists() else ""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), text.splitlines(keepends=True), lock.name, "resolved"
    )
    return "".join(lines)


def _compile(intent: str, folder: Path, options: Sequence[str], *, main_only: bool = True) -> str:
    """Run uv's resolver on a file of `folder`, and return what it prints."""
    command = [find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--generate-hashes"]
    result = subprocess.run(
        [*command, "--annotation-style=line", *options, intent],
        cwd=folder,
        env=make_uv_environment(main_only=main_only),
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode != 0:
        raise EnvironmentUnavailable(
            f"No lock: {intent} does not resolve.\n{result.stderr.strip()}",
            "Check the intent, the date in image.toml, and that the package index is reachable.",
        )
    return result.stdout


def _apply_stand_ins(image: Image) -> str:
    """Return the intent's text with each vanished pin replaced by its stand-in."""
    lines = image.intent.read_text().splitlines()
    for stand_in in image.stand_ins:
        if stand_in.pin not in lines:
            raise BadInput(
                f"image.toml of '{image.name}' has a stand-in for {stand_in.pin}, "
                f"which {image.intent.name} does not pin.",
                "Make the two agree.",
            )
        lines[lines.index(stand_in.pin)] = stand_in.use
    return "\n".join(lines) + "\n"


def _make_banner(image: Image) -> str:
    lines = [f"{BANNER} {image.intent.name} or image.toml."]
    lines += [f"# As of {image.as_of}."] if image.as_of else []
    lines += [f"# As of {date}: {name}." for name, date in sorted(image.as_of_package.items())]
    lines += [f"# {stand_in}: {stand_in.reason}." for stand_in in image.stand_ins]
    lines += [f"# Override: {text}." for text in image.overrides]
    lines += [f"# With the index '{name}', {what}." for name, what in image.indexes.items()]
    return "\n".join(lines) + "\n\n"
