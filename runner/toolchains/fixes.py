"""What the fixes are, for people: read from the stages' catalogue without running its code.

The stages are programs for Python 3.8 and their images; importing one changes the process (threads
of OpenMP). The catalogue is literals only, so its syntax tree says all there is to know.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runner.host.paths import ROOT


@dataclass(frozen=True)
class FixText:
    """A fix by its title and the upstream defect that it repairs."""

    name: str
    title: str
    defect: str
    issue: str


@cache
def fix_texts(root: Path = ROOT) -> Mapping[str, FixText]:
    """Every fix of the catalogue by name; those of reports that are not in it have no text."""
    catalogue = root / "stages/fixes/catalogue.py"
    try:
        tree = ast.parse(catalogue.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return {}
    texts = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        values = [item.value for item in call.args if isinstance(item, ast.Constant)]
        strings = [value for value in values if isinstance(value, str)]
        if len(strings) == len(call.args) >= 5:  # name, title, defect, issue, repaired_in
            texts[strings[0]] = FixText(*strings[:4])
    return texts
