"""The words and signs for what came of a conversion, which terminal, page and comparison share."""

from __future__ import annotations

from collections.abc import Mapping

from runner.report.wording import Mark

OUTCOMES: Mapping[str, Mark] = {
    "passed": Mark("pass", "✓", "passed"),
    "rounding": Mark("pass", "≈", "passed at rounding", "at rounding"),
    "out-of-tolerance": Mark("warn", "!", "out of tolerance", "out of tol."),
    "vacuous": Mark("warn", "?", "proves nothing", "vacuous"),
    "refused": Mark("idle", "–", "refused"),
    "failed": Mark("fail", "✕", "failed"),
    "killed": Mark("fail", "†", "ended its worker", "killed"),
    "unavailable": Mark("fail", "∅", "environment unavailable", "no environ."),
    "missing": Mark("idle", "·", "no result yet", "missing"),
}
# From best to worst; what is next to each other is told apart by the error alone.
RANKS: Mapping[str, int] = {
    "passed": 0,
    "rounding": 0,
    "vacuous": 1,
    "out-of-tolerance": 2,
    "failed": 3,
    "killed": 3,
    "refused": 3,
    "unavailable": 3,
    "missing": 3,
}
