"""`runner lock --audit`: whether each pin of each lock is still available, and where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from packaging.tags import Tag

from runner.host.files import format_bytes
from runner.host.paths import ROOT
from runner.packages import wheel_store
from runner.packages.index import IndexFile, Listing, PackageIndexes
from runner.packages.lockfile import (
    Pin,
    choose_file,
    filter_release,
    list_stage_tags,
    parse_lock,
    parse_pin,
)
from runner.toolchains.model import Image

# Concurrent requests to an index.
AT_ONCE = 8
HOST = "runner"


@dataclass(frozen=True)
class Finding:
    """A pin, and where it is available.

    `status` is 'available'; 'yanked', which installers still take for an exact pin; 'own-wheel';
    'stand-in', a vanished pin that another release stands in for; 'vanished'; or 'unknown': an
    index did not answer, and nothing else has it.
    """

    lock: str
    pin: str
    status: str
    sources: tuple[str, ...] = ()
    detail: str = ""

    @property
    def level(self) -> str:
        if self.status in ("vanished", "unknown"):
            return "error"
        return "warning" if self.status in ("yanked", "stand-in") else "ok"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "level": self.level}


class WheelSource(Protocol):
    """An archive that holds wheels, and can check that one is undamaged."""

    def wheels(self) -> list[IndexFile]:
        """List the wheels and sdists; the `url` of each is the name of its part."""

    def check(self, name: str) -> None:
        """Raise `DamagedArchive` if the part of this name is damaged."""


@dataclass(frozen=True)
class _Question:
    lock: str
    pin: Pin
    tags: Sequence[Tag] | None
    """The wheel tags that the environment supports; None if any file of the lock will do."""


def audit_pins(
    images: Sequence[Image],
    *,
    own: bool = False,
    archive: WheelSource | None = None,
    indexes: PackageIndexes | None = None,
) -> list[Finding]:
    """Look up each pin in the indexes that pip is set up for, and in an archive's parts.

    A pin needs a file that the environment can install and that has one of the lock's hashes.
    `own` adds the runner's own lock. An index that does not answer is a finding. Raises
    `DamagedArchive` if the archive does not hold what it lists.
    """
    indexes = indexes or PackageIndexes()
    questions = [
        _Question(image.title, pin, list_stage_tags(image.python, image.platform))
        for image in images
        for pin in parse_lock(image.render_requirements())
    ]
    lock = ROOT / "requirements.lock"
    if own and lock.exists():
        # This lock serves every Python and platform, so no environment's tags apply.
        questions += [_Question(HOST, pin, None) for pin in parse_lock(lock.read_text())]
    replaced = [parse_pin(s.pin) for image in images for s in image.stand_ins]
    pins = {str(pin): pin for pin in [*(q.pin for q in questions), *replaced]}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        listings = dict(zip(pins, pool.map(indexes.list_files, pins.values()), strict=True))
    findings = [_answer(question, listings[str(question.pin)], archive) for question in questions]
    for image in images:
        findings += _check_stand_ins(image, listings)
    return findings


def _answer(question: _Question, listing: Listing, archive: WheelSource | None) -> Finding:
    pin = question.pin
    finding = Finding(question.lock, str(pin), "available")
    listed = _choose_locked_file(question, listing.files)
    archived = archive.wheels() if archive else []
    kept = _choose_locked_file(question, [*archived, *_list_stored_files(pin)])
    sources = tuple(dict.fromkeys(file.source for file in (listed, kept) if file is not None))
    if listed is not None and not listed.yanked:
        return replace(finding, sources=sources)
    if listed is not None:
        return replace(finding, status="yanked", sources=sources, detail=listed.yanked)
    if kept is not None:
        if archive is not None and kept in archived:
            archive.check(kept.url)
        why = _explain_absence(question, listing)
        return replace(finding, sources=sources, detail=why)
    status = "unknown" if listing.problems else "vanished"
    return replace(finding, status=status, detail=_explain_absence(question, listing))


def _choose_locked_file(question: _Question, files: Iterable[IndexFile]) -> IndexFile | None:
    """Choose the file that an installer would take, among those whose hashes the lock has."""
    mine = [f for f in filter_release(question.pin, files) if f.sha256 in question.pin.hashes]
    if question.tags is not None:
        return choose_file(mine, question.tags)
    return next(iter(sorted(mine, key=lambda file: bool(file.yanked))), None)


def _explain_absence(question: _Question, listing: Listing) -> str:
    if listing.problems:
        return "; ".join(listing.problems)
    if not listing.files:
        return "no index lists this release"
    if any(file.sha256 in question.pin.hashes for file in listing.files):
        return "no file that this environment can install is left of this release"
    return "what is listed has other hashes than the lock"


def _check_stand_ins(image: Image, listings: dict[str, Listing]) -> list[Finding]:
    """Report what became of an intent's pins that the lock replaces with another release."""
    findings = []
    handed_over = {wheel.pin: wheel for wheel in image.wheels}
    for stand_in in image.stand_ins:
        listing = listings[str(parse_pin(stand_in.pin))]
        sources = tuple(dict.fromkeys(file.source for file in listing.files))
        finding = Finding(image.title, stand_in.pin, "stand-in")
        if wheel := handed_over.get(stand_in.pin):
            size = format_bytes(wheel.path.stat().st_size)
            detail = f"{wheel.path.name}, {size}, sha256 {wheel.sha256}"
            finding = replace(finding, status="own-wheel", sources=("own wheel",), detail=detail)
        elif sources:
            detail = f"it is listed, and so {stand_in.use} need not stand in for it"
            finding = replace(finding, status="available", sources=sources, detail=detail)
        else:
            finding = replace(finding, detail=f"{stand_in.use} stands in: {stand_in.reason}")
        findings.append(finding)
    return findings


def _list_stored_files(pin: Pin) -> list[IndexFile]:
    """List the files of a pin that loaded archives have left in the cache."""
    found = [(sha, path) for sha in pin.hashes if (path := wheel_store.find_wheel(sha))]
    return [IndexFile(path.name, "", sha, source="loaded archive") for sha, path in found]
