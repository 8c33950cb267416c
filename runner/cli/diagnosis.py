"""A diagnosis on the terminal: its summary, and a short table of the error by depth."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.host.text import make_printable
from runner.schemas.diagnosis import Diagnosis, QuantizedTrace, StageTrace, TracePoint

# Rows per stage: the wrong ones, both ends, and the largest steps between.
_ROWS = 8
_STYLES = {
    "found": "bold red",
    "cancellation": "bold red",
    "reference": "bold yellow",
    "quantization": "bold red",
    "incomplete": "yellow",
}


def render_diagnosis(diagnosis: Diagnosis) -> RenderableType:
    """Render the verdict, then the error curve of each stage, thinned out."""
    style = _STYLES.get(diagnosis.verdict, "bold green")
    parts: list[RenderableType] = [Text(make_printable(diagnosis.summary), style=style)]
    if diagnosis.others:
        layers = dict.fromkeys(" + ".join(c.modules) or c.tensor for c in diagnosis.others)
        more = ", ".join(list(layers)[:5]) + (" ..." if len(layers) > 5 else "")
        parts.append(Text(make_printable(f"Wrong besides: {more}.")))
    parts += [_tabulate(trace) for trace in diagnosis.stages if trace.trace and trace.trace.points]
    parts += [_tabulate_quantized(trace) for trace in diagnosis.quantized if trace.points]
    parts += [Text(f"note: {make_printable(note)}", style="dim") for note in diagnosis.notes]
    return Group(*parts)


def _tabulate(trace: StageTrace) -> RenderableType:
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
            Text(make_printable(_shorten(point.modules or point.nodes[-1:] or [point.tensor]))),
            Text(make_printable(_shorten(point.operators))),
            _format_figure(point.error),
            _format_figure(point.own_error),
            _format_figure(point.limit),
            style="red" if point.wrong else "",
        )
    return table


def _tabulate_quantized(trace: QuantizedTrace) -> Table:
    """Show the layers with faults, and those that cost the outputs most, in order of depth."""
    title = (
        f"{trace.mode}: {trace.matched} of {trace.tensors} tensors of {trace.artifact} compared, "
        f"{trace.samples} samples; signal to noise in dB"
    )
    table = Table(
        title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        pad_edge=False,
    )  # fmt: skip
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("layer", overflow="ellipsis", no_wrap=True, max_width=24)
    table.add_column("operators", overflow="ellipsis", no_wrap=True, max_width=14)
    for column in ("plain", "own", "output", "outside"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("why", no_wrap=True, min_width=len("saturated"))
    faults = {fault.tensor: fault for fault in trace.faults}
    order = sorted(
        range(len(trace.points)),
        key=lambda i: (trace.points[i].tensor not in faults, trace.points[i].output_sqnr),
    )
    for depth in sorted(order[:_ROWS]):
        point = trace.points[depth]
        fault = faults.get(point.tensor)
        table.add_row(
            str(depth + 1),
            Text(make_printable(_shorten(point.modules or [point.tensor.partition(";")[0]]))),
            Text(make_printable(_shorten(point.operators or ["-"]))),
            *(f"{ratio:.1f}" for ratio in (point.sqnr, point.own_sqnr, point.output_sqnr)),
            f"{point.outside:.1%}",
            fault.kind if fault else "",
            style="red" if fault else "",
        )
    return table


def choose_rows(points: list[TracePoint]) -> list[int]:
    """Choose the rows to show: wrong ones first, then both ends, then the largest own errors."""
    order = sorted(
        range(len(points)),
        key=lambda i: (not points[i].wrong, i not in (0, len(points) - 1), -points[i].ratio),
    )
    return sorted(order[:_ROWS])


def _shorten(names: list[str]) -> str:
    return names[0] + (f" +{len(names) - 1}" if len(names) > 1 else "")


def _format_figure(value: float) -> str:
    return "inf" if value >= 1e300 else f"{value:.1e}"
