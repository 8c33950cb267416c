"""How a run is made: where, within which limits, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.conversion.observer import Observer
from runner.engines.limits import DEFAULTS, Limits


@dataclass(frozen=True)
class RunSettings:
    """Everything about a run that changes nothing in what it makes.

    `engine` is 'auto', 'docker' or 'process'. `trust_model` lets a model that could run code be
    run where nothing isolates it. With `cache`, stages that were made of the same things before are
    taken from the cache. `sign` is a private key in PEM for the record. `diagnose` looks for the
    wrong operator where the result is out of tolerance.
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
