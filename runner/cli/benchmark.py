"""The tables of a benchmark: one for each interpreter, with a row for each file."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.host.files import format_bytes
from runner.host.text import make_printable
from runner.report.side_by_side.wording import format_seconds, format_spread, name_failure
from runner.schemas.benchmark import Benchmark, FileResult, RuntimeResult


def render_benchmark(found: Benchmark) -> RenderableType:
    """Render a benchmark; a latency is the median of its turns, with their quartiles below."""
    sizes = {file.name: file.bytes for file in found.files}
    parts: list[RenderableType] = []
    for runtime in found.runtimes:
        if runtime.failure:
            parts.append(_warn(f"{_name(runtime)}: {runtime.failure}"))
            continue
        if any(not result.failure for result in runtime.files):
            parts.append(_render_runtime(runtime, sizes))
        parts += [
            _warn(f"{_name(runtime)} does not run {result.file}: {name_failure(result)}")
            for result in runtime.files
            if result.failure
        ]
    told = f"{found.rounds} rounds, {found.cores} cores, {found.engine} engine"
    return Group(*parts, Text(told, style="dim"))


def _render_runtime(runtime: RuntimeResult, sizes: dict[str, int]) -> Table:
    ran = [result for result in runtime.files if not result.failure]
    table = Table(
        title=Text(make_printable(_name(runtime))),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("file", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    threads = [latency.threads for latency in ran[0].latency]
    for count in threads:
        table.add_column(f"{count} thread{'s' if count > 1 else ''}", justify="right", no_wrap=True)
    with_errors = any(result.error for result in ran)
    if with_errors:
        table.add_column("error", justify="right", no_wrap=True)
    for result in ran:
        times = [
            Text(format_seconds(latency.median)).append(f"\n{format_spread(latency)}", "dim")
            for latency in result.latency
        ]
        error = [Text(format_error(result))] if with_errors else []
        size = Text(format_bytes(sizes[result.file]))
        table.add_row(Text(make_printable(result.file)), size, *times, *error)
    return table


def format_error(result: FileResult) -> str:
    """Format the error of a file in an interpreter; '' where none is known."""
    if result.error is None:
        return ""
    if result.error.other_shape:
        return "other shape"
    return "NaN" if result.error.mean_abs is None else f"{result.error.mean_abs:.1e}"


def _name(runtime: RuntimeResult) -> str:
    return f"{runtime.runtime} ({runtime.image})"


def _warn(text: str) -> Text:
    return Text(make_printable(text), style="yellow")
