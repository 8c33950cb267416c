"""Running the stages of a plan in order, and collecting what each leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runner.cache.session import CachedRun
from runner.conversion.observer import Observer
from runner.conversion.stage_log import stream_output
from runner.engines.base import Engine, Volume
from runner.errors import RunnerError
from runner.host.files import hash_file
from runner.known_failures.match import explain_stage
from runner.planning.plan import Plan
from runner.schemas.report import FileRecord, StageRecord, StageReport
from runner.schemas.stage_reports import read_report
from runner.toolchains.model import Stage


@dataclass(frozen=True)
class StageRunner:
    """The stages of one plan, to run in one volume; `cached` is the run's use of the cache."""

    plan: Plan
    engine: Engine
    volume: Volume
    observer: Observer
    cached: CachedRun

    def run_all(self, records: list[StageRecord]) -> None:
        """Run the stages in order until one fails, and append a record of each to `records`."""
        previous: StageReport | None = None
        stages = self.plan.toolchain.stages
        later = [*stages[1:], *self.plan.quantization.stages[:1], None]
        for stage, following in zip(stages, later, strict=False):
            request = self._make_request(stage, previous)
            record = self._record_stage(stage, request, records, following)
            if record.status != "ok":
                return
            previous = record.report

    def run_quantizers(self, done: Sequence[StageRecord], records: list[StageRecord]) -> None:
        """Make each quantised model, and append a record to `records`.

        It is made of the last stage's input, or of the float model itself, by what it consumes.
        None is made unless the last stage is done. They do not depend on each other: one that fails
        keeps no other from being made.
        """
        final = done[-1].report
        if done[-1].status != "ok" or final is None or final.input is None:
            return
        known = {final.input.path: final.input.sha256}
        signatures = {final.input.path: final.signature}
        for record in done:
            if record.report and record.report.artifact:
                made = record.report.artifact
                known[made.path], signatures[made.path] = made.sha256, record.report.signature
        quantization = self.plan.quantization
        later = [*quantization.stages[1:], None]
        for stage, following in zip(quantization.stages, later, strict=False):
            signature = signatures[stage.consumes]
            request: dict[str, Any] = {
                "input": {"path": stage.consumes, "sha256": known[stage.consumes]},
                "output": stage.produces,
                "options": {**stage.defaults, **quantization.options[stage.name]},
                "inputs": [],
                "check": self.plan.check,
                "signature": signature.model_dump() if signature else None,
                # The float model's layout, which is the quantised one's.
                "float": final.signature.model_dump() if final.signature else None,
                "float_file": final.artifact.path if final.artifact else "",
                # For the cache: the name alone says nothing of the samples.
                "files": quantization.hashes,
            }
            self._record_stage(stage, request, records, following, quantization.files)

    def _record_stage(
        self,
        stage: Stage,
        request: Mapping[str, Any],
        records: list[StageRecord],
        following: Stage | None,
        files: Mapping[str, Path] = MappingProxyType({}),
    ) -> StageRecord:
        """Take a stage from the cache or run it, with these further files; append its record.

        `following` is the stage to come. One that is taken from the cache does not start it ahead,
        since most likely that is there too. More than one ahead gain nothing on two cores: the
        imports of two are longer than most stages' own work.
        """
        record = StageRecord(
            name=stage.name,
            title=stage.title,
            status="interrupted",
            environment=self.engine.environment(self.plan.images[stage.image]),
            log=f"logs/{stage.name}.log",
        )
        records.append(record)
        self.observer.stage_started(stage)
        begin = time.monotonic()
        try:
            if not self.cached.load_stage(stage, self.engine.name, request, record):
                self.cached.populate_volume(self.volume)
                self.volume.put(dict(files))
                self._run_stage(stage, request, record, following)
                self.cached.store_stage(stage, self.volume, record)
        except (RunnerError, OSError) as error:  # from the engine or the disk
            record.status, record.blame, record.failure = "failed", "environment", str(error)
            record.remedy = getattr(error, "remedy", "")
        finally:
            explain_stage(record, self.plan.output, str(self.plan.options.get("fixes", "all")))
            if record.blame == "input" and _is_out_of_memory(record):
                record.blame, record.remedy = "stage", ""  # whatever the stage took it for
            record.remedy = record.remedy or _suggest_remedy(record)
            record.seconds = round(time.monotonic() - begin, 3)
            self.observer.stage_finished(record)
        return record

    def _make_request(self, stage: Stage, previous: StageReport | None) -> dict[str, Any]:
        sha256 = (
            previous.artifact.sha256 if previous and previous.artifact else self.plan.model.sha256
        )
        return {
            "input": {"path": stage.consumes, "sha256": sha256},
            "output": stage.produces,
            "options": self.plan.stage_options[stage.name],
            "inputs": [spec.as_request() for spec in self.plan.inputs],
            "check": self.plan.check,
            "signature": previous.signature.model_dump()
            if previous and previous.signature
            else None,
        }

    def _run_stage(
        self,
        stage: Stage,
        request: Mapping[str, Any],
        record: StageRecord,
        following: Stage | None,
    ) -> None:
        """Run one stage and complete its record; never raise for what the stage does."""
        self.volume.put(
            {
                f"requests/{stage.name}.json": json.dumps(request).encode(),
                # Emptied, so that only a report of the stage's own is believed.
                f"reports/{stage.name}.json": b"",
            }
        )
        log = self.plan.output / f"logs/{stage.name}.log"
        with stream_output(stage, self.observer, log, self.volume.limits.log) as on_line:
            ended = self.volume.run(stage, on_line, following)
        record.exit_status = ended.status
        record.status, record.blame = "failed", "stage"
        text = self.volume.read(f"reports/{stage.name}.json")
        try:
            record.report = read_report(text) if text else None
        except ValueError as error:
            record.failure = ended.reason or str(error)
            record.remedy = ended.remedy
            return
        report = record.report
        if report is not None and report.artifact is not None:
            record.failure = self._collect(stage, report.artifact)
        if ended.reason:
            record.failure, record.remedy = ended.reason, ended.remedy
        elif report is None:
            record.failure = f"The stage ended with status {ended.status} and left no report."
        elif report.error is not None:
            record.failure, record.remedy = report.error.message, report.error.remedy
            record.blame = report.error.blame
        elif ended.status or report.status != "ok" or report.stage != stage.name:
            record.failure = record.failure or f"The stage ended with status {ended.status}."
        elif report.artifact is None:
            record.failure = "The stage reports no artifact."
        elif not record.failure:
            record.status, record.blame = "ok", ""
        if record.status != "ok" and self.volume.read(f"requests/{stage.name}.json") is None:
            record.failure = "The run's volume was removed, or emptied, while the stage ran."
            record.remedy, record.blame = "Run the command again.", "environment"

    def _collect(self, stage: Stage, artifact: FileRecord) -> str:
        """Copy the artifact into the run folder; return what is wrong with it, or ''."""
        if artifact.path != stage.produces:
            return f"The stage reports an artifact '{artifact.path}' instead of '{stage.produces}'."
        target = self.plan.output / stage.produces
        try:
            self.volume.get(stage.produces, target)
        except FileNotFoundError:
            return "The stage reports an artifact that is not there, or that is no regular file."
        if hash_file(target) != artifact.sha256:
            target.unlink()
            return "The artifact's sha256 is not the one that the stage reports."
        return ""


def _is_out_of_memory(record: StageRecord) -> bool:
    return record.known is not None and record.known.id.startswith("out-of-memory")


def _suggest_remedy(record: StageRecord) -> str:
    """Suggest what to do about a failure of which nothing else is known."""
    if record.status != "failed":
        return ""
    if record.blame == "environment":
        return "Check the disk: runner doctor."
    return "" if record.report else f"Its log says more: {record.log}."
