"""An environment's Python and lock: the newest Python under which everything installs."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from runner.errors import BadInput, EnvironmentUnavailable
from runner.packages import resolver
from runner.packages.lockfile import parse_lock
from runner.recipes.compose import Environment
from runner.recipes.knowledge import Knowledge
from runner.recipes.locking.conflicts import find_absent, find_conflict
from runner.recipes.locking.pythons import list_pythons
from runner.recipes.reading.requirements import Want
from runner.recipes.releases import Releases, add_days
from runner.recipes.render import Intent, render_intent
from runner.toolchains.model import Image

# What builds packages that are published as source only, from the lock itself.
_BUILD_TOOLS = ("setuptools", "wheel")


@dataclass(frozen=True)
class Locked:
    """An environment with its image: the lock's text, its pins, and which wishes they fulfil."""

    environment: Environment
    image: Image
    intent: str
    lock: str
    pins: Mapping[str, Version]
    kept: tuple[Want, ...]


class Locker:
    """Locks environments, each in a folder of its own below `folder`."""

    def __init__(
        self,
        knowledge: Knowledge,
        releases: Releases,
        wants: Sequence[Want],
        *,
        as_of: str,
        pythons: Sequence[str],
        source: str,
        tell: Callable[[str], None],
    ) -> None:
        self._knowledge, self._releases, self._wants = knowledge, releases, wants
        self._as_of, self._pythons, self._source, self._tell = as_of, pythons, source, tell

    def lock(self, environment: Environment, name: str, folder: Path) -> Locked:
        """Write the image's intent and lock. Raises `BadInput` or `EnvironmentUnavailable`."""
        folder.mkdir(parents=True)
        first: Exception | None = None
        for python, platform in list_pythons(
            environment, self._knowledge, self._pythons, self._as_of
        ):
            self._tell(f"{name}: resolving under Python {python}")
            image = self._make_image(environment, name, folder, python, platform)
            try:
                return self._resolve(environment, image)
            except EnvironmentUnavailable as error:
                first = first or error
        assert first is not None
        raise first

    def _make_image(
        self, environment: Environment, name: str, folder: Path, python: str, platform: str
    ) -> Image:
        indexes = {t.index.name: t.index.what for t in environment.tools if t.index}
        return Image(
            name=name,
            folder=folder,
            python=python,
            platform=platform,
            as_of=max(self._as_of, *(tool.needs_date for tool in environment.tools), ""),
            intent=folder / "requirements.in",
            lock=folder / "requirements.lock",
            indexes=indexes,
            overrides=environment.overrides,
            stand_ins=tuple(t.stand_in for t in environment.tools if t.stand_in),
        )

    def _resolve(self, environment: Environment, image: Image) -> Locked:
        """Resolve twice: with all wishes as limits, and then with those that play a part."""
        wishes = self._collect_wishes(environment, image)
        gone = [w for w in wishes if w.version and not self._find_release(w)]
        present = [want for want in wishes if want not in gone]
        later = self._find_later(present, image)
        limits = [*environment.limits, *(format_wish(want) for want in present)]
        intent = Intent(self._source, environment)
        draft = replace(image, as_of_package=later)
        pins = self._compile(draft, intent, limits)
        self._check_gone(gone, pins)
        kept = tuple(want for want in present if want.name in pins)
        bounds = {text: why for text, why in environment.limits.items() if _name(text) in pins}
        sources = self._list_sources(pins, image)
        intent = Intent(
            self._source,
            environment,
            tuple(format_wish(want) for want in kept),
            bounds,
            tuple(sources),
            _BUILD_TOOLS if sources else (),
        )
        later = {name: date for name, date in later.items() if name in pins}
        image = replace(image, as_of_package=later)
        text = self._compile_text(image, intent, [])
        found = {str(pin.name): pin.version for pin in parse_lock(text)}
        self._list_sources(found, image)
        return Locked(environment, image, render_intent(intent), text, found, kept)

    def _collect_wishes(self, environment: Environment, image: Image) -> list[Want]:
        """List what was asked for that this environment may come to need through others."""
        placed = {tool.family for tool in environment.tools}
        added = {_name(text) for text in environment.added}
        wishes: dict[str, Want] = {}
        for want in self._wants:
            family = self._knowledge.get_family(want.name)
            is_added = want.name in added and not want.limit
            if family not in placed and want.specifier and not is_added:
                wishes.setdefault(want.name, want)
        self._releases.fetch(wishes)
        return list(wishes.values())

    def _find_release(self, want: Want) -> bool:
        assert want.version is not None
        return self._releases.find(want.name, Version(want.version.public)) is not None

    def _find_later(self, wishes: Sequence[Want], image: Image) -> dict[str, str]:
        """Find pins that were published after the environment's date, each with its own date."""
        later = {}
        for want in wishes:
            if want.version is None:
                continue
            release = self._releases.find(want.name, Version(want.version.public))
            if release is not None and release.uploaded >= image.as_of:
                later[want.name] = add_days(release.uploaded, datetime.timedelta(days=1))
        return later

    def _check_gone(self, gone: Sequence[Want], pins: Mapping[str, Version]) -> None:
        for want in gone:
            if want.name in pins and not want.optional:
                raise BadInput(
                    f"{want.text} ({want.where}) is on no index that pip is set up for, and the "
                    "environment needs the package.",
                    f"Leave it out, for the newest that fits as of the date: --without {want.name}."
                    f" Here that is {pins[want.name]}.",
                )

    def _list_sources(self, pins: Mapping[str, Version], image: Image) -> list[str]:
        """List the pins that are built from their sources.

        Raises `EnvironmentUnavailable` for one that would have to be compiled.
        """
        self._releases.fetch(pins)
        sources = []
        for name, version in pins.items():
            release = self._releases.find(name, version)
            if release is None:
                continue
            if not release.installs(image.python, image.platform):
                raise EnvironmentUnavailable(
                    f"{release} has no wheel for Python {image.python} on {image.platform}.",
                    "Name another --python, or another date.",
                )
            if release.is_source(image.python, image.platform):
                sources.append(name)
        return sources

    def _compile(self, image: Image, intent: Intent, limits: Sequence[str]) -> dict[str, Version]:
        return {
            str(p.name): p.version for p in parse_lock(self._compile_text(image, intent, limits))
        }

    def _compile_text(self, image: Image, intent: Intent, limits: Sequence[str]) -> str:
        """Resolve an intent. Raises `BadInput` where its lines exclude each other."""
        image.intent.write_text(render_intent(intent), encoding="utf-8")
        try:
            return resolver.resolve(image, limits)
        except EnvironmentUnavailable as error:
            lines = [*render_intent(intent).splitlines(), *limits]
            lines += [stand_in.use for stand_in in image.stand_ins]
            raise self._explain(error, lines, image) from None

    def _explain(
        self, error: EnvironmentUnavailable, lines: Sequence[str], image: Image
    ) -> EnvironmentUnavailable:
        conflict = find_conflict(error.message, lines)
        if conflict is not None:
            # Without a tool there may be no chain at all.
            names = [_name(conflict.other), _name(conflict.one)]
            names.sort(key=lambda name: name in self._knowledge.main_tools)
            return Unsolvable(
                f"These exclude each other: {conflict}.",
                f"Leave one out: --without {names[0]} takes a release that fits.",
            )
        absent = find_absent(error.message)
        if absent is not None:
            return EnvironmentUnavailable(
                f"{image.name}, Python {image.python} as of {image.as_of[:10]}: {absent}.",
                "Name a later date with --as-of, or leave out the pin that asks for it: --without "
                f"{absent.name}.",
            )
        return error


class Unsolvable(EnvironmentUnavailable):
    """Requirements that exclude each other: the user's, so it is bad input."""

    exit_code = BadInput.exit_code


def format_wish(want: Want) -> str:
    """Format a wish as a line for the resolver, without what names a machine's build."""
    text = ",".join(
        f"{s.operator}{s.version.partition('+')[0]}"
        for s in sorted(want.specifier, key=str, reverse=True)
    )
    return f"{want.name}{text}" + (f" ; {want.marker}" if want.marker else "")


def _name(text: str) -> str:
    return canonicalize_name(Requirement(text.strip()).name)
