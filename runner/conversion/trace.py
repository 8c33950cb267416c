"""Finding the first operator that introduces an error: trace each stage, and judge the traces.

`trace_run` works in the open volume of a run; `diagnose` opens one for a finished run's folder.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.conversion.observer import Observer
from runner.conversion.settings import DEFAULT_SAMPLES
from runner.conversion.stage_log import stream_output
from runner.engines.base import Volume
from runner.errors import RunnerError
from runner.schemas.diagnosis import Culprit, Diagnosis, Named, StageTrace, TracePoint
from runner.schemas.report import StageRecord, StageReport
from runner.schemas.stage_reports import read_report
from runner.toolchains.model import Stage, Toolchain

# At most this many of them are the worst of the check; the rest are its first.
_WORST = 4
_MOST_OTHERS = 20
# As many times the reference's own rounding count as rounding (stages/kit/statistics.py).
_AT_ROUNDING = 2
# The first and the worst one.
_FEW_SAMPLES = 2
_UNTRACED = "no program compares its tensors"
# So many times the reference's own rounding is not the sum of roundings in another order.
_MOST_NOISE_FLOORS = 10


def trace_run(
    chain: Toolchain,
    volume: Volume,
    records: Sequence[StageRecord],
    check: Mapping[str, Any],
    folder: Path,
    view: Observer,
    samples: int = DEFAULT_SAMPLES,
) -> Diagnosis:
    """Trace each stage that made an artifact, in order; never raise for what a trace does.

    `volume` holds the model, the artifacts and the stages' reports; `check` is what the run was
    asked to check with. Logs go to the run folder.
    """
    begin = time.monotonic()
    reports = {record.name: record.report for record in records if record.report}
    numbers = choose_samples(list(reports.values()), int(check["samples"]), samples)
    traces: list[StageTrace] = []
    # Where nothing is traced, that is said once.
    traceable, before = any(stage.trace for stage in chain.stages), None
    for stage in chain.stages:
        report = reports.get(stage.name)
        if report is None or report.artifact is None or report.signature is None:
            break
        if stage.trace:
            traces.append(_trace_stage(stage, report, volume, check, numbers, folder, view))
        elif traceable and _adds_error(report, before):
            traces.append(
                StageTrace(
                    stage=stage.name, artifact=stage.produces, seconds=0.0, failure=_UNTRACED
                )
            )
        before = report
    return judge(
        traces, numbers, round(time.monotonic() - begin, 3), _count_noise_floors(reports.values())
    )


def _adds_error(report: StageReport, before: StageReport | None) -> bool:
    """Tell whether a stage's artifact is further off than what it was made from, if that is known.

    Two runtimes round differently, so it is twice as far at least.
    """
    if report.check is None or before is None or before.check is None:
        return True
    pairs = zip(report.check.outputs, before.check.outputs, strict=False)
    errors = [(own.mean_abs, earlier.mean_abs) for own, earlier in pairs]
    return any(own is None or earlier is None or own > 2 * earlier for own, earlier in errors)


def _count_noise_floors(reports: Iterable[StageReport]) -> float | None:
    """Return how many times the reference's own rounding the error of the last check is."""
    checks = [report.check for report in reports if report.check]
    outputs = checks[-1].outputs if checks else []
    return max((o.times_noise_floor for o in outputs if o.times_noise_floor), default=None)


def count_samples(reports: Sequence[StageReport]) -> int:
    """Return how many samples to trace unasked: few where the result's error is at rounding.

    Most likely no operator is wrong then, and the trace would take as long as the whole run.
    """
    floors = _count_noise_floors(reports)
    at_rounding = floors is not None and floors <= _AT_ROUNDING
    return _FEW_SAMPLES if at_rounding else DEFAULT_SAMPLES


def choose_samples(reports: Sequence[StageReport], available: int, wanted: int) -> list[int]:
    """Choose the samples to trace: the first, the worst ones of the last check, then the next ones.

    The model was exported with the first.
    """
    checks = [report.check for report in reports if report.check]
    outputs = checks[-1].outputs if checks else []
    worst = [worst.sample for output in outputs for worst in output.worst_samples[:_WORST]]
    count = checks[-1].samples if checks else available
    chosen = dict.fromkeys([0, *worst[:_WORST], *range(min(count, wanted))])
    return [number for number in chosen if number < count][:wanted]


def _trace_stage(
    stage: Stage,
    report: StageReport,
    volume: Volume,
    check: Mapping[str, Any],
    numbers: Sequence[int],
    folder: Path,
    view: Observer,
) -> StageTrace:
    tracer = stage.tracer
    assert report.signature is not None
    # The tracing program ignores options that it does not have.
    request = {
        "options": report.options,
        "signature": report.signature.model_dump(),
        "check": dict(check),
        "trace": {"samples": list(numbers)},
    }
    record = StageRecord(name=tracer.name, title=tracer.title, status="failed")
    view.stage_started(tracer)
    begin = time.monotonic()
    trace = StageTrace(stage=stage.name, artifact=stage.produces, seconds=0.0)
    try:
        volume.put(
            {
                f"requests/{tracer.name}.json": json.dumps(request).encode(),
                f"reports/{tracer.name}.json": b"",
            }
        )
        log = folder / f"logs/{tracer.name}.log"
        with stream_output(tracer, view, log, volume.limits.log) as on_line:
            ended = volume.run(tracer, on_line)
        _read(trace, volume.read(f"reports/{tracer.name}.json"), ended.reason or str(ended.status))
    except (RunnerError, OSError) as error:
        trace.failure = str(error)
    finally:
        trace.seconds = record.seconds = round(time.monotonic() - begin, 3)
        record.status = "ok" if trace.trace else "failed"
        view.stage_finished(record)
    return trace


def _read(trace: StageTrace, text: bytes | None, ended: str) -> None:
    if not text:
        trace.failure = f"The tracing program left no report ({ended})."
        return
    try:
        report = read_report(text)
    except ValueError as error:
        trace.failure = str(error)
        return
    trace.trace = report.trace
    if report.error is not None:
        trace.failure = report.error.message
    elif report.trace is None:
        trace.failure = f"The tracing program reports nothing ({ended})."


def judge(
    traces: Sequence[StageTrace],
    numbers: Sequence[int],
    seconds: float,
    noise_floors: float | None = None,
) -> Diagnosis:
    """Judge by the traces: name the first wrong operator of the first stage that has one.

    `noise_floors` is the error of the result in multiples of the reference's own rounding.
    """
    found = [
        _make_culprit(trace, point)
        for trace in traces
        for point in (trace.trace.points if trace.trace else ())
        if point.wrong
    ]
    culprit = found[0] if found else None
    unfinished = [trace for trace in traces if trace.failure]
    ill = next(
        (
            (trace, point)
            for trace in traces[:1]
            for point in (trace.trace.points if trace.trace else ())
            if point.reference_nonfinite
        ),
        None,
    )
    diagnosis = Diagnosis(
        verdict="rounding",
        summary="",
        culprit=culprit,
        others=found[1 : 1 + _MOST_OTHERS],
        samples=list(numbers),
        notes=[
            *(
                f"{trace.stage}: {note}"
                for trace in traces
                if trace.trace
                for note in trace.trace.notes
            ),
            *(f"{trace.stage} could not be traced: {trace.failure}" for trace in unfinished),
        ],
        seconds=seconds,
        stages=list(traces),
    )
    if culprit is not None:
        diagnosis.verdict, diagnosis.summary = "found", _describe_culprit(culprit)
    elif ill is not None:
        diagnosis.verdict = "reference"
        diagnosis.named = Named(stage=ill[0].stage, tensor=ill[1].tensor)
        diagnosis.summary = (
            f"The reference itself holds NaN or infinity from '{_name_layer(ill[1])}' on "
            f"({', '.join(ill[1].operators)})."
        )
    elif unfinished or not any(trace.trace for trace in traces):
        diagnosis.verdict = "incomplete"
        diagnosis.summary = "No operator that could be compared is wrong; some could not be."
    elif noise_floors is not None and noise_floors > _MOST_NOISE_FLOORS:
        diagnosis.verdict = "cancellation"
        step = _find_largest_step(traces)
        grows = ""
        if step is not None:
            growth, trace, point = step
            diagnosis.named = Named(stage=trace.stage, tensor=point.tensor)
            grows = f" It grows most, {growth:.3g} times, at '{_name_layer(point)}'."
        diagnosis.summary = (
            f"No operator is wrong by itself, yet the error is {noise_floors:.3g} times float32 "
            "rounding: operators lose digits together, as where nearly equal numbers are "
            f"subtracted.{grows}"
        )
    else:
        diagnosis.summary = (
            "No operator is wrong: each adds no more than float32 rounding to its inputs, which "
            "grows on the way to the outputs."
        )
    return diagnosis


def _find_largest_step(
    traces: Sequence[StageTrace],
) -> tuple[float, StageTrace, TracePoint] | None:
    """Find the point whose error, relative to its tensor, is most times that of the one before it.

    One before it in depth, within a stage. Return how many times, too; None if none grows.
    """
    steps = [
        (after.error / before.error, trace, after)
        for trace in traces
        if trace.trace
        for before, after in itertools.pairwise(trace.trace.points)
        if 0 < before.error < after.error
    ]
    return max(steps, key=lambda step: step[0], default=None)


def _make_culprit(trace: StageTrace, point: TracePoint) -> Culprit:
    return Culprit(
        stage=trace.stage,
        artifact=trace.artifact,
        tensor=point.tensor,
        operators=point.operators,
        nodes=point.nodes,
        modules=point.modules,
        own_error=point.own_error,
        limit=point.limit,
        wrong=point.wrong,
    )


def _name_layer(point: TracePoint | Culprit) -> str:
    """Return the user's layer, or else what the artifact calls its operator."""
    return " + ".join(point.modules) or (point.nodes[-1] if point.nodes else point.tensor)


def _describe_culprit(culprit: Culprit) -> str:
    kinds = " + ".join(culprit.operators)
    what = (
        f"alone it adds {culprit.own_error:.1e} of the tensor's largest value, where rounding "
        f"explains {culprit.limit:.1e}"
        if culprit.wrong == "error"
        else culprit.wrong
    )
    return (
        f"The error is born in the stage '{culprit.stage}', at the layer '{_name_layer(culprit)}' "
        f"({kinds}, tensor '{culprit.tensor}' of {culprit.artifact}): {what}."
    )
