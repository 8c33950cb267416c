"""How long one run of a model takes, in turns with others."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from runner.schemas.base import Positive

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Latency(BaseModel):
    """The seconds of one run: the median of each turn, and over all turns the order statistics.

    `low` and `high` are the quartiles.
    """

    model_config = ConfigDict(extra="forbid")

    threads: Positive
    turns: Positive
    least: Seconds
    low: Seconds
    median: Seconds
    high: Seconds
    most: Seconds
