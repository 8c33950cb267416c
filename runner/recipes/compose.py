"""From what was asked for to environments and chains: which packages go where, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from runner.errors import BadInput
from runner.recipes.dating import find_date
from runner.recipes.knowledge import Knowledge, Step
from runner.recipes.reading.requirements import Want
from runner.recipes.releases import Releases
from runner.recipes.route import Route, find_routes
from runner.recipes.settle import Settled, Settler


@dataclass(frozen=True)
class Environment:
    """An environment to be: its tools' releases, what is added to them, and its limits.

    `added` are requirements that nobody pinned, each with the reason; `limits` hold for packages
    that come in through others. `end` is the end of the image's name.
    """

    end: str
    steps: tuple[Step, ...]
    tools: tuple[Settled, ...]
    added: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)

    @property
    def overrides(self) -> tuple[str, ...]:
        names = {tool.release.name for tool in self.tools}
        found = dict.fromkeys(text for step in self.steps for text in step.overrides)
        # An override that drops a build must not drop the one that is wanted.
        return tuple(text for text in found if Requirement(text).name not in names)


@dataclass(frozen=True)
class Composition:
    """The environments, and which step of which route runs in which of them."""

    routes: tuple[Route, ...]
    environments: tuple[Environment, ...]
    as_of: str
    places: Mapping[tuple[str, str], str]

    def locate(self, route: Route, step: Step) -> str:
        """Return the end of the name of the image that a step of a route runs in."""
        return self.places[route.accepts, step.stage["name"]]

    @property
    def settled(self) -> tuple[Settled, ...]:
        return tuple(tool for environment in self.environments for tool in environment.tools)


def compose(
    wants: Sequence[Want],
    knowledge: Knowledge,
    releases: Releases,
    *,
    as_of: str,
    pythons: Sequence[str],
) -> Composition:
    """Decide which environments and chains the requirements make.

    Raises `BadInput` where they make none, or where the date does not fit.
    """
    asked = [want for want in wants if not want.limit]
    _require_route(knowledge, asked)
    known = [w for w in asked if knowledge.get_family(w.name) in knowledge.tools]
    date = as_of or find_date(known, knowledge, releases)
    settler = Settler(knowledge, releases, pythons, date)
    return _Composer(knowledge, settler, asked, date).compose()


class _Composer:
    def __init__(
        self, knowledge: Knowledge, settler: Settler, asked: Sequence[Want], as_of: str
    ) -> None:
        self._knowledge, self._settler, self._as_of = knowledge, settler, as_of
        self._names = frozenset(want.name for want in asked)
        self._wants: dict[str, list[Want]] = {}
        for want in asked:
            self._wants.setdefault(knowledge.get_family(want.name), []).append(want)
        self._settled: dict[str, Settled] = {}

    def compose(self) -> Composition:
        routes = self._choose_routes()
        images: dict[str, list[Step]] = {}
        places = {}
        for route in routes:
            present = {step.image for r in routes for step in r.steps}
            for step in route.steps:
                end = step.shares if step.shares in present else step.image
                if step.apart and self._is_apart(step.tool):
                    end = step.apart
                if step not in images.setdefault(end, []):
                    images[end].append(step)
                places[route.accepts, step.stage["name"]] = end
        environments = tuple(self._make_environment(end, steps) for end, steps in images.items())
        return Composition(tuple(routes), environments, self._as_of, places)

    def _choose_routes(self) -> list[Route]:
        """Find routes by names, settle what they need, and find them again by the releases."""
        tools = {**dict.fromkeys(self._brought), **dict.fromkeys(self._wants)}
        while True:
            routes = find_routes(self._knowledge, tools)
            steps = [step for route in routes for step in route.steps if not step.always]
            unsettled = [step.tool for step in steps if tools[step.tool] is None]
            if not unsettled:
                return routes
            tools[unsettled[0]] = self._settle(unsettled[0]).version

    @property
    def _brought(self) -> set[str]:
        """The tools that the wanted ones need."""
        steps = self._knowledge.steps
        needed = {n for step in steps if step.tool in self._wants for n in step.needs}
        return needed & {step.tool for step in steps}

    def _is_apart(self, family: str) -> bool:
        """Tell whether several builds of a tool are wanted."""
        builds = {self._knowledge.find_build(want.name) for want in self._wants.get(family, ())}
        return len(builds) > 1

    def _settle(self, family: str, *, last: bool = False) -> Settled:
        """Settle a tool; with `last`, the last of its builds where several are wanted."""
        wants = self._order(family)
        want = wants[-1 if last else 0] if wants else Want(family, SpecifierSet(), family)
        if want.text not in self._settled:
            self._settled[want.text] = self._settler.settle(
                want, self._find_range(family), self._names
            )
        return self._settled[want.text]

    def _order(self, family: str) -> list[Want]:
        """Return the wants of a tool by its builds' order, pinned ones first."""
        builds = [build for build in self._knowledge.builds if build.of == family]

        def rank(want: Want) -> tuple[int, bool]:
            places = [i for i, build in enumerate(builds) if want.name in build.names]
            return (places or [0])[0], want.version is None

        return sorted(self._wants.get(family, ()), key=rank)

    def _find_range(self, family: str) -> SpecifierSet:
        """Return what the settled tools want of another."""
        found = SpecifierSet()
        for tool in list(self._settled.values()):
            for wanted, _ in self._knowledge.list_beside(tool.family, tool.version):
                if wanted.name == family:
                    found &= wanted.specifier
        return found

    def _make_environment(self, end: str, steps: Sequence[Step]) -> Environment:
        draft = _Draft()
        for step in steps:
            reason = f"needed by the stage {step.stage['name']}"
            for family in (step.tool, *step.needs):
                self._place(draft, family, reason, last=bool(step.apart) and step.apart == end)
            for family in step.also:
                if family in self._wants:
                    self._place(draft, family, "asked for")
        self._add_beside(draft)
        added = {f"{name}{specifier}": why for name, (specifier, why) in draft.added.items()}
        limits = {f"{name}{specifier}": why for name, (specifier, why) in draft.limits.items()}
        return Environment(end, tuple(steps), tuple(draft.tools.values()), added, limits)

    def _place(self, draft: _Draft, family: str, reason: str, *, last: bool = False) -> None:
        """Put a package into an environment: its release, or what the resolver may choose from."""
        wants = self._order(family)
        starts = {step.tool for step in self._knowledge.steps if not step.always}
        if family in draft.tools or family in draft.added:
            return
        if family in starts or any(want.version is not None for want in wants):
            draft.tools[family] = self._settle(family, last=last)
        else:
            draft.added[family] = (wants[0].specifier if wants else SpecifierSet(), reason)

    def _add_beside(self, draft: _Draft) -> None:
        """Add what the releases want beside them, and narrow down what nobody pinned."""
        for tool in list(draft.tools.values()):
            for wanted, add in self._knowledge.list_beside(tool.family, tool.version):
                if add:
                    self._place(draft, wanted.name, f"needed by {tool.title}")
        for tool in draft.tools.values():
            for wanted, _ in self._knowledge.list_beside(tool.family, tool.version):
                if wanted.name not in draft.tools and not self._is_pinned(wanted.name):
                    table = draft.added if wanted.name in draft.added else draft.limits
                    specifier, why = table.get(wanted.name, (SpecifierSet(), ""))
                    if wanted.specifier and tool.title not in why:
                        why = f"{why}, {wanted.specifier} for {tool.title}".lstrip(", ")
                    table[wanted.name] = (specifier & wanted.specifier, why)

    def _is_pinned(self, family: str) -> bool:
        return any(want.version is not None for want in self._wants.get(family, ()))


@dataclass
class _Draft:
    """An environment in the making: releases, and what the resolver chooses, with the reasons."""

    tools: dict[str, Settled] = field(default_factory=dict)
    added: dict[str, tuple[SpecifierSet, str]] = field(default_factory=dict)
    limits: dict[str, tuple[SpecifierSet, str]] = field(default_factory=dict)


def _require_route(knowledge: Knowledge, asked: Iterable[Want]) -> None:
    """Raise `BadInput` unless the tools make TensorFlow Lite of something, whatever releases."""
    families = {knowledge.get_family(want.name) for want in asked}
    brought = {name for step in knowledge.steps if step.tool in families for name in step.needs}
    if find_routes(knowledge, dict.fromkeys(families | brought)):
        return
    there = ", ".join(sorted(families & {step.tool for step in knowledge.steps}))
    raise BadInput(
        f"These requirements name {there}, and nothing that makes TensorFlow Lite of a model."
        if there
        else "These requirements name no tool that converts models.",
        f"Add {knowledge.data['complete']}.",
    )
