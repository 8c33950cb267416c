"""The integers of reports and records, which anybody may have written."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

# JSON's have no end. Beyond 64 bits they stand for nothing here, and no float can hold the largest.
# A bound that a field adds to one of these would be lost: the annotation's own takes its place.
_MOST = 1 << 63
Integer = Annotated[int, Field(ge=-_MOST, lt=_MOST)]
Natural = Annotated[int, Field(ge=0, lt=_MOST)]
Positive = Annotated[int, Field(ge=1, lt=_MOST)]
