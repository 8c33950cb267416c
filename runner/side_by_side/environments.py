"""The environments of all toolchains, prepared up front; one that cannot be had stops no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.conversion.settings import RunSettings
from runner.engines.select import Choice, prepare_engine
from runner.errors import EnvironmentUnavailable, RunnerError
from runner.planning.plan import Plan
from runner.side_by_side.candidates import Candidate
from runner.toolchains.model import Image
from runner.trust.scan import make_trust_check


@dataclass(frozen=True)
class Prepared:
    """What is ready: an engine, if any toolchain is, and the images of the tools that are.

    `errors` are of the toolchains whose environments cannot be had, by name; `candidates` are all,
    without the plans of these.
    """

    choice: Choice | None
    candidates: Sequence[Candidate]
    tools: Sequence[Image]
    errors: dict[str, RunnerError]


def prepare(
    found: Sequence[Candidate], tools: Sequence[Image], settings: RunSettings, first: Plan
) -> Prepared:
    """Prepare the environments of every plan, and of the tools.

    Raises `BadInput` where the model could run code that nothing would hold back.
    """
    may_run_code = make_trust_check(
        {first.model.path: first.model.format}, first.arch_file, trusted=settings.trust_model
    )

    def try_to(images: Sequence[Image]) -> Choice:
        unique = {image.name: image for image in images}
        return prepare_engine(
            settings.engine,
            list(unique.values()),
            settings.observer,
            settings.limits,
            may_run_code,
        )

    wanted = {c.name: list(c.plan.images.values()) for c in found if c.plan is not None}
    try:
        everything = [*(image for images in wanted.values() for image in images), *tools]
        return Prepared(try_to(everything), found, tools, {})
    except EnvironmentUnavailable:
        pass  # which one is it?
    errors: dict[str, RunnerError] = {}
    for name, images in wanted.items():
        try:
            try_to(images)
        except EnvironmentUnavailable as error:
            errors[name] = error
    ready = [image for name in wanted if name not in errors for image in wanted[name]]
    left = [replace(c, plan=None) if c.name in errors else c for c in found]
    if not ready:
        return Prepared(None, left, (), errors)
    try:
        return Prepared(try_to([*ready, *tools]), left, tools, errors)
    except EnvironmentUnavailable:
        return Prepared(try_to(ready), left, (), errors)
