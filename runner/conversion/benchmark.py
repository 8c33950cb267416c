"""The latency of .tflite files, in one or several interpreters, and their errors on samples."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.conversion.measurement import Measurement, cut_reference
from runner.conversion.observer import Observer
from runner.conversion.settings import RunSettings
from runner.conversion.stage_log import stream_output
from runner.engines.base import Volume
from runner.engines.select import Choice, prepare_engine
from runner.errors import BadInput, RunnerError
from runner.formats.identify import read_file
from runner.host.files import hash_file
from runner.host.machine import count_cores
from runner.host.process_identity import make_scratch_folder
from runner.planning.plan import make_run_name
from runner.schemas.benchmark import (
    Benchmark,
    BenchmarkedFile,
    FileResult,
    Measured,
    RuntimeResult,
)
from runner.schemas.report import StageRecord
from runner.schemas.stage_reports import read_answer, read_report
from runner.toolchains.model import Image, Stage
from runner.toolchains.tools import FileFormat, choose_runtimes, load_tool
from runner.trust.scan import make_trust_check
from runner.version import __version__

TOOL = "benchmark"
_MOST_FILES = 100


@dataclass(frozen=True)
class Measurable:
    """A .tflite file to measure, under a name; `signature` says how its ends are the samples'."""

    name: str
    path: Path
    signature: Mapping[str, Any] | None = None


def benchmark(
    paths: Sequence[Path],
    runtimes: Sequence[str] = (),
    measurement: Measurement = Measurement(),
    settings: RunSettings = RunSettings(),
) -> Benchmark:
    """Measure .tflite files in these images' interpreters, in turns.

    Raises `BadInput` or `EnvironmentUnavailable` if nothing can be measured.
    """
    measurement.list_threads()
    cut_reference(measurement)
    images = choose_runtimes(load_tool(TOOL), runtimes)
    files = [Measurable(name, path) for name, path in zip(_name(paths), paths, strict=True)]
    for path in paths:
        _identify(path)
    with settings.observer:
        may_run_code = make_trust_check(
            dict.fromkeys(paths, "tflite"), trusted=settings.trust_model
        )
        choice = prepare_engine(
            settings.engine, images, settings.observer, settings.limits, may_run_code
        )
        return measure(files, images, measurement, choice, settings.observer)


def measure(
    files: Sequence[Measurable],
    images: Sequence[Image],
    measurement: Measurement,
    choice: Choice,
    view: Observer,
    logs: Path | None = None,
) -> Benchmark:
    """Measure files on a prepared engine; logs go to `logs`, if it is given.

    What an interpreter does to a file is in the result, never raised.
    """
    begin = time.monotonic()
    few = cut_reference(measurement)
    with make_scratch_folder(TOOL) as scratch:
        runtimes = [
            _measure_in(image, files, measurement, few, choice, view, scratch / f"{number}", logs)
            for number, image in enumerate(images)
        ]
    return Benchmark(
        runner=__version__,
        engine=choice.engine.name,
        cores=count_cores(),
        rounds=measurement.rounds,
        seconds=round(time.monotonic() - begin, 3),
        files=[
            BenchmarkedFile(
                name=file.name,
                path=os.fsencode(file.path).decode(errors="replace"),
                sha256=hash_file(file.path),
                bytes=file.path.stat().st_size,
            )
            for file in files
        ],
        runtimes=runtimes,
    )


def _measure_in(
    image: Image,
    files: Sequence[Measurable],
    measurement: Measurement,
    few: Mapping[str, bytes],
    choice: Choice,
    view: Observer,
    scratch: Path,
    logs: Path | None,
) -> RuntimeResult:
    """Measure the files in one image, in a volume of its own: each runtime sees them unchanged."""
    result = RuntimeResult(image=image.name, runtime=image.runtime or image.name)
    stage = load_tool(TOOL).stage(
        0, FileFormat("tflite", image.name, ()), Path("files.json"), f"Measured in {image.name}"
    )
    places = [f"files/{number}.tflite" for number in range(len(files))]
    entries = [
        {"path": place, "signature": file.signature}
        for place, file in zip(places, files, strict=True)
    ]
    record = StageRecord(name=stage.name, title=stage.title, status="failed")
    view.stage_started(stage)
    begin = time.monotonic()
    (logs or scratch / "logs").mkdir(parents=True, exist_ok=True)
    log = (logs or scratch / "logs") / f"{image.title}.log"
    try:
        with choice.engine.volume(make_run_name(Path(TOOL)), scratch / "volume") as volume:
            volume.put(
                {
                    **few,
                    **{place: f.path for place, f in zip(places, files, strict=True)},
                    stage.consumes: json.dumps(entries).encode(),
                    f"requests/{stage.name}.json": _make_request(stage, measurement),
                    f"reports/{stage.name}.json": b"",
                }
            )
            with stream_output(stage, view, log, volume.limits.log) as on_line:
                ended = volume.run(stage, on_line)
            _complete(result, volume, stage, files, ended.reason or f"status {ended.status}")
    except (RunnerError, OSError) as error:
        result.failure = str(error)
    record.status, record.failure = "failed" if result.failure else "ok", result.failure
    record.seconds = round(time.monotonic() - begin, 3)
    view.stage_finished(record)
    return result


def _make_request(stage: Stage, measurement: Measurement) -> bytes:
    options = {
        "threads": ",".join(map(str, measurement.list_threads())),
        "rounds": measurement.rounds,
        "seconds": float(measurement.seconds),
    }
    return json.dumps({"input": {"path": stage.consumes}, "options": options}).encode()


def _complete(
    result: RuntimeResult, volume: Volume, stage: Stage, files: Sequence[Measurable], ended: str
) -> None:
    """Add what the stage found, or why it found nothing."""
    text, answer = volume.read(f"reports/{stage.name}.json"), volume.read(stage.produces)
    try:
        report = read_report(text) if text else None
        measured = read_answer(answer, Measured, "answer") if answer else None
    except ValueError as error:
        result.failure = str(error)
        return
    if report is None or report.status != "ok" or measured is None:
        said = report.error.message if report and report.error else ""
        result.failure = said or f"The stage left no answer ({ended})."
        return
    names = {f"files/{number}.tflite": file.name for number, file in enumerate(files)}
    if [row.file for row in measured.files] != list(names):
        result.failure = "The stage's answer is not about these files."
        return
    result.runtime, result.takes_threads = measured.runtime, measured.takes_threads
    result.files = [FileResult(**{**dict(row), "file": names[row.file]}) for row in measured.files]


def _identify(path: Path) -> None:
    """Raise `BadInput` for anything but a TensorFlow Lite model."""
    found = read_file(path)
    if found.format != "tflite" or found.damaged:
        raise BadInput(f"{path} is no TensorFlow Lite model: {found.what}.", "Name .tflite files.")


def _name(paths: Sequence[Path]) -> list[str]:
    """Name files as briefly as tells them apart. Raises `BadInput` for too many, or one twice."""
    if not 1 <= len(paths) <= _MOST_FILES:
        raise BadInput(f"Name 1 to {_MOST_FILES} .tflite files.")
    whole = [os.fsencode(path).decode(errors="replace") for path in paths]
    if len(set(whole)) < len(whole):
        raise BadInput("A file is named twice.")
    short = [re.split("/", name)[-1] for name in whole]
    return short if len(set(short)) == len(short) else whole
