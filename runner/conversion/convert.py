"""The conversion, top to bottom: plan, prepare, run each stage, judge, report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from runner.cache.session import CachedRun
from runner.cache.store import StageCache
from runner.conversion.folder import room_for_report, working_in
from runner.conversion.observer import SilentView, View
from runner.conversion.outcome import judged, report_of
from runner.conversion.stage_log import followed
from runner.conversion.trace import trace_run
from runner.engines.base import Engine, Volume
from runner.engines.limits import DEFAULTS, Limits
from runner.engines.select import Choice, prepare_engine
from runner.errors import BadInput, EnvironmentUnavailable, RunnerError
from runner.host.files import sha256_of, write_text
from runner.known_failures import explain_stage
from runner.planning.plan import Plan, initial_files, make_plan
from runner.provenance.write import write_records
from runner.report.html import write_page
from runner.schemas.base import first_of
from runner.schemas.diagnosis import Diagnosis
from runner.schemas.report import (
    FileRecord,
    Report,
    StageRecord,
    StageReport,
)
from runner.schemas.stage_reports import read_report
from runner.toolchains.model import Stage
from runner.trust.scan import make_trust_check

if TYPE_CHECKING:
    from runner.provenance.signing import PrivateKey

# What is done when the stages have run and the volume is still there.
Inside = Callable[[Volume, Sequence[StageRecord]], None]


def convert(
    model: str | Path,
    *,
    output: str | Path | None = None,
    engine: str = "auto",
    inputs: Sequence[str] = (),
    samples: int = 1000,
    seed: int = 0,
    inputs_file: str | Path | None = None,
    tolerance: float = 1e-6,
    metric: str = "mean",
    arch: str = "",
    arch_args: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    wheels: Sequence[str] = (),
    gpu: bool = False,
    toolchain: str = "",
    trust_model: bool = False,
    limits: Limits = DEFAULTS,
    sign: str | Path | None = None,
    diagnose: bool = True,
    use_cache: bool = True,
    view: View | None = None,
) -> Report:
    """Convert a model, check every stage against PyTorch, and leave a run folder.

    The toolchain says what the model's file is; one that starts from an ONNX model or a frozen
    graph has a reference of its own instead of PyTorch.
    `options` are stage options by name (`opset`), or by stage and name (`tflite.flex`). `sign` is a
    private key in PEM: the record of the run is then left in a signed form too. With `use_cache`,
    stages that were made of the same things before are taken from the cache. Whatever
    comes of the stages is in the returned report; `exit_code` in it says how it ended. `limits`
    hold for each stage. Without `trust_model`, a model that could run code is converted only where
    an engine isolates it. Raises `BadInput` or `EnvironmentUnavailable` where nothing could be
    started.
    """
    started = time.time()
    view = view or SilentView()
    key = _signing_key(Path(sign)) if sign else None
    arch_options = {"arch": arch, "arch_args": json.dumps(arch_args) if arch_args else ""}
    plan = make_plan(
        Path(model),
        output=output,
        inputs=inputs,
        samples=samples,
        seed=seed,
        inputs_file=inputs_file,
        tolerance=tolerance,
        metric=metric,
        options={**arch_options, **(options or {})},
        wheels=wheels,
        gpu=gpu,
        toolchain=toolchain,
    )
    with view:
        images = list(plan.images.values())
        asked = make_trust_check(
            {plan.model.path: plan.model.format}, plan.arch_file, trusted=trust_model
        )
        choice = prepare_engine(engine, images, view, limits, asked)
        return run_plan(
            plan,
            choice,
            view,
            started,
            key=key,
            diagnose=diagnose,
            cache=StageCache() if use_cache else None,
        )


def _signing_key(path: Path) -> PrivateKey:
    # Late: the import costs a run without a signature more than all of its record does.
    from runner.provenance.signing import load_signing_key

    return load_signing_key(path)


def run_plan(
    plan: Plan,
    choice: Choice,
    view: View,
    started: float,
    *,
    key: PrivateKey | None = None,
    diagnose: bool = False,
    inside: Inside | None = None,
    cache: StageCache | None = None,
) -> Report:
    """Run every stage on an engine that is ready, and leave the run folder with its record.

    `started` is when the command began, in seconds since the epoch. Stages that are in the cache
    are not run again.
    """
    view.say(f"Engine: {choice.engine.name} ({choice.reason})")
    # Durations are not taken from the clock, which may be set in the meantime.
    setup, begin = max(0.0, time.time() - started), time.monotonic()
    folder = plan.output
    created = not folder.exists()
    try:
        (folder / "logs").mkdir(parents=True)
    except FileExistsError:
        raise BadInput(
            f"{folder} is another run's, which began at the same time.",
            "Name another --output.",
        ) from None
    except OSError as error:
        raise BadInput(
            f"The run folder {folder} cannot be made: {error.strerror}.",
            "Name another place with --output.",
        ) from None
    records: list[StageRecord] = []
    diagnosis: Diagnosis | None = None
    interrupted = False
    notes: list[str] = []
    with working_in(folder):
        try:
            with (
                ExitStack() as stack,
                room_for_report(folder),
                choice.engine.volume(plan.run, folder / ".volume") as volume,
            ):
                files = initial_files(plan)
                volume.put(files)
                known = {plan.model.path: plan.model.sha256}
                cached = stack.enter_context(
                    closing(CachedRun(cache, plan.run, folder, files, known))
                )
                _run_stages(plan, choice.engine, volume, view, records, cached)
                if diagnose and judged(plan, records, False)[0] == "out-of-tolerance":
                    try:
                        cached.restore(volume)
                        diagnosis = trace_run(
                            plan.toolchain, volume, records, plan.check, folder, view
                        )
                    except (RunnerError, OSError) as error:  # the conversion itself is done
                        notes.append(f"The diagnosis could not be made: {error}")
                if inside is not None:
                    inside(volume, records)
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            if not records:  # nothing has begun: the folder is as it was
                shutil.rmtree(folder if created else folder / "logs", ignore_errors=True)
            raise
        done = {record.name for record in records}
        records += [_skipped(stage) for stage in plan.toolchain.stages if stage.name not in done]
        seconds = setup + time.monotonic() - begin
        report = report_of(plan, choice, records, interrupted, started, setup, seconds)
        report.diagnosis = diagnosis
        report.notes += notes
        try:
            _write(plan, report, key)
        finally:
            view.finished(report, folder)
    return report


def _write(plan: Plan, report: Report, key: PrivateKey | None) -> None:
    """Write what the run folder says of the run. Raises `EnvironmentUnavailable`."""
    try:
        write_text(plan.output / "report.json", report.to_json())
        write_page(report, plan.output)
        if plan.recorded:
            write_records(plan, report, key)
    except OSError as error:
        raise EnvironmentUnavailable(
            f"The report of this run cannot be written into {plan.output}: {error.strerror}.",
            "Mend the disk (runner doctor), then run the command again; stages that finished "
            "are taken from the cache. What has its final name in the folder is whole.",
        ) from None
    except ValidationError as error:  # no honest stage says what no record can hold
        raise BadInput(
            f"The record of this run cannot be written: {first_of(error)}.",
            "The model made its stage report what cannot be: do not trust it. The report is there.",
        ) from None


def _run_stages(
    plan: Plan,
    engine: Engine,
    volume: Volume,
    view: View,
    records: list[StageRecord],
    cached: CachedRun,
) -> None:
    """Run the stages in order until one fails; each leaves its record in `records`."""
    previous: StageReport | None = None
    for stage in plan.toolchain.stages:
        record = StageRecord(
            name=stage.name,
            title=stage.title,
            status="interrupted",
            environment=engine.environment(plan.images[stage.image]),
            log=f"logs/{stage.name}.log",
        )
        records.append(record)
        view.stage_started(stage)
        begin = time.monotonic()
        try:
            request = _request(plan, stage, previous)
            if not cached.take(stage, engine.name, request, record):
                cached.restore(volume)
                _run_stage(plan, stage, request, volume, view, record)
                cached.keep(stage, volume, record)
        except (RunnerError, OSError) as error:  # the engine, or this machine's disk
            record.status, record.blame, record.failure = "failed", "environment", str(error)
            record.remedy = getattr(error, "remedy", "")
        finally:
            explain_stage(record, plan.output, str(plan.options.get("fixes", "all")))
            if record.blame == "input" and _is_of_memory(record):
                record.blame, record.remedy = "stage", ""  # whatever it looked like in there
            record.remedy = record.remedy or _general_remedy(record)
            record.seconds = round(time.monotonic() - begin, 3)
            view.stage_finished(record)
        if record.status != "ok":
            return
        previous = record.report


def _is_of_memory(record: StageRecord) -> bool:
    return record.known is not None and record.known.id.startswith("out-of-memory")


def _general_remedy(record: StageRecord) -> str:
    """What to do about a failure of which nothing is known."""
    if record.status != "failed":
        return ""
    if record.blame == "environment":
        return "Check the disk: runner doctor."
    return "" if record.report else f"Its log says more: {record.log}."


def _request(plan: Plan, stage: Stage, previous: StageReport | None) -> dict[str, Any]:
    sha256 = previous.artifact.sha256 if previous and previous.artifact else plan.model.sha256
    return {
        "input": {"path": stage.consumes, "sha256": sha256},
        "output": stage.produces,
        "options": plan.stage_options[stage.name],
        "inputs": [spec.as_request() for spec in plan.inputs],
        "check": plan.check,
        "signature": previous.signature.model_dump() if previous and previous.signature else None,
    }


def _run_stage(
    plan: Plan,
    stage: Stage,
    request: Mapping[str, Any],
    volume: Volume,
    view: View,
    record: StageRecord,
) -> None:
    """Run one stage and complete its record; raises for nothing that a stage does."""
    volume.put(
        {
            f"requests/{stage.name}.json": json.dumps(request).encode(),
            # No report but the stage's own is believed.
            f"reports/{stage.name}.json": b"",
        }
    )
    log = plan.output / f"logs/{stage.name}.log"
    with followed(stage, view, log, volume.limits.log) as on_line:
        ended = volume.run(stage, on_line)
    record.exit_status = ended.status
    record.status, record.blame = "failed", "stage"
    text = volume.read(f"reports/{stage.name}.json")
    try:
        record.report = read_report(text) if text else None
    except ValueError as error:
        record.failure = ended.reason or str(error)
        record.remedy = ended.remedy
        return
    report = record.report
    if report is not None and report.artifact is not None:
        record.failure = _collect(plan, stage, volume, report.artifact)
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
    if record.status != "ok" and volume.read(f"requests/{stage.name}.json") is None:
        record.failure = "The run's volume was removed, or emptied, while the stage ran."
        record.remedy, record.blame = "Run the command again.", "environment"


def _collect(plan: Plan, stage: Stage, volume: Volume, artifact: FileRecord) -> str:
    """Copy the artifact into the run folder; what is wrong with it, if anything."""
    if artifact.path != stage.produces:
        return f"The stage reports an artifact '{artifact.path}' instead of '{stage.produces}'."
    target = plan.output / stage.produces
    try:
        volume.get(stage.produces, target)
    except FileNotFoundError:
        return "The stage reports an artifact that is not there, or that is no regular file."
    if sha256_of(target) != artifact.sha256:
        target.unlink()
        return "The artifact's sha256 is not the one that the stage reports."
    return ""


def _skipped(stage: Stage) -> StageRecord:
    return StageRecord(
        name=stage.name,
        title=stage.title,
        status="skipped",
        failure="An earlier stage did not finish.",
    )
