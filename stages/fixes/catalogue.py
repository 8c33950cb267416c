"""The catalogue of the fixes, catalogue.json, and what the option `fixes` chooses of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

from stages.kit.contract import InputError


@dataclass(frozen=True)
class Fix:
    """One repair of one upstream defect, applied in one stage.

    `issue` is where upstream discusses the defect, '' if no thread is known; `repaired_in` is the
    release that repaired it upstream, or 'never'.
    """

    name: str
    stage: str
    title: str
    defect: str
    issue: str
    repaired_in: str


def _read() -> Tuple[Fix, ...]:
    entries = json.loads((Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8"))
    return tuple(Fix(**entry) for entry in entries)


FIXES = _read()


def select(text: str, stage: str) -> List[Fix]:
    """Choose a stage's fixes by `text`: 'all', 'none', 'A,B', or '-A,-B' for all but these.

    Raises `InputError` for a name that is no fix of any stage.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = [fix.name for fix in FIXES]
    unknown = [w for w in words if w.lstrip("-") not in known and w not in ("all", "none")]
    if unknown or not words:
        raise InputError(
            f"There is no fix named {', '.join(unknown) or 'nothing'}.",
            f"The fixes are: {', '.join(known)}; or say 'all' or 'none'.",
        )
    # A list that only takes away starts from all.
    chosen = set(known) if all(word.startswith("-") for word in words) else set()
    for word in words:
        if word == "all":
            chosen = set(known)
        elif word == "none":
            chosen = set()
        elif word.startswith("-"):
            chosen.discard(word[1:])
        else:
            chosen.add(word)
    return [fix for fix in FIXES if fix.name in chosen and fix.stage == stage]


def resolve(options: Dict[str, Any], stage: str) -> List[str]:
    """Choose the stage's fixes that the option `fixes` asks for; their names.

    They replace what the option says: so the report names each, and a run made from it is the same
    when the catalogue has grown.
    """
    names = [fix.name for fix in select(options["fixes"], stage)]
    options["fixes"] = ",".join(names) or "none"
    return names
