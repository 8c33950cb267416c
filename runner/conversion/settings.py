"""Settings of a run: where it runs, within which limits, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.conversion.observer import Observer
from runner.engines.limits import DEFAULTS, Limits

# How many of the check's samples a trace follows.
DEFAULT_SAMPLES = 8


@dataclass(frozen=True)
class RunSettings:
    """Everything about a run that does not change its result.

    `engine` is 'auto', 'docker' or 'process'. `trust_model` allows a model that could run code to
    run without isolation. `cache` takes stages from the cache that ran on the same input before.
    `sign` is a private key (PEM) to sign the record with. `diagnose` looks for the wrong operator
    if the result is out of tolerance.
    """

    output: Path | None = None
    engine: str = "auto"
    wheels: Sequence[str] = ()
    gpu: bool = False
    trust_model: bool = False
    limits: Limits = DEFAULTS
    cache: bool = True
    sign: Path | None = None
    diagnose: bool = True
    observer: Observer = field(default_factory=Observer)
