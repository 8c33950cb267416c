"""The Pythons that an environment can have: those that its releases install under."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.errors import BadInput, EnvironmentUnavailable
from runner.host.compat import tomllib
from runner.host.paths import ROOT
from runner.packages.cpython import find_cpython
from runner.recipes.compose import Environment
from runner.recipes.knowledge import Knowledge


def list_pythons(
    environment: Environment, knowledge: Knowledge, pythons: Sequence[str], as_of: str
) -> Iterator[tuple[str, str]]:
    """Yield the Pythons under which all tools install, with the platform, in the given order.

    Raises `BadInput` if there are none, `EnvironmentUnavailable` if none of them can be had.
    """
    wanted = knowledge.choose_platform(as_of)
    platforms = dict.fromkeys([wanted, *(p["name"] for p in knowledge.data["platform"])])
    fitting: dict[str, str] = {}
    for python in pythons:
        for platform in platforms:
            if all(tool.release.installs(python, platform) for tool in environment.tools):
                fitting.setdefault(python, platform)
    if not fitting:
        raise _explain(environment, pythons, wanted)
    there = [python for python in fitting if _can_be_had(python)]
    if not there:
        raise EnvironmentUnavailable(
            f"These releases need Python {', '.join(fitting)}, which is not on this machine.",
            f"Install one: pyenv install {next(iter(fitting))}.",
        )
    yield from ((python, fitting[python]) for python in there)


def _explain(environment: Environment, pythons: Sequence[str], platform: str) -> BadInput:
    found = {
        str(tool.release): [p for p in pythons if tool.release.installs(p, platform)]
        for tool in environment.tools
    }
    said = "; ".join(f"{pin}: {', '.join(p) or 'none'}" for pin, p in found.items())
    return BadInput(
        f"No Python of {', '.join(pythons)} runs all of these releases ({said}).",
        "Pin releases of one year, or name another --python.",
    )


def _can_be_had(python: str) -> bool:
    """Tell whether a Python is on this machine, or is one that uv installs."""
    if python in tomllib.loads((ROOT / "images" / "cpython.toml").read_text()):
        return True
    try:
        find_cpython(python, install=False)
    except EnvironmentUnavailable:
        return False
    return True
