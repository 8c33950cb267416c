"""An inspection on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.host.files import format_bytes
from runner.host.text import make_printable
from runner.schemas.inspection import Inspection, TensorFacts

_MOST_OPERATORS = 24
_MOST_TENSORS = 12
_MOST_CHARACTERS = 2000


def render_inspection(found: Inspection) -> RenderableType:
    """Render what the file is, line by line, and at the end what can be done with it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _make_rows(found):
        grid.add_row(name, Text(make_printable(value)))
    title = Text(make_printable(f"{found.path}: {found.what}"), style="bold")
    parts: list[RenderableType] = [title.append(f", {format_bytes(found.bytes)}", "dim"), grid]
    parts += [Text(f"note: {make_printable(note)}", style="dim") for note in found.notes]
    parts += _render_verdict(found)
    return Group(*parts)


def _make_rows(found: Inspection) -> list[tuple[str, str]]:
    rows = [("written by", found.written_by)]
    rows += [(name, value) for name, value in found.details.items()]
    rows += _make_tensor_rows("inputs", found.inputs)
    rows += _make_tensor_rows("outputs", found.outputs)
    if found.operators:
        kinds = list(found.operators.items())
        shown = ", ".join(f"{kind} {count}" for kind, count in kinds[:_MOST_OPERATORS])
        if len(kinds) > _MOST_OPERATORS:
            shown += f" and {len(kinds) - _MOST_OPERATORS} kinds more"
        total = sum(found.operators.values())
        rows.append(("operators", f"{total:,} of {len(kinds)} kinds: {shown}"))
    if found.parameters is not None:
        types = ", ".join(
            kind if len(found.parameter_types) == 1 else f"{kind} {count:,}"
            for kind, count in found.parameter_types.items()
        )
        rows.append(("parameters", f"{found.parameters:,}" + (f" ({types})" if types else "")))
    rows.append(("layout", found.layout))
    rows.append(("Flex operators", ", ".join(found.flex)))
    rows.append(("custom operators", ", ".join(found.custom)))
    rows.append(("sha256", found.sha256 or ""))
    if found.loaded is not None:
        state = "loads it" if found.loaded.ok else f"refuses it: {found.loaded.message}"
        rows.append(("loaded", f"{found.loaded.framework} {state} ({found.loaded.engine} engine)"))
        rows += list(found.loaded.facts.items())
    return [(_cut(name), _cut(value)) for name, value in rows if value]


def _cut(text: str) -> str:
    """Shorten a text for a person: a name may have megabytes, and there may be 100,000 names."""
    left = len(text) - _MOST_CHARACTERS
    return text if left <= 0 else f"{text[:_MOST_CHARACTERS]} ... and {left:,} characters more"


def _make_tensor_rows(title: str, tensors: Sequence[TensorFacts] | None) -> list[tuple[str, str]]:
    rows = []
    for index, tensor in enumerate((tensors or ())[:_MOST_TENSORS]):
        if tensor.shape is None:
            shape = "(shape not stated)"
        else:
            shape = "x".join(map(str, tensor.shape)) or "scalar"
        dtype = "" if tensor.dtype == "?" else tensor.dtype
        text = " ".join(filter(None, (tensor.name, shape, dtype, _bracket(tensor.quantization))))
        rows.append(("" if index else title, text))
    if tensors and len(tensors) > _MOST_TENSORS:
        rows.append(("", f"and {len(tensors) - _MOST_TENSORS} more"))
    return [(name or " ", value) for name, value in rows]


def _bracket(text: str) -> str:
    return f"({text})" if text else ""


def _render_verdict(found: Inspection) -> list[RenderableType]:
    taken = found.toolchain
    parts: list[RenderableType] = []
    if found.not_loaded:
        parts.append(Text(f"not loaded: {make_printable(found.not_loaded)}.", style="dim"))
    if taken.accepted is None:
        parts.append(
            Text(f"It is converted already. Check it against its origin: {_format_command(found)}")
        )
    elif taken.accepted:
        parts.append(
            Text("This toolchain takes it: ", style="green").append(_format_command(found), "bold")
        )
    else:
        parts.append(Text("This toolchain cannot take it as it is.", style="yellow"))
        for obstacle in taken.obstacles:
            parts.append(Text(f"  {make_printable(obstacle.reason)}"))
            if obstacle.remedy:
                parts.append(Text(f"  → {make_printable(obstacle.remedy)}"))
    return parts


def _format_command(found: Inspection) -> str:
    return f"{found.toolchain.command} {shlex.quote(make_printable(found.path))}"
