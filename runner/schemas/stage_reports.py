"""The reader of stage reports: bounded, free of control characters, and validated."""

from __future__ import annotations

from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from runner.host.files import format_bytes
from runner.host.text import strip_control
from runner.schemas.base import check_size, find_first_error
from runner.schemas.report import StageReport

# A note or a message is for a person, who reads nothing longer than this.
_LONGEST_TEXT = 20_000
_DEEPEST = 20
# Parsed, it takes fifty times as much memory. The trace of a large model takes 2 MB.
_MOST_BYTES = 8 << 20

Model = TypeVar("Model", bound=BaseModel)


def read_report(content: bytes) -> StageReport:
    """Read a stage's report. Raises `ValueError`, whose text says what is wrong with it."""
    return read_answer(content, StageReport, "report")


def read_answer(content: bytes, model: type[Model], what: str) -> Model:
    """Read something else that a stage wrote as JSON. Raises `ValueError` as `read_report` does."""
    wrong = f"The stage's {what} is not valid"
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{wrong}: it has {format_bytes(len(content))}")
    try:
        check_size(content)
        data = pydantic_core.from_json(content, allow_inf_nan=False)
        return model.model_validate(_clean(data))
    except ValidationError as error:
        raise ValueError(
            f"{wrong}: {' '.join(strip_control(str(find_first_error(error))).split())}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{wrong}: {strip_control(str(error))[:200]}") from None


def _clean(data: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(data, str):
        return strip_control(data[:_LONGEST_TEXT])
    if isinstance(data, list):
        return [_clean(item, depth + 1) for item in data]
    if isinstance(data, dict):
        return {_clean(k, depth + 1): _clean(v, depth + 1) for k, v in data.items()}
    return data
