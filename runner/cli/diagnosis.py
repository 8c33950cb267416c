"""A diagnosis as a person reads it: the sentence, and a short table of the error by depth."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.host.text import printable
from runner.schemas.diagnosis import Diagnosis, StageTrace, TracePoint

# Rows a stage: the ends, the wrong ones, and the largest steps between.
_ROWS = 8
_STYLES = {"found": "bold red", "reference": "bold yellow", "incomplete": "yellow"}


def render_diagnosis(diagnosis: Diagnosis) -> RenderableType:
    """The verdict first, then each stage's curve, thinned out."""
    style = _STYLES.get(diagnosis.verdict, "bold green")
    parts: list[RenderableType] = [Text(printable(diagnosis.summary), style=style)]
    if diagnosis.others:
        layers = dict.fromkeys(" + ".join(c.modules) or c.tensor for c in diagnosis.others)
        more = ", ".join(list(layers)[:5]) + (" ..." if len(layers) > 5 else "")
        parts.append(Text(printable(f"Wrong besides: {more}.")))
    parts += [_table(trace) for trace in diagnosis.stages if trace.trace and trace.trace.points]
    parts += [Text(f"note: {printable(note)}", style="dim") for note in diagnosis.notes]
    return Group(*parts)


def _table(trace: StageTrace) -> RenderableType:
    assert trace.trace is not None
    title = (
        f"{trace.stage}: {trace.trace.matched} of {trace.trace.tensors} tensors of "
        f"{trace.artifact} compared, {trace.trace.samples} samples"
    )
    table = Table(
        title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False,
    )  # fmt: skip
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("layer", overflow="ellipsis", no_wrap=True, max_width=30)
    table.add_column("operators", overflow="ellipsis", no_wrap=True, max_width=18)
    for column in ("error", "own", "rounding"):
        table.add_column(column, justify="right", no_wrap=True, min_width=len("rounding"))
    for depth in choose_rows(trace.trace.points):
        point = trace.trace.points[depth]
        table.add_row(
            str(depth + 1),
            Text(printable(_short(point.modules or point.nodes[-1:] or [point.tensor]))),
            Text(printable(_short(point.operators))),
            _figure(point.error),
            _figure(point.own_error),
            _figure(point.limit),
            style="red" if point.wrong else "",
        )
    return table


def choose_rows(points: list[TracePoint]) -> list[int]:
    """The rows to show: wrong ones first, then both ends, then the largest own errors."""
    order = sorted(
        range(len(points)),
        key=lambda i: (not points[i].wrong, i not in (0, len(points) - 1), -points[i].ratio),
    )
    return sorted(order[:_ROWS])


def _short(names: list[str]) -> str:
    return names[0] + (f" +{len(names) - 1}" if len(names) > 1 else "")


def _figure(value: float) -> str:
    return "inf" if value >= 1e300 else f"{value:.1e}"
