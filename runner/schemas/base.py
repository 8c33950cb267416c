"""What all models share: bounded integers and the reading of untrusted JSON."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError

# Pydantic collects every error, at 330 bytes each. The longest possible report, with a trace of
# 4,000 points for each stage, has half as many items.
_MOST_ITEMS = 500_000
# With more errors than this, not even the first is looked at: each would cost a kilobyte.
_MOST_ERRORS = 1000

Model = TypeVar("Model", bound=BaseModel)

# JSON's integers are unbounded. Beyond 64 bits they mean nothing here.
# A bound that a field adds to one of these would be lost: the annotation's own replaces it.
_LIMIT = 1 << 63
Integer = Annotated[int, Field(ge=-_LIMIT, lt=_LIMIT)]
Natural = Annotated[int, Field(ge=0, lt=_LIMIT)]
Positive = Annotated[int, Field(ge=1, lt=_LIMIT)]


class Invalid(ValueError):
    """JSON that does not validate. `place` is where: a path of fields and indices, or ''."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}" if place else message)
        self.place, self.message = place, message


def validate_json(model: type[Model], text: bytes | str) -> Model:
    """Parse and validate JSON. Raises `Invalid`, which says the first thing that is wrong."""
    check_size(text)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise find_first_error(error) from None


def check_size(text: bytes | str) -> None:
    """Raise `Invalid` for more items than anything of ours has."""
    items = text.count(",") if isinstance(text, str) else text.count(b",")
    if items > _MOST_ITEMS:
        raise Invalid("", f"it has {items:,} items")


def find_first_error(error: ValidationError) -> Invalid:
    """Return the first thing that is wrong, in a few words."""
    if error.error_count() > _MOST_ERRORS:
        return Invalid("", f"{error.error_count():,} things in it are wrong")
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return Invalid(".".join(map(str, first["loc"]))[:200], first["msg"][:200])
