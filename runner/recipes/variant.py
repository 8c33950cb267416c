"""A toolchain with another release of one package, as `runner bisect --package` tries it.

It is written like a toolchain of the user's own, so that both engines install it, and so that
`RUNNER_TOOLCHAINS=FOLDER runner convert --toolchain NAME` takes it too. Its locks are kept in the
cache: what was resolved once is not resolved again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from runner.errors import EnvironmentUnavailable
from runner.host.compat import tomllib
from runner.host.files import make_temporary_name, remove_tree, write_text
from runner.host.paths import ROOT, cache_folder
from runner.packages import resolver
from runner.packages.lockfile import parse_lock
from runner.recipes.candidates import Subject, Target
from runner.recipes.knowledge import load_knowledge
from runner.recipes.locking.conflicts import find_absent, find_conflict
from runner.recipes.releases import Release, Releases, add_days
from runner.recipes.render import render_image, render_toolchain, replace_lock
from runner.toolchains.load import load_image
from runner.toolchains.model import Image

# Incremented when the same inputs would be resolved to another lock.
_FORMAT = 1
_WRITER = "runner bisect"
# What uv says where the release is at fault, and not the network.
_FAULTS = ("No solution found", "Failed to build", "Failed to download and build")


class ReleaseUnavailable(EnvironmentUnavailable):
    """A release that these images cannot have: it says nothing of the model."""


@dataclass(frozen=True)
class Variant:
    """A toolchain that was written: its name, and the lock of each image that was changed.

    `as_of` is the date of its packages, '' where the others are held at those of another lock
    because no index says when the release was published.
    """

    name: str
    release: Release
    locks: Mapping[str, str]
    as_of: str


def write_variant(
    subject: Subject,
    release: Release,
    releases: Releases,
    place: Path,
    loosen: Sequence[str] = (),
    beside: Variant | None = None,
) -> Variant:
    """Write the toolchain with this release into `place`, a folder of toolchains.

    The pins of the packages in `loosen` give way. With `beside`, all other packages are those of
    that variant. Raises `ReleaseUnavailable` where the release does not install, or excludes
    something else; `EnvironmentUnavailable` without an index.
    """
    ending = _make_slug(f"{subject.targets[0].name}-{release.version}")
    if beside is not None:
        ending += _make_slug(f"-beside-{beside.release.version}")
    name = f"{subject.chain.title}-{ending}"
    names = {t.image.name: f"{t.image.name}-{ending}" for t in subject.targets}
    place.mkdir(parents=True, exist_ok=True)
    draft = make_temporary_name(place / name)
    locks, days = {}, []
    try:
        for target in subject.targets:
            folder = draft / "images" / names[target.image.name]
            folder.mkdir(parents=True)
            image, text = _lock(target, release, releases, folder, loosen, beside)
            _write_image(target.image, image, text)
            locks[target.image.name] = text
            days.append(image.as_of)
        _copy_others(subject, draft)
        (draft / f"{name}.toml").write_text(
            _render_chain(subject, release, names), encoding="utf-8"
        )
        remove_tree(place / name)
        draft.rename(place / name)
    finally:
        remove_tree(draft)
    return Variant(name, release, locks, max(days))


def _make_slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower())


def _lock(
    target: Target,
    release: Release,
    releases: Releases,
    folder: Path,
    loosen: Sequence[str],
    beside: Variant | None,
) -> tuple[Image, str]:
    """Write the intent, and resolve it as of the date of the newest pin in it."""
    image = target.image
    found = releases.find(target.name, release.version)
    if found is None:
        raise ReleaseUnavailable(f"There is no {target.name} {release.version}.")
    if not found.installs(image.python, image.platform):
        raise ReleaseUnavailable(
            f"{found} has no file for Python {image.python} on {image.platform}."
        )
    lines = replace_pins(image.intent.read_text(encoding="utf-8"), found, target.name, loosen)
    stand_ins = tuple(stand_in for stand_in in image.stand_ins if stand_in.pin in lines)
    uses = {stand_in.pin: stand_in.use for stand_in in stand_ins}
    as_of = find_day([uses.get(line, line) for line in lines], found, releases)
    if beside is not None:
        as_of = max(as_of, beside.as_of) if as_of and beside.as_of else ""
    varied = replace(
        image,
        name=folder.name,
        folder=folder,
        intent=folder / "requirements.in",
        lock=folder / "requirements.lock",
        as_of=as_of,
        as_of_package={n: day for n, day in image.as_of_package.items() if as_of and day > as_of},
        stand_ins=stand_ins,
    )
    varied.intent.write_text("\n".join(lines) + "\n", encoding="utf-8")
    held: list[str] = []
    # Where nothing says what there was on that day, only this package changes.
    if beside is not None or not as_of:
        lock = beside.locks[image.name] if beside else image.lock.read_text(encoding="utf-8")
        given = {target.name} if beside else {target.name, *map(canonicalize_name, loosen)}
        held = [str(pin) for pin in parse_lock(lock) if pin.name not in given]
    return varied, _resolve_once(varied, held)


def replace_pins(intent: str, release: Release, name: str, loosen: Sequence[str] = ()) -> list[str]:
    """Return the intent's lines with this release in the place of the package's pin.

    Other builds of the same tool go too. What is loosened keeps its name alone. A package that
    others brought in is added.
    """
    knowledge = load_knowledge()
    given = {canonicalize_name(other) for other in loosen}
    lines, there = [], False
    for line in intent.splitlines():
        wanted = _parse(line)
        if wanted is None:
            lines.append(line)
            continue
        own = canonicalize_name(wanted.name)
        marker = f" ; {wanted.marker}" if wanted.marker else ""
        extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
        if own == name or knowledge.get_family(own) == knowledge.get_family(name):
            there = True
            lines.append(f"{name}{extras}=={release.version}{marker}")
        elif own in given:
            lines.append(f"{own}{extras}{marker}")
        else:
            lines.append(line)
    if not there:
        lines += [f"# The release that `{_WRITER}` tries.", f"{name}=={release.version}"]
    return lines


def find_day(lines: Sequence[str], release: Release, releases: Releases) -> str:
    """Return the day on which all pins were there, and a margin for what they need.

    It is '' where no index says when the release was published.
    """
    pins = {}
    for line in lines:
        wanted = _parse(line)
        exact = [s.version for s in wanted.specifier if s.operator == "=="] if wanted else []
        if wanted and exact and not exact[0].endswith("*"):
            pins[canonicalize_name(wanted.name)] = Version(exact[0])
    releases.fetch(pins)
    moments = {name: _find_moment(name, version, releases) for name, version in pins.items()}
    if not moments.get(canonicalize_name(release.name)):
        return ""
    return add_days(max(moments.values()), load_knowledge().margin)


def _find_moment(name: str, version: Version, releases: Releases) -> str:
    """Find when a release was published; of a build on another index, the release that it is of."""
    for wanted in (version, Version(version.public)):
        found = releases.find(name, wanted)
        if found is not None and found.uploaded:
            return found.uploaded
    return ""


def _parse(line: str) -> Requirement | None:
    try:
        return Requirement(line.partition(" #")[0])
    except InvalidRequirement:
        return None


def _resolve_once(image: Image, held: Sequence[str]) -> str:
    """Return the lock's text: from the cache, or from the resolver, which takes the network."""
    parts = {
        "format": _FORMAT,
        "python": [image.python, image.platform],
        "as of": [image.as_of, dict(image.as_of_package)],
        "intent": image.intent.read_text(encoding="utf-8"),
        "stand-ins": [str(stand_in) + stand_in.reason for stand_in in image.stand_ins],
        "overrides": image.overrides,
        "indexes": dict(image.indexes),
        "held": list(held),
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    kept = cache_folder() / "locks" / f"{key}.lock"
    try:
        text = kept.read_text(encoding="utf-8")
        if text.startswith(resolver.BANNER):
            return text
    except OSError:
        pass
    try:
        text = resolver.resolve(image, held)
    except EnvironmentUnavailable as error:
        if not any(fault in error.message for fault in _FAULTS):
            raise
        raise ReleaseUnavailable(_explain(error, image, held)) from None
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, text)
    return text


def _explain(error: EnvironmentUnavailable, image: Image, held: Sequence[str]) -> str:
    lines = image.intent.read_text(encoding="utf-8").splitlines()
    conflict = find_conflict(error.message, [*lines, *held, *(s.use for s in image.stand_ins)])
    when = "with the other packages held" if held else f"as of {image.as_of[:10]}"
    if conflict is not None:
        return f"Does not resolve {when}: {conflict}."
    absent = find_absent(error.message)
    last = error.message.strip().splitlines()[-1].strip(" ╰─▶│")
    return f"Does not resolve {when}: {absent or last}".rstrip(".")[:400] + "."


def _write_image(original: Image, image: Image, lock: str) -> None:
    """Write an image's files: what its tools read and reach is as in the original."""
    data = tomllib.loads((original.folder / "image.toml").read_text(encoding="utf-8"))
    reads = [{"format": name, **table} for name, table in data.get("reads", {}).items()]
    text = render_image(image, reads, data.get("reach", {}), writer=_WRITER)
    (image.folder / "image.toml").write_text(text, encoding="utf-8")
    image.lock.write_text(lock, encoding="utf-8")
    dockerfile = replace_lock(original.dockerfile.read_text(encoding="utf-8"), image)
    image.dockerfile.write_text(dockerfile, encoding="utf-8")


def _copy_others(subject: Subject, draft: Path) -> None:
    """Copy the images that stay as they are, unless they come with the runner."""
    varied = {target.image.name for target in subject.targets}
    stages = (*subject.chain.stages, *subject.chain.quantizers)
    for name in dict.fromkeys(stage.image for stage in stages):
        image = load_image(name)
        if name not in varied and image.folder.parent != ROOT / "images":
            shutil.copytree(image.folder, draft / "images" / name)


def _render_chain(subject: Subject, release: Release, names: Mapping[str, str]) -> str:
    chain = subject.chain
    data = tomllib.loads(chain.file.read_text(encoding="utf-8"))
    head = {
        key: value
        for key, value in data.items()
        if key not in ("stage", "quantizer", "default", "short")
    }
    head["description"] = f"{chain.description}, with {subject.targets[0].name} {release.version}"
    if release.day:
        head["date"] = release.day

    def vary(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                **{key: value for key, value in stage.items() if key != "service"},
                "image": names.get(stage["image"], stage["image"]),
            }
            for stage in stages
        ]

    return render_toolchain(
        head, vary(data["stage"]), vary(data.get("quantizer", ())), writer=_WRITER
    )
