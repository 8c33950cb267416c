"""Quantised models in other interpreters than the one that judged them.

An interpreter is an image's. Those that are asked for are made ready like a stage's; without a
wish, those of the images with `tries-quantized` are taken if they are ready on this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

from runner.conversion.observer import Observer
from runner.conversion.stage_log import stream_output
from runner.engines.base import Engine, Volume
from runner.errors import RunnerError
from runner.planning.plan import Plan
from runner.report.elsewhere import list_warnings
from runner.schemas.report import Elsewhere, ElsewhereAnswer, StageRecord
from runner.schemas.stage_reports import read_answer, read_report
from runner.toolchains.model import Image, Stage
from runner.toolchains.tools import load_tool, make_image_stage

_TOOL = "elsewhere"


def select_ready(plan: Plan, engine: Engine) -> list[Image]:
    """Select the interpreters to try, of those that the plan names, and that are ready here."""
    return [image for image in plan.quantization.elsewhere if engine.is_ready(image)]


def try_elsewhere(
    plan: Plan,
    images: Sequence[Image],
    engine: Engine,
    volume: Volume,
    final: StageRecord,
    quantized: Sequence[StageRecord],
    view: Observer,
) -> tuple[list[Elsewhere], list[str]]:
    """Run the quantised models in these images; return what was found, and notes on it.

    `final` is the record of the float model, beside which their latency is measured.
    Never raises for what an interpreter does.
    """
    done = [r for r in quantized if r.status == "ok" and r.report and r.report.artifact]
    found = (
        [_try_in(plan, image, engine, volume, final, done, view) for image in images]
        if done
        else []
    )
    missing = [image for image in plan.quantization.elsewhere if image not in images]
    notes = list_warnings(found, done)
    if missing and done:
        names = " ".join(image.name for image in missing)
        notes.append(
            f"Not tried in {' and '.join(image.runtime for image in missing)}, for want of the "
            f"environment: runner images build {names} --engine {engine.name}."
        )
    return found, notes


def _try_in(
    plan: Plan,
    image: Image,
    engine: Engine,
    volume: Volume,
    final: StageRecord,
    done: Sequence[StageRecord],
    view: Observer,
) -> Elsewhere:
    stage = make_image_stage(load_tool(_TOOL), image, f"Quantised models in {image.runtime}")
    found = Elsewhere(image=image.name, runtime=image.runtime)
    record = StageRecord(name=stage.name, title=stage.title, status="failed")
    view.stage_started(stage)
    begin = time.monotonic()
    try:
        volume.put(
            {
                stage.consumes: json.dumps([_describe(entry) for entry in done]).encode(),
                f"requests/{stage.name}.json": json.dumps(
                    _make_request(plan, stage, final)
                ).encode(),
                f"reports/{stage.name}.json": b"",
                stage.produces: b"",
            }
        )
        log = plan.output / f"logs/{stage.name}-{image.name}.log"
        with stream_output(stage, view, log, volume.limits.log) as on_line:
            ended = volume.run(stage, on_line)
        found = _read(found, volume, stage, [entry.name for entry in done], ended.reason)
    except (RunnerError, OSError) as error:
        found.failure = str(error)
    record.status = "failed" if found.failure else "ok"
    record.failure = found.failure
    record.seconds = round(time.monotonic() - begin, 3)
    view.stage_finished(record)
    return found


def _describe(record: StageRecord) -> Mapping[str, object]:
    assert record.report is not None and record.report.artifact is not None
    signature = record.report.signature
    return {
        "mode": record.name,
        "path": record.report.artifact.path,
        "signature": signature.model_dump() if signature else None,
    }


def _make_request(plan: Plan, stage: Stage, final: StageRecord) -> Mapping[str, object]:
    whole = final.report
    gates = next(iter(plan.quantization.options.values()), {})
    return {
        "input": {"path": stage.consumes},
        "options": {name: gates[name] for name in stage.options if name in gates},
        # Labels count all samples, and only the first ones are run.
        "check": {name: value for name, value in plan.check.items() if name != "labels"},
        "float": whole.signature.model_dump() if whole and whole.signature else None,
        "float_file": whole.artifact.path if whole and whole.artifact else "",
    }


def _read(
    found: Elsewhere, volume: Volume, stage: Stage, modes: Sequence[str], reason: str
) -> Elsewhere:
    """Read what the stage found, or why it found nothing."""
    text, answer = volume.read(f"reports/{stage.name}.json"), volume.read(stage.produces)
    try:
        report = read_report(text) if text else None
        tried = read_answer(answer, ElsewhereAnswer, "answer") if answer else None
    except ValueError as error:
        found.failure = str(error)
        return found
    if report is None or report.status != "ok" or tried is None:
        said = report.error.message if report and report.error else ""
        found.failure = said or f"It left no answer ({reason or 'its log says more'})."
    elif [row.mode for row in tried.files] != list(modes):
        found.failure = "Its answer is not about these files."
    else:
        found.runtime, found.files = tried.runtime, tried.files
    return found
