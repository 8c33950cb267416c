"""The choice of a run's engine, with its reason, which is shown and recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.engines.limits import DEFAULTS, Limits
from runner.errors import BadInput, EnvironmentUnavailable
from runner.host.machine import describe_platform, runs_stages

if TYPE_CHECKING:
    from runner.engines.base import Engine, Progress
    from runner.engines.process.engine import ProcessEngine
    from runner.toolchains.model import Image

ENGINES = ("auto", "docker", "process")


@dataclass(frozen=True)
class Choice:
    """An engine whose environments are ready, and why it was chosen."""

    engine: Engine
    reason: str


def prepare_engine(
    wanted: str,
    images: Sequence[Image],
    progress: Progress,
    limits: Limits = DEFAULTS,
    code_in_model: Callable[[], str] = str,
) -> Choice:
    """Prepare the engine that was asked for; for `auto`, docker where it works, else process.

    Docker works if a daemon answers and the images exist or can be built. `code_in_model` is
    called if nothing isolates the stages: it says why the model could run code of its own, if it
    could. Raises `BadInput` for an unknown name and for such a model, `EnvironmentUnavailable` if
    the environments are unavailable.
    """
    if wanted not in ENGINES:
        raise BadInput(f"There is no engine '{wanted}'.", f"Engines: {', '.join(ENGINES)}.")
    if wanted == "process":
        return _prepare_process_engine(images, progress, "asked for", limits, code_in_model)
    # Imported late, so that the process engine does not pay for the docker SDK.
    from runner.engines.docker.client import connect
    from runner.engines.docker.engine import DockerEngine

    try:
        engine = DockerEngine(connect(), limits)
        engine.prepare(images, progress)
    except EnvironmentUnavailable as error:
        if wanted == "docker":
            raise
        return _prepare_process_engine(images, progress, error.message, limits, code_in_model)
    if wanted == "docker":
        return Choice(engine, "asked for")
    state = f"built now: {', '.join(engine.built)}" if engine.built else "the images are here"
    return Choice(engine, f"a Docker engine answers; {state}")


def make_process_engine(limits: Limits = DEFAULTS) -> ProcessEngine:
    """Make the process engine. Raises `EnvironmentUnavailable` where it does not run."""
    if not runs_stages():
        raise EnvironmentUnavailable(
            f"The process engine needs Linux on x86-64; this is {describe_platform()}.",
            "Start Docker, which runs the stages' images here too (docs/hosts.md).",
        )
    # Imported late: this is the seam behind which everything may be Linux's own.
    from runner.engines.process.engine import ProcessEngine

    return ProcessEngine(limits)


def _prepare_process_engine(
    images: Sequence[Image],
    progress: Progress,
    reason: str,
    limits: Limits,
    code_in_model: Callable[[], str],
) -> Choice:
    try:
        engine = make_process_engine(limits)
    except EnvironmentUnavailable as error:
        if reason == "asked for":
            raise
        raise EnvironmentUnavailable(f"{error.message} {reason}", error.remedy) from None
    found = code_in_model() if engine.sandbox is None else ""
    if found:
        from runner.engines.process.bubblewrap import find_sandbox

        raise BadInput(
            f"{found} Nothing would hold it back here: {find_sandbox()}, and "
            + (
                "--engine process was asked for."
                if reason == "asked for"
                else f"docker cannot serve ({reason})."
            ),
            "Install bubblewrap, or use --engine docker; or, if you trust whoever made it: "
            "--trust-model.",
        )
    engine.prepare(images, progress)
    return Choice(engine, reason.rstrip("."))
