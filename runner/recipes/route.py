"""Which steps lead from a kind of model to TensorFlow Lite, with the tools that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.version import Version

from runner.recipes.knowledge import Knowledge, Step

# The kinds of models that chains start from, each with the `accepts` of its toolchain.
STARTS: Mapping[str, str] = {"pytorch": "pytorch", "given-onnx": "onnx"}
END = "tflite"


@dataclass(frozen=True)
class Route:
    """Steps in order, and what the toolchain that they make accepts."""

    accepts: str
    steps: tuple[Step, ...]


def find_routes(knowledge: Knowledge, tools: Mapping[str, Version | None]) -> list[Route]:
    """Find a route from each kind of model, where the tools and their releases make one.

    A version of None stands for any release.
    """
    routes = []
    for start, accepts in STARTS.items():
        steps = _follow(knowledge.steps, start, tools)
        if steps:
            routes.append(Route(accepts, steps))
    return routes


def _follow(
    steps: Sequence[Step], kind: str, tools: Mapping[str, Version | None]
) -> tuple[Step, ...]:
    """Return the first way from a kind of model to the end; () if there is none."""
    for step in steps:
        there = step.tool in tools or step.always
        if step.takes != kind or not there or not step.takes_release(tools.get(step.tool)):
            continue
        if step.makes == END:
            return (step,)
        rest = _follow(steps, step.makes, tools)
        if rest:
            return (step, *rest)
    return ()
