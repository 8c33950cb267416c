"""Descriptions of the fixes for people, from the stages' catalogue, which is data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runner.host.paths import ROOT


@dataclass(frozen=True)
class Fix:
    """A fix: the stage it belongs to, its title, and the upstream defect that it repairs."""

    name: str
    stage: str
    title: str
    defect: str
    issue: str
    repaired_in: str


@cache
def load_fixes(root: Path = ROOT) -> Mapping[str, Fix]:
    """Read every fix of the catalogue by name, in its order."""
    entries = json.loads((root / "stages/fixes/catalogue.json").read_text(encoding="utf-8"))
    return {entry["name"]: Fix(**entry) for entry in entries}
