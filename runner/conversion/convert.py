"""The conversion from start to end: plan, prepare, run each stage, judge, report."""

from __future__ import annotations

import importlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from runner.cache.session import CachedRun
from runner.cache.store import StageCache
from runner.conversion.folder import note_active_run, reserve_report_space
from runner.conversion.observer import Observer
from runner.conversion.outcome import build_report, decide_outcome, judge_quantized
from runner.conversion.quantized.elsewhere import select_ready, try_elsewhere
from runner.conversion.quantized.trace import add_quantized, list_traceable, trace_quantized
from runner.conversion.settings import DEFAULT_SAMPLES, RunSettings
from runner.conversion.stages import StageRunner
from runner.conversion.trace import choose_samples, count_samples, trace_run
from runner.engines.base import Volume
from runner.engines.select import Choice, prepare_engine
from runner.errors import BadInput, EnvironmentUnavailable, RunnerError
from runner.host.files import write_text
from runner.planning.check import Check
from runner.planning.plan import Plan, list_initial_files, make_plan
from runner.planning.quantization import Quantization
from runner.planning.samples import prepare_samples
from runner.planning.source import Source
from runner.schemas.base import find_first_error
from runner.schemas.diagnosis import Diagnosis
from runner.schemas.report import Elsewhere, Report, StageRecord
from runner.toolchains.model import Stage
from runner.trust.scan import make_trust_check

if TYPE_CHECKING:
    from runner.provenance.signing import PrivateKey

# What the end of a run needs, and its stages do not: imported while they work.
_NEEDED_LATE = ("runner.report.html.render", "runner.provenance.write")

# A hook that runs after the stages, while the volume is still there.
AfterStages = Callable[[Volume, Sequence[StageRecord]], None]


def convert(
    source: Source,
    check: Check = Check(),
    settings: RunSettings = RunSettings(),
    *,
    toolchain: str = "",
    options: Mapping[str, Any] | None = None,
    quantization: Quantization = Quantization(),
) -> Report:
    """Convert a model, check every stage against its reference, and leave a run folder.

    The toolchain (the default one without a name) fixes which kind of file the model is. `options`
    are stage options by name (`opset`), or by stage and name (`tflite.flex`). `quantization` asks
    for further models, made from what the last stage takes. The returned report says what came of
    the stages, and its `exit_code` how the run ended. Raises `BadInput` or
    `EnvironmentUnavailable` if the run cannot be started.
    """
    started = time.time()
    key = load_key(settings)
    with ExitStack() as stack:
        say = settings.observer.say
        check, quantization = stack.enter_context(prepare_samples(source, check, quantization, say))
        plan = make_plan(
            source,
            check,
            toolchain=toolchain,
            options=options,
            wheels=settings.wheels,
            gpu=settings.gpu,
            output=settings.output,
            quantization=quantization,
        )
        stack.enter_context(settings.observer)
        may_run_code = make_trust_check(
            {plan.model.path: plan.model.format}, plan.arch_file, trusted=settings.trust_model
        )
        choice = prepare_engine(
            settings.engine,
            [*plan.images.values(), *plan.quantization.wanted],
            settings.observer,
            settings.limits,
            may_run_code,
        )
        return run_plan(plan, choice, settings, started, key=key)


def load_key(settings: RunSettings) -> PrivateKey | None:
    """Load the key that a run is to be signed with, if it is to be. Raises `BadInput`."""
    if settings.sign is None:
        return None
    # Imported late: it would cost an unsigned run more time than writing its whole record.
    from runner.provenance.signing import load_signing_key

    return load_signing_key(settings.sign)


def run_plan(
    plan: Plan,
    choice: Choice,
    settings: RunSettings,
    started: float,
    *,
    key: PrivateKey | None = None,
    after_stages: AfterStages | None = None,
) -> Report:
    """Run every stage on a prepared engine, and leave a run folder with its record.

    `started` is when the command began, in seconds since the epoch. Cached stages are not run
    again if the settings allow the cache.
    """
    view = settings.observer
    view.say(f"Engine: {choice.engine.name} ({choice.reason})")
    # Durations are not measured by the system clock, which may be set in the meantime.
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
    others = select_ready(plan, choice.engine)
    if others:
        choice.engine.prepare([*plan.images.values(), *others], view)
    records: list[StageRecord] = []
    quantized: list[StageRecord] = []
    elsewhere: list[Elsewhere] = []
    diagnosis: Diagnosis | None = None
    interrupted = False
    notes: list[str] = []
    threading.Thread(target=import_late_needs, daemon=True).start()
    with note_active_run(folder):
        try:
            plan = _keep_arrays(plan)
            with (
                ExitStack() as stack,
                reserve_report_space(folder),
                choice.engine.volume(plan.run, folder / ".volume") as volume,
            ):
                files = list_initial_files(plan)
                volume.put(files)
                known = {plan.model.path: plan.model.sha256}
                cache = StageCache() if settings.cache else None
                late = plan.reference.inputs if plan.reference else {}
                cached = stack.enter_context(
                    closing(CachedRun(cache, plan.run, folder, files, known, late))
                )
                stages = StageRunner(plan, choice.engine, volume, view, cached)
                stages.run_all(records)
                own = records[: len(plan.toolchain.own_stages)]
                stages.run_quantizers(own, quantized)
                if others and quantized:
                    cached.populate_volume(volume)
                elsewhere, notes = try_elsewhere(
                    plan, others, choice.engine, volume, own[-1], quantized, view
                )
                if settings.diagnose and _is_out_of_tolerance(plan, records, quantized):
                    try:
                        cached.populate_volume(volume)
                        diagnosis = _diagnose(plan, volume, records, quantized, view)
                    except (RunnerError, OSError) as error:  # the conversion itself is complete
                        notes.append(f"The diagnosis could not be made: {error}")
                if after_stages is not None:
                    cached.populate_volume(volume)
                    after_stages(volume, [*records, *quantized])
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            if not records:  # nothing has begun: leave the folder as it was
                shutil.rmtree(folder if created else folder / "logs", ignore_errors=True)
            raise
        done = {record.name for record in records}
        records += [_skip(stage) for stage in plan.toolchain.stages if stage.name not in done]
        seconds = setup + time.monotonic() - begin
        report = build_report(
            plan, choice, records, interrupted, started, setup, seconds, quantized
        )
        report.diagnosis, report.elsewhere = diagnosis, elsewhere
        report.notes += notes
        try:
            _write_report(plan, report, key)
        finally:
            view.finished(report, folder)
    return report


def import_late_needs() -> None:
    """Import what the end of a run needs; a process that forks conversions does it before."""
    for name in _NEEDED_LATE:
        importlib.import_module(name)


def _is_out_of_tolerance(
    plan: Plan, records: Sequence[StageRecord], quantized: Sequence[StageRecord]
) -> bool:
    outcome, *_ = decide_outcome(plan, records, False)
    if outcome == "passed" and list_traceable(plan.toolchain, quantized, plan.output):
        outcome, _ = judge_quantized(quantized)
    return outcome == "out-of-tolerance"


def _diagnose(
    plan: Plan,
    volume: Volume,
    records: Sequence[StageRecord],
    quantized: Sequence[StageRecord],
    view: Observer,
) -> Diagnosis:
    """Trace the float chain if its gate failed, and otherwise the quantised models alone."""
    folder, chain = plan.output, plan.toolchain
    if decide_outcome(plan, records, False)[0] == "out-of-tolerance":
        samples = count_samples([record.report for record in records if record.report])
        return trace_run(chain, volume, records, plan.check, folder, view, samples)
    begin = time.monotonic()
    reports = [record.report for record in quantized if record.report]
    diagnosis = Diagnosis(
        verdict="rounding",
        summary="The float model passed its gate, so only the quantised ones were traced.",
        culprit=None,
        others=[],
        samples=choose_samples(reports, plan.check["samples"], DEFAULT_SAMPLES),
        notes=[],
        seconds=0.0,
        stages=[],
    )
    traces = trace_quantized(chain, volume, quantized, plan.check, folder, view, diagnosis.samples)
    add_quantized(diagnosis, traces, quantized)
    diagnosis.seconds = round(time.monotonic() - begin, 3)
    return diagnosis


def _keep_arrays(plan: Plan) -> Plan:
    """Move an array that the runner has made into the run's folder, for those who run it again."""
    if not plan.arrays_made or plan.arrays is None:
        return plan
    kept = plan.output / "inputs.npy"
    try:
        shutil.move(plan.arrays, kept)
    except OSError as error:
        raise EnvironmentUnavailable(
            f"The samples cannot be kept in {plan.output}: {error.strerror}.",
            "Name another place with --output, or take fewer --samples.",
        ) from None
    return replace(plan, arrays=kept, arrays_made=False)


def _write_report(plan: Plan, report: Report, key: PrivateKey | None) -> None:
    """Write the report, its page and the record. Raises `EnvironmentUnavailable` or `BadInput`."""
    from runner.provenance.write import write_records
    from runner.report.html.render import write_page

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
    except ValidationError as error:  # no honest stage reports what a record cannot hold
        raise BadInput(
            f"The record of this run cannot be written: {find_first_error(error)}.",
            "The model made its stage report what cannot be: do not trust it. The report is there.",
        ) from None


def _skip(stage: Stage) -> StageRecord:
    return StageRecord(
        name=stage.name,
        title=stage.title,
        status="skipped",
        failure="An earlier stage did not finish.",
    )
