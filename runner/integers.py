"""The integers of reports and records, which anybody may have written."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

# JSON's have no end. Beyond 64 bits they stand for nothing here, and no float can hold the largest.
Integer = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
