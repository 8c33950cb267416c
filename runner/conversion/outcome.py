"""The outcome of a run: the verdict on the final model, the exit code, and the report."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from runner.engines.select import Choice
from runner.errors import ExitCode
from runner.planning.plan import Plan
from runner.report.wording import VERDICTS
from runner.schemas.report import (
    EngineRecord,
    FileRecord,
    Gate,
    GivenReferenceRecord,
    ModelRecord,
    Report,
    StageRecord,
)
from runner.version import __version__

# An error so many times rounding, and so many times that at the usual inputs, is worth a warning.
_LEAST_JUMP = 10.0
_BLAMED = {"input": ExitCode.BAD_INPUT, "environment": ExitCode.ENVIRONMENT}

Outcome = Literal["passed", "out-of-tolerance", "vacuous", "failed", "interrupted"]


def build_report(
    plan: Plan,
    choice: Choice,
    records: Sequence[StageRecord],
    interrupted: bool,
    started: float,
    setup: float,
    total: float,
    quantized: Sequence[StageRecord] = (),
) -> Report:
    """Build the report; `started` is in seconds since the epoch, `setup` and `total` in seconds."""
    inside = sum(r.report.seconds for r in (*records, *quantized) if r.report and not r.cached)
    outcome, code, gate = decide_outcome(plan, records, interrupted)
    if outcome == "passed":
        outcome, code = judge_quantized(quantized)
    first = records[0].report
    return Report(
        runner=__version__,
        run=plan.run,
        started=datetime.datetime.fromtimestamp(started, datetime.timezone.utc).isoformat(),
        seconds=round(total, 3),
        setup_seconds=round(setup, 3),
        overhead_seconds=round(total - setup - inside, 3),
        outcome=outcome,
        exit_code=int(code),
        toolchain=plan.toolchain.name,
        reference=plan.toolchain.reference,
        given_reference=_describe_given_reference(plan),
        model=ModelRecord(
            # A name that is not UTF-8 is decoded as far as possible.
            name=os.fsencode(plan.model.path.name).decode(errors="replace"),
            kind=plan.model.kind,
            sha256=plan.model.sha256,
            bytes=plan.model.bytes,
            **{name: _format_path(path) for name, path in _list_sources(plan).items()},
        ),
        options=dict(plan.options),
        inputs_from=plan.inputs_from or ("inferred from the first layer" if first else ""),
        engine=EngineRecord(
            name=choice.engine.name, reason=choice.reason, details=choice.engine.details
        ),
        gate=gate,
        notes=[
            *(note for record in records if record.report for note in record.report.notes),
            *(f"{r.name}: {note}" for r in quantized if r.report for note in r.report.notes),
            *_note_sizes(plan.toolchain.reference, records),
            *_note_stress(plan.toolchain.reference, records),
            *_note_cached_stages(records),
        ],
        artifacts=_list_kept_artifacts(plan, records),
        stages=list(records),
        quantized=list(quantized),
    )


def _describe_given_reference(plan: Plan) -> GivenReferenceRecord | None:
    given = plan.reference
    if given is None:
        return None
    return GivenReferenceRecord(toolchain=given.toolchain, run=given.run, sha256=given.sha256)


def _list_sources(plan: Plan) -> dict[str, Path | None]:
    return {"path": plan.model.path, "arch_file": plan.arch_file, "inputs_file": plan.arrays}


def _format_path(path: Path | None) -> str | None:
    return None if path is None else os.fsencode(path.absolute()).decode(errors="replace")


def _list_kept_artifacts(plan: Plan, records: Sequence[StageRecord]) -> list[FileRecord]:
    """List the artifacts that are in the run folder, not those that a stage merely reports."""
    reported = [record.report.artifact for record in records if record.report]
    expected = {stage.produces for stage in plan.toolchain.stages}
    return [a for a in reported if a and a.path in expected and (plan.output / a.path).is_file()]


def _note_sizes(reference: str, records: Sequence[StageRecord]) -> list[str]:
    """Tell what the check of the final model found at the other sizes of an open batch."""
    final = records[-1].report
    if final is None or final.check is None or not final.check.sizes:
        return []
    check = final.check
    parts = []
    for at in check.sizes:
        value = "" if at.value is None else f"{check.metric} = {at.value:.2g}, "
        word = at.failure or VERDICTS[at.verdict].word
        parts.append(f"at {at.size}: {value}{word} ({at.samples} samples)")
    return [f"The batch size is open. Against {reference} at other sizes: {'; '.join(parts)}."]


def _note_stress(reference: str, records: Sequence[StageRecord]) -> list[str]:
    """Warn of outputs of the final model that are right at the usual inputs only."""
    final = records[-1].report
    if final is None or final.check is None or final.check.verdict not in ("passed", "rounding"):
        return []
    usual = {output.name: output.times_noise_floor or 0.0 for output in final.check.outputs}
    notes = []
    for stress in final.check.stress:
        before = usual.get(stress.name, 0.0)
        least = max(_LEAST_JUMP, _LEAST_JUMP * before)
        subject = f"the output '{stress.name}'" if stress.name else "the converted model"
        if stress.failure:
            what = f"fails, where {reference}'s does not: {stress.failure}"
        elif stress.nonfinite:
            what = f"holds NaN or infinity where {reference}'s does not"
        elif (stress.times_noise_floor or 0.0) > least:
            what = (
                f"is {stress.times_noise_floor:.3g} times {reference}'s own rounding away from it, "
                f"where the check's usual inputs give {before:.2g} times"
            )
        else:
            continue
        notes.append(f"Warning: with inputs {stress.magnitude:g} times as large, {subject} {what}.")
    return notes


def _note_cached_stages(records: Sequence[StageRecord]) -> list[str]:
    taken = {record.name: record.cached for record in records if record.cached}
    if not taken:
        return []
    runs = ", ".join(dict.fromkeys(taken.values()))
    return [f"Taken from the cache: {', '.join(taken)} (made by {runs}); --no-cache runs them."]


def judge_quantized(records: Sequence[StageRecord]) -> tuple[Outcome, ExitCode]:
    """Decide the outcome of a run whose float model has passed, by its quantised ones."""
    failed = next((record for record in records if record.status != "ok"), None)
    if failed is not None:
        return "failed", _BLAMED.get(failed.blame, ExitCode.STAGE_FAILED)
    checks = [record.report.check for record in records if record.report]
    if any(check is None or check.verdict not in ("passed", "rounding") for check in checks):
        return "out-of-tolerance", ExitCode.OUT_OF_TOLERANCE
    return "passed", ExitCode.PASSED


def decide_outcome(
    plan: Plan, records: Sequence[StageRecord], interrupted: bool
) -> tuple[Outcome, ExitCode, Gate]:
    """Decide the outcome of the run by the verdict on the final model, if there is one."""
    metric, tolerance = plan.check["metric"], plan.check["tolerance"]
    gate = Gate(metric=metric, tolerance=tolerance, value=None, verdict=None)
    if interrupted:
        return "interrupted", ExitCode.INTERRUPTED, gate
    failed = next((record for record in records if record.status == "failed"), None)
    if failed is not None:
        return "failed", _BLAMED.get(failed.blame, ExitCode.STAGE_FAILED), gate
    final = records[-1].report
    check = final.check if final else None
    if check is None:
        return "vacuous", ExitCode.VACUOUS, gate
    values = [getattr(o, metric) for o in check.outputs if getattr(o, metric) is not None]
    values += [at.value for at in check.sizes if at.value is not None]
    gate.value = max(values, default=None)
    gate.verdict = check.verdict
    if check.verdict in ("passed", "rounding"):
        return "passed", ExitCode.PASSED, gate
    if check.verdict == "vacuous":
        return "vacuous", ExitCode.VACUOUS, gate
    return "out-of-tolerance", ExitCode.OUT_OF_TOLERANCE, gate
