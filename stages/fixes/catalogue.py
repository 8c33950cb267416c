"""The catalogue of fixes, catalogue.json, and the selection that the option `fixes` makes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

from stages.kit.contract import InputError


@dataclass(frozen=True)
class Fix:
    """One repair of one upstream defect, applied in one stage.

    `issue` is the upstream thread about the defect, '' if none is known; `repaired_in` is the
    upstream release that repaired it, or 'never'.
    """

    name: str
    stage: str
    title: str
    defect: str
    issue: str
    repaired_in: str


def _read_catalogue() -> Tuple[Fix, ...]:
    entries = json.loads((Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(Fix(**entry) for entry in entries)


FIXES = _read_catalogue()


def select(text: str, stage: str) -> List[Fix]:
    """Return a stage's fixes selected by `text`: 'all', 'none', 'A,B', or '-A,-B' to exclude some.

    Raises `InputError` if `text` is empty or names a fix that no stage has.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = [fix.name for fix in FIXES]
    unknown = [w for w in words if w.lstrip("-") not in known and w not in ("all", "none")]
    if unknown or not words:
        raise InputError(
            f"There is no fix named {', '.join(unknown) or 'nothing'}.",
            f"The fixes are: {', '.join(known)}; or say 'all' or 'none'.",
        )
    # A list of exclusions alone starts from all fixes.
    chosen = set(known) if all(word.startswith("-") for word in words) else set()
    for word in words:
        if word == "all":
            chosen |= set(known)
        elif word == "none":
            chosen = set()
        elif word.startswith("-"):
            chosen.discard(word[1:])
        else:
            chosen.add(word)
    return [fix for fix in FIXES if fix.name in chosen and fix.stage == stage]


def resolve(options: Dict[str, Any], stage: str) -> List[str]:
    """Return the names of the stage's fixes that the option `fixes` selects.

    They replace the option's text, so that the report lists each fix and a run repeated from the
    report is the same even after the catalogue has grown.
    """
    names = [fix.name for fix in select(options["fixes"], stage)]
    options["fixes"] = ",".join(names) or "none"
    return names
