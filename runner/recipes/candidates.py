"""Which releases of a package to try, and in which toolchain's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from runner.errors import BadInput, EnvironmentUnavailable
from runner.packages.lockfile import Pin, parse_lock
from runner.recipes.knowledge import load_knowledge
from runner.recipes.releases import Release, Releases
from runner.toolchains.load import load_image, load_toolchain, load_toolchains
from runner.toolchains.model import Image, Toolchain


@dataclass(frozen=True)
class Span:
    """Which releases of a package are meant, as they were asked for.

    `first` and `last` are versions, '' for the toolchain's own and for the newest; a shorter
    `last`, such as 2.10, takes 2.10.1 too. `images` are those to change, all that have the package
    if there are none.
    """

    package: str
    first: str = ""
    last: str = ""
    toolchain: str = ""
    images: Sequence[str] = ()
    prereleases: bool = False
    yanked: bool = False


@dataclass(frozen=True)
class Target:
    """An image whose package is varied: what the package is called there, and its own release."""

    image: Image
    name: NormalizedName
    pinned: Version


@dataclass(frozen=True)
class Subject:
    """A toolchain, the images of it that have the package, and its releases in order of version."""

    chain: Toolchain
    package: str
    targets: Sequence[Target]
    candidates: Sequence[Release]


def choose_subject(span: Span, kind: str, releases: Releases) -> Subject:
    """Choose the toolchain for files of this kind, and list the releases to try.

    Without a name it is the one whose release of the package is nearest to the first. Raises
    `BadInput` or `EnvironmentUnavailable`.
    """
    package = canonicalize_name(span.package)
    chain, targets = _choose_toolchain(span, package, kind, releases)
    unknown = set(span.images) - {target.image.name for target in targets}
    if unknown:
        names = ", ".join(target.image.name for target in targets)
        raise BadInput(
            f"{min(unknown)} is no image of '{chain.title}' that has {package}.",
            f"These are: {names}.",
        )
    targets = [t for t in targets if not span.images or t.image.name in span.images]
    return Subject(chain, package, targets, list_candidates(span, targets[0], releases))


def _choose_toolchain(
    span: Span, package: str, kind: str, releases: Releases
) -> tuple[Toolchain, list[Target]]:
    chains = [chain for chain in load_toolchains() if chain.accepts == kind]
    have = {chain.title: (chain, find_targets(chain, package)) for chain in chains}
    have = {title: found for title, found in have.items() if found[1]}
    if span.toolchain:
        chain = load_toolchain(span.toolchain, kind)
        if chain.accepts != kind:
            raise BadInput(
                f"The toolchain '{chain.title}' does not start from such a file.",
                f"These do: {', '.join(c.title for c in chains)}.",
            )
        if chain.title in have:
            return have[chain.title]
        raise BadInput(
            f"No image of the toolchain '{chain.title}' has {package}.",
            f"It is in: {', '.join(have)}." if have else _list_packages(chains),
        )
    if not have:
        raise BadInput(
            f"No toolchain that starts from such a file has {package}.", _list_packages(chains)
        )
    if not span.first:
        return next(iter(have.values()))  # the default one, if it has the package
    versions = sorted(releases.list_all(next(iter(have.values()))[1][0].name))
    first = _parse_version(span.first, "--from")

    def measure(found: tuple[Toolchain, list[Target]]) -> tuple[int, str]:
        """Count the releases between the toolchain's own and the first."""
        low, high = sorted((first, found[1][0].pinned))
        return sum(low <= version < high for version in versions), found[0].date

    return min(have.values(), key=measure)


def _list_packages(chains: Sequence[Toolchain]) -> str:
    names = {
        line.partition("==")[0]
        for chain in chains
        for image in chain.images
        for line in load_image(image).intent.read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    return f"They pin {', '.join(sorted(names))}; their locks, in images, list what these need."


def find_targets(chain: Toolchain, package: str) -> list[Target]:
    """Find the images of a toolchain that have a package, or another build of the same tool."""
    knowledge = load_knowledge()
    family = knowledge.get_family(package)
    targets = []
    for name in chain.images:
        image = load_image(name)
        pins = parse_lock(image.lock.read_text(encoding="utf-8"))
        found: Pin | None = next((pin for pin in pins if pin.name == package), None)
        if found is None:
            found = next((p for p in pins if knowledge.get_family(p.name) == family), None)
        if found is not None:
            targets.append(Target(image, found.name, found.version))
    return targets


def list_candidates(span: Span, target: Target, releases: Releases) -> list[Release]:
    """List the releases from the first to the last, in order of version.

    What was withdrawn and what came before a release are left out unless asked for, or named as an
    end. Raises `BadInput` where fewer than two are left, `EnvironmentUnavailable` without an index.
    """
    found = releases.list_all(target.name)
    if not found:
        raise EnvironmentUnavailable(
            f"The package index does not list {target.name}.",
            releases.problems.get(target.name)
            or "Check the package index (PIP_INDEX_URL, SSL_CERT_FILE).",
        )
    own = Version(target.pinned.public)
    first = _parse_version(span.first, "--from") if span.first else own
    last = _parse_version(span.last, "--to") if span.last else None
    chosen = []
    for version, release in sorted(found.items()):
        public = Version(version.public)
        # The builds of one index are told apart from another's by the local part.
        if version.local != target.pinned.local or public < first:
            continue
        if last is not None and public > last and not _begins_with(public, last):
            continue
        if public not in (first, last):
            if public.is_prerelease and not span.prereleases:
                continue
            if release.yanked and not span.yanked:
                continue
        chosen.append(release)
    if len(chosen) < 2:
        near = [str(v) for v in sorted(found) if not v.is_prerelease][-12:]
        to = f" to {last}" if last is not None else ""
        raise BadInput(
            f"There are not two releases of {target.name} from {first}{to}.",
            f"The newest are: {', '.join(near)}. --pre-releases and --yanked add others.",
        )
    return chosen


def _begins_with(version: Version, last: Version) -> bool:
    return (
        not last.is_prerelease
        and version.epoch == last.epoch
        and version.release[: len(last.release)] == last.release
    )


def _parse_version(text: str, option: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise BadInput(f"{option} {text} is no version of a package.", "Such as 2.10.") from None
