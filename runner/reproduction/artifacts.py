"""The comparison of two runs' artifacts: whether they are the same, or how far apart they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runner.conversion.stage_log import open_stage_log
from runner.engines.base import Volume
from runner.errors import RunnerError
from runner.provenance.read import Recorded
from runner.schemas.provenance import Subject
from runner.schemas.report import CheckRecord, Report, SignatureRecord, StageRecord, StageReport
from runner.schemas.reproduction import (
    ArtifactComparison,
    OutputDifference,
    compute_allowed_difference,
)
from runner.schemas.stage_reports import read_report
from runner.toolchains.model import Stage, Toolchain

_RECORDED = "recorded"


@dataclass
class Comparer:
    """A callback that runs recorded artifacts beside new ones, while the new volume exists.

    `measured` maps each artifact to the outputs' differences, or to why there are none.
    """

    recorded: Recorded
    toolchain: Toolchain
    options: Mapping[str, Mapping[str, Any]]
    check: Mapping[str, Any]
    logs: Path
    measured: dict[str, CheckRecord | str] = field(default_factory=dict)

    def __call__(self, volume: Volume, records: Sequence[StageRecord]) -> None:
        """Compare each artifact whose bytes differ, if the recorded one is still there."""
        subjects = {subject.name: subject for subject in self.recorded.statement.subject}
        modes = {stage.produces for stage in self.toolchain.quantizers}
        for path in modes.intersection(subjects):
            self.measured[path] = "quantised models are compared by their bytes"
        for stage, record in zip(self.toolchain.stages, records, strict=False):
            subject = subjects.get(stage.produces)
            report = record.report
            if record.status != "ok" or subject is None or report is None:
                continue
            if report.artifact is None or report.artifact.sha256 == subject.sha256:
                continue
            file = self.recorded.artifact(subject.name)
            if file is None:
                continue
            try:
                self.measured[subject.name] = self._run(volume, stage, subject, file, report)
            except (RunnerError, OSError) as error:
                self.measured[subject.name] = str(error)

    def _run(
        self, volume: Volume, stage: Stage, subject: Subject, file: Path, report: StageReport
    ) -> CheckRecord | str:
        before = read_signature(subject)
        assert report.signature is not None
        now = report.signature.model_dump()
        request = {
            "options": self.options[stage.name],
            "check": self.check,
            "compare": [
                {"path": stage.produces, "signature": now},
                {"path": f"{_RECORDED}/{stage.produces}", "signature": before or now},
            ],
        }
        answer = f"reports/{stage.name}.json"
        volume.put(
            {
                f"{_RECORDED}/{stage.produces}": file,
                f"requests/{stage.name}.json": json.dumps(request).encode(),
                answer: b"",
            }
        )
        with open_stage_log(self.logs / f"{stage.name}-compared.log", volume.limits.log) as log:
            volume.run(stage, log.write)
        try:
            compared = read_report(volume.read(answer) or b"")
        except ValueError:
            return "the comparison left no valid report"
        if compared.error is not None:
            return compared.error.message
        if compared.artifact is not None or compared.check is None:
            return "the recorded image is from before artifacts could be compared"
        return compared.check


def read_signature(subject: Subject) -> dict[str, Any] | None:
    """Read the recorded artifact's own names of its inputs and outputs; None if unknown."""
    try:
        noted = (subject.annotations or {}).get("signature")
        return SignatureRecord.model_validate(noted).model_dump() if noted else None
    except ValidationError:
        return None


def compare_artifacts(
    recorded: Recorded, report: Report, measured: Mapping[str, CheckRecord | str]
) -> list[ArtifactComparison]:
    """Compare every artifact that either run has, in the order of the stages.

    What a stage merely reports to have made, and the new run has not kept, counts as missing.
    """
    subjects = {subject.name: subject for subject in recorded.statement.subject}
    records = report.records
    kept = {artifact.path for artifact in report.list_made()}
    made = {
        r.report.artifact.path: r
        for r in records
        if r.report and r.report.artifact and r.report.artifact.path in kept
    }
    produced = {stage.produces: stage.name for stage in recorded.statement.internal.stages}
    ordered = dict.fromkeys([*(p for p in produced if p in subjects), *subjects, *made])
    found = []
    for path in ordered:
        subject, record = subjects.get(path), made.get(path)
        stage = record.name if record else produced.get(path, "")
        before = subject.sha256 if subject else None
        stage_report = record.report if record else None
        now = stage_report.artifact.sha256 if stage_report and stage_report.artifact else None
        base = ArtifactComparison(
            path=path,
            stage=stage,
            recorded_sha256=before,
            sha256=now,
            verdict="different",
            measured="nothing",
        )
        if before == now:
            found.append(base.model_copy(update={"verdict": "identical", "measured": "bytes"}))
        elif subject is None:
            note = "the recorded run did not come so far"
            found.append(base.model_copy(update={"verdict": "new", "note": note}))
        elif stage_report is None:
            note = next((r.failure for r in records if r.status == "failed"), "")
            found.append(base.model_copy(update={"verdict": "missing", "note": note}))
        else:
            found.append(_compare_outputs(base, subject, stage_report, measured.get(path)))
    return found


def _compare_outputs(
    base: ArtifactComparison,
    subject: Subject,
    report: StageReport,
    measured: CheckRecord | str | None,
) -> ArtifactComparison:
    """Decide where bytes differ: by both artifacts' outputs, or else by both runs' figures."""
    if isinstance(measured, CheckRecord):
        outputs = [
            OutputDifference(
                name=o.name,
                mean_abs=o.mean_abs,
                max_abs=o.max_abs,
                noise_floor=o.noise_floor,
                allowed=compute_allowed_difference(
                    o.noise_floor, o.reference_mean, o.reference_std
                ),
            )
            for o in measured.outputs
        ]
        whole = all(o.verdict not in ("shape", "nonfinite") for o in measured.outputs)
        equal = whole and all(o.mean_abs is not None and o.mean_abs <= o.allowed for o in outputs)
        return base.model_copy(
            update={
                "verdict": "equivalent" if equal else "different",
                "measured": "outputs of both",
                "outputs": outputs,
            }
        )
    bounds = _bound_differences(subject, report)
    note = (
        f"the recorded artifact could not be run: {measured}"
        if measured
        else ("the recorded artifact is not here, so this is an upper bound")
    )
    if bounds is None:
        note += "; the figures of the two runs are not of the same outputs and samples"
        return base.model_copy(update={"note": note})
    equal = all(o.mean_abs is not None and o.mean_abs <= o.allowed for o in bounds)
    return base.model_copy(
        update={
            "verdict": "equivalent" if equal and not measured else "different",
            "measured": "figures of both runs",
            "outputs": bounds,
            "note": note,
        }
    )


def _bound_differences(subject: Subject, report: StageReport) -> list[OutputDifference] | None:
    """Bound the outputs' distances by the triangle inequality over PyTorch's; None if unknown.

    It holds only if PyTorch's outputs were the same, for which equal moments are taken as a sign.
    """
    noted = (subject.annotations or {}).get("check")
    if not isinstance(noted, dict) or report.check is None:
        return None
    before, now = noted.get("outputs"), report.check.outputs
    if not isinstance(before, list) or noted.get("samples") != report.check.samples:
        return None
    found = []
    if len(before) != len(now):
        return None
    for one, other in zip(before, now, strict=True):
        same = ("name", "reference_mean", "reference_std")
        if not isinstance(one, dict) or any(one.get(k) != getattr(other, k) for k in same):
            return None
        mean, most = one.get("mean_abs"), one.get("max_abs")
        if not (isinstance(mean, float) and isinstance(most, float) and min(mean, most) >= 0):
            return None
        if other.mean_abs is None or other.max_abs is None:
            return None
        found.append(
            OutputDifference(
                name=other.name,
                mean_abs=mean + other.mean_abs,
                max_abs=most + other.max_abs,
                noise_floor=other.noise_floor,
                # Each artifact may be that far from PyTorch's outputs.
                allowed=2
                * compute_allowed_difference(
                    other.noise_floor, other.reference_mean, other.reference_std
                ),
            )
        )
    return found
