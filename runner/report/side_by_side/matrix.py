"""Which interpreter computes which file rightly: the matrix, and what it warns of.

A file of a newer converter in an older interpreter can compute wrongly without a complaint, since
an interpreter passes over fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.report.html import figures
from runner.report.side_by_side.wording import WARNINGS, name_failure
from runner.schemas.benchmark import Benchmark, FileResult, RuntimeResult
from runner.schemas.comparison import Cell, CellState, ToolchainResult

# So many times the error in the file's own interpreter is not another order of roundings.
FAR_ABOVE = 100.0
# Errors below this one, in float32 steps of 1, are all rounding.
_LEAST = 2.0**-24


def judge_matrix(results: Sequence[ToolchainResult], found: Benchmark) -> list[Cell]:
    """Judge every result in every interpreter, by its error in the result's own one.

    Where that has none, by its error in the check of its run.
    """
    cells = []
    for result in results:
        if found.find_file(result.toolchain) is None:
            continue
        home = found.find(result.home, result.toolchain)
        own = home.error.mean_abs if home and home.error else result.mean_abs
        own = max(own or 0.0, result.noise_floor or 0.0)
        for runtime in found.runtimes:
            measured = found.find(runtime.image, result.toolchain)
            state, error, why = _judge(measured, own, runtime)
            cells.append(
                Cell(
                    toolchain=result.toolchain,
                    image=runtime.image,
                    runtime=runtime.runtime,
                    home=runtime.image == result.home,
                    state=state,
                    error=error,
                    why=why,
                )
            )
    return cells


def _judge(
    measured: FileResult | None, own: float, runtime: RuntimeResult
) -> tuple[CellState, float | None, str]:
    if measured is None:
        return "unknown", None, runtime.failure
    if measured.failure:
        return "fails", None, name_failure(measured)
    error = measured.error
    if error is None:
        return "unknown", None, "There were no samples to run it on."
    if error.other_shape:
        return "wrong", None, "An output has another shape."
    if error.nonfinite or error.mean_abs is None:
        return "wrong", None, "Outputs are NaN or infinite."
    far = FAR_ABOVE * max(own, _LEAST)
    return ("wrong" if error.mean_abs > far else "right"), error.mean_abs, ""


def warn_of_matrix(cells: Sequence[Cell]) -> list[str]:
    """Warn in words of the interpreters that compute a file wrongly, or do not run it."""
    warnings = []
    for cell in sorted(cells, key=lambda cell: cell.state != "wrong"):
        if cell.state not in ("wrong", "fails"):
            continue
        own = next((c for c in cells if c.toolchain == cell.toolchain and c.home), None)
        kind = "useless" if cell.state == "wrong" and cell.why else cell.state
        warnings.append(
            WARNINGS[kind].format(
                runtime=f"{cell.runtime} ({cell.image})",
                toolchain=cell.toolchain,
                error=figures.scientific(cell.error),
                own=figures.scientific(own.error if own else None),
                home=f"{own.runtime} ({own.image})" if own else "its own interpreter",
                why=cell.why,
            )
        )
    return warnings
