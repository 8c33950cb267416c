"""Tracing quantised models: which layer costs a model its signal, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.conversion.observer import Observer
from runner.conversion.stage_log import stream_output
from runner.engines.base import Volume
from runner.errors import RunnerError
from runner.report.quantized import is_below_gate, summarize
from runner.schemas.diagnosis import Diagnosis, QuantizedTrace
from runner.schemas.report import StageRecord
from runner.schemas.stage_reports import read_report
from runner.toolchains.model import Stage, Toolchain

_PROGRAM = "trace-quantized"


def list_traceable(chain: Toolchain, records: Sequence[StageRecord], folder: Path) -> list[Stage]:
    """List the quantising stages whose file is in the run folder and can be traced."""
    made = {
        record.name for record in records if record.report is not None and record.report.artifact
    }
    return [
        stage
        for stage in chain.quantizers
        if stage.trace
        and stage.name in made
        and (folder / stage.produces).is_file()
        and not (folder / stage.produces).is_symlink()
    ]


def trace_quantized(
    chain: Toolchain,
    volume: Volume,
    records: Sequence[StageRecord],
    check: Mapping[str, Any],
    folder: Path,
    view: Observer,
    samples: Sequence[int],
) -> list[QuantizedTrace]:
    """Trace the quantised models of a run folder; never raise for what a trace does.

    `volume` holds what the float chain left there; `records` are the quantising stages', `samples`
    the numbers of the check's samples to trace.
    """
    stages = list_traceable(chain, records, folder)
    reports = {record.name: record.report for record in records if record.report}
    found: list[QuantizedTrace] = []
    # Stages of one tracing program are traced together: its imports take longer than its work.
    for module in dict.fromkeys(stage.trace for stage in stages):
        group = [stage for stage in stages if stage.trace == module]
        signature = reports[group[0].name].signature
        program = replace(group[0].tracer, name=_PROGRAM, title="Quantised models, traced")
        modes = {stage.name: stage.produces for stage in group}
        request = {
            "options": {},
            "signature": signature.model_dump() if signature else None,
            "check": dict(check),
            "trace": {"samples": list(samples), "quantized": modes},
        }
        files: dict[str, Path | bytes] = {
            f"requests/{program.name}.json": json.dumps(request).encode(),
            f"reports/{program.name}.json": b"",
        }
        for stage in group:
            files[stage.produces] = folder / stage.produces
            text = reports[stage.name].model_dump_json(by_alias=True)
            files[f"reports/{stage.name}.json"] = text.encode()
        found += _run(program, modes, volume, files, folder, view)
    return found


def _run(
    program: Stage,
    modes: Mapping[str, str],
    volume: Volume,
    files: Mapping[str, Path | bytes],
    folder: Path,
    view: Observer,
) -> list[QuantizedTrace]:
    record = StageRecord(name=program.name, title=program.title, status="failed")
    view.stage_started(program)
    failure = ""
    try:
        volume.put(dict(files))
        log = folder / f"logs/{program.name}.log"
        with stream_output(program, view, log, volume.limits.log) as on_line:
            ended = volume.run(program, on_line)
        text = volume.read(f"reports/{program.name}.json")
        report = read_report(text) if text else None
        if report is not None and report.quantized:
            record.status = "ok"
            return report.quantized
        failure = (report.error.message if report and report.error else "") or (
            f"The tracing program left no report ({ended.reason or ended.status})."
        )
    except (RunnerError, OSError, ValueError) as error:
        failure = str(error)
    finally:
        view.stage_finished(record)
    return [
        QuantizedTrace(
            mode=mode, artifact=name, samples=0, tensors=0, matched=0, points=[], faults=[],
            failure=failure,
        )
        for mode, name in modes.items()
    ]  # fmt: skip


def add_quantized(
    diagnosis: Diagnosis, traces: Sequence[QuantizedTrace], records: Sequence[StageRecord]
) -> None:
    """Add the traces of quantised models to a diagnosis, and judge what is not yet found."""
    diagnosis.quantized = list(traces)
    below = {record.name for record in records if is_below_gate(record)}
    diagnosis.notes += [
        f"{t.artifact} could not be traced: {t.failure}" for t in traces if t.failure
    ]
    told = [
        summarize(trace, trace.mode in below)
        for trace in traces
        if trace.faults or trace.mode in below
    ]
    if not told:
        return
    if diagnosis.verdict in ("rounding", "incomplete"):
        diagnosis.verdict, diagnosis.summary = "quantization", " ".join(told)
    else:
        diagnosis.notes += told
