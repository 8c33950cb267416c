"""The machine-readable formats: report.json, the record of a run, diagnoses, inspections."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


def list_schema_models() -> dict[str, type[BaseModel]]:
    """Return the models whose JSON schemas are in docs/schemas, by the schema's name."""
    # Imported late: a run needs few of them.
    from runner.schemas.benchmark import Benchmark
    from runner.schemas.comparison import Comparison
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
        "comparison": Comparison,
        "benchmark": Benchmark,
    }
