"""Reading what a stage says of itself: bounded, without control characters, and validated."""

from __future__ import annotations

from typing import Any

import pydantic_core
from pydantic import ValidationError

from runner.engines.output import plain
from runner.report import StageReport

# A note or a message is for a person; what is longer is not.
_LONGEST_TEXT = 20_000
_DEEPEST = 20


def read_report(content: bytes) -> StageReport:
    """A stage's report. Raises `ValueError`, whose text says what is wrong with it."""
    try:
        data = pydantic_core.from_json(content, allow_inf_nan=False)
        return StageReport.model_validate(_cleaned(data))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"The stage's report is not valid: {plain(place)[:200]}: {first['msg'][:200]}"
        ) from None
    except ValueError as error:
        raise ValueError(f"The stage's report is not valid: {plain(str(error))[:200]}") from None


def _cleaned(data: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(data, str):
        return plain(data[:_LONGEST_TEXT])
    if isinstance(data, list):
        return [_cleaned(item, depth + 1) for item in data]
    if isinstance(data, dict):
        return {_cleaned(k, depth + 1): _cleaned(v, depth + 1) for k, v in data.items()}
    return data
