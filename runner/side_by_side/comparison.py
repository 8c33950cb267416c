"""The comparison of finished runs: a result for each toolchain, the matrix, the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.conversion.benchmark import Measurable
from runner.errors import ExitCode, RunnerError
from runner.report.side_by_side.matrix import judge_matrix, warn_of_matrix
from runner.report.side_by_side.verdict import choose, describe_choice, describe_costs
from runner.report.table import count_flex_operators, make_rows
from runner.schemas.benchmark import Benchmark
from runner.schemas.comparison import Comparison, Outcome, ToolchainResult
from runner.schemas.report import Report
from runner.side_by_side.candidates import Candidate

# From the worst down.
_SEVERITY = (
    ExitCode.INTERRUPTED,
    ExitCode.INTERNAL,
    ExitCode.ENVIRONMENT,
    ExitCode.STAGE_FAILED,
    ExitCode.BAD_INPUT,
    ExitCode.OUT_OF_TOLERANCE,
    ExitCode.VACUOUS,
    ExitCode.PASSED,
)


@dataclass(frozen=True)
class Run:
    """A toolchain's run: its report, or why there is none."""

    candidate: Candidate
    report: Report | None = None
    error: RunnerError | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of this run alone."""
        if self.report is not None:
            return ExitCode(self.report.exit_code)
        error = self.error or self.candidate.refusal
        if error is None:
            return ExitCode.INTERRUPTED
        refused = error is self.candidate.refusal
        return ExitCode.PASSED if refused and not self.candidate.asked else error.exit_code

    def measure(self) -> Measurable | None:
        """Return the final model of the run as something to measure, if there is one."""
        plan, final = self.candidate.plan, self._get_final()
        if plan is None or final is None or final.artifact is None or final.signature is None:
            return None
        path = plan.output / final.artifact.path
        if path.suffix != ".tflite" or not path.is_file():
            return None
        return Measurable(self.candidate.name, path, final.signature.model_dump())

    def _get_final(self) -> Any:
        last = self.report.stages[-1] if self.report and self.report.stages else None
        return last.report if last is not None and last.status == "ok" else None


def find_worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the worst of exit codes; that nothing ran is bad input."""
    return min(codes, key=_SEVERITY.index, default=ExitCode.BAD_INPUT)


def make_result(run: Run) -> ToolchainResult:
    """Make the result of a toolchain from its run's report."""
    candidate, report = run.candidate, run.report
    result = ToolchainResult(
        toolchain=candidate.name,
        description=candidate.chain.description,
        date=candidate.chain.date,
        outcome="not-run",
        exit_code=int(run.exit_code),
        home=candidate.chain.stages[-1].image,
    )
    if report is None:
        error = run.error or candidate.refusal
        if error is not None:
            result.outcome = "refused" if error is candidate.refusal else "failed"
            result.why, result.remedy = error.message, error.remedy
        return result
    assert candidate.plan is not None
    row = make_rows([(candidate.plan.output, report)])[0]
    failed = next((r for r in report.stages if r.status in ("failed", "interrupted")), None)
    outcome: Outcome = report.outcome
    final = report.stages[-1].report if failed is None else None
    outputs = final.check.outputs if final and final.check else []
    means = [output.mean_abs for output in outputs if output.mean_abs is not None]
    return result.model_copy(
        update={
            "folder": candidate.name,
            "outcome": outcome,
            "why": failed.failure.strip() if failed else row.reason,
            "remedy": failed.remedy if failed else "",
            "stage": failed.name if failed else "",
            "error": row.error,
            "mean_abs": max(means, default=None),
            "noise_floor": row.noise_floor,
            "times_noise_floor": max(
                (o.times_noise_floor for o in outputs if o.times_noise_floor), default=None
            ),
            "operators": row.operators,
            "flex": count_flex_operators(final.operators) if final else None,
            "bytes": row.bytes,
            "sha256": final.artifact.sha256 if final and final.artifact else None,
            "seconds": round(sum(r.report.seconds for r in report.stages if r.report), 3),
        }
    )


def complete(
    comparison: Comparison, runs: Sequence[Run], found: Benchmark | None, timed_in: str
) -> Comparison:
    """Return the comparison with results, latencies, matrix and verdict."""
    results = [make_result(run) for run in runs]
    if found is not None:
        for result in results:
            measured = found.find(timed_in, result.toolchain)
            result.latency = measured.latency if measured else []
    cells = judge_matrix(results, found) if found is not None else []
    best = choose(results, cells)
    for result in results:
        result.costs = describe_costs(result, best, cells)
    timed = next((r for r in found.runtimes if r.image == timed_in), None) if found else None
    return comparison.model_copy(
        update={
            "exit_code": int(find_worst(run.exit_code for run in runs)),
            "toolchains": results,
            "take": best.toolchain if best else None,
            "verdict": describe_choice(results, best),
            "warnings": warn_of_matrix(cells),
            "timed_in": timed.runtime if timed else "",
            "matrix": cells,
            "benchmark": found,
        }
    )


def merge(first: Benchmark, second: Benchmark) -> Benchmark:
    """Return one benchmark of two of the same files in different images."""
    return first.model_copy(
        update={
            "seconds": round(first.seconds + second.seconds, 3),
            "runtimes": [*first.runtimes, *second.runtimes],
        }
    )
