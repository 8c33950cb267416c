"""What is written for machines: report.json, the record of a run, diagnoses, inspections."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


def written_for_machines() -> dict[str, type[BaseModel]]:
    """List the models of which docs/schemas has a JSON schema, by its name."""
    # Late: a run needs few of them.
    from runner.schemas.inspection import Inspection
    from runner.schemas.provenance import Provenance, TestResultStatement
    from runner.schemas.report import Report, StageReport
    from runner.schemas.reproduction import Reproduction

    return {
        "report": Report,
        "stage-report": StageReport,
        "provenance": Provenance,
        "test-result": TestResultStatement,
        "reproduction": Reproduction,
        "inspection": Inspection,
    }
