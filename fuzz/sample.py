"""Reports as real runs leave them: those that the tests have."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

import sample_reports


def stage_report() -> dict[str, Any]:
    report: dict[str, Any] = sample_reports.stage("torch")["report"]
    return report


def run_reports() -> Sequence[bytes]:
    return [json.dumps(make()).encode() for make in sample_reports.KINDS.values()]
