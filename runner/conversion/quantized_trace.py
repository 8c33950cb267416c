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
from runner.schemas.diagnosis import Diagnosis, QuantizedFault, QuantizedPoint, QuantizedTrace
from runner.schemas.report import StageRecord
from runner.schemas.stage_reports import read_report
from runner.toolchains.model import Stage, Toolchain

_PROGRAM = "trace-quantized"
# A layer is worth keeping in float if it alone costs the outputs so much of all noise.
_LARGE_SHARE = 0.25


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
    """Add the traces of quantised models to a diagnosis, and judge by them what is not yet found."""
    diagnosis.quantized = list(traces)
    below = {r.name for r in records if r.report and r.report.check and _is_below(r)}
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


def _is_below(record: StageRecord) -> bool:
    check = record.report.check if record.report else None
    return check is not None and check.verdict not in ("passed", "rounding")


def summarize(trace: QuantizedTrace, below: bool) -> str:
    """Say which layer of a quantised model is at fault, and why; else which one costs most."""
    if trace.faults:
        first, *others = trace.faults
        more = f" So is something at {', '.join(map(name_layer, others[:4]))}." if others else ""
        return (
            f"{trace.mode}: at the layer '{name_layer(first)}' ({' + '.join(first.operators)}), "
            f"{first.reason}.{more}"
        )
    costly = list_costly(trace)
    if not costly:
        return f"{trace.mode}: no layer stands out; the noise is the sum of many."
    worst = costly[0]
    gate = "it is below its gate, and " if below else ""
    return (
        f"{trace.mode}: {gate}no layer is unusual. Most noise comes from '{name_layer(worst)}' "
        f"({' + '.join(worst.operators)}): the outputs have {worst.output_sqnr:.1f} dB if only this "
        f"layer is quantised. --keep-float '{name_layer(worst)}' leaves it in float; "
        "--quantize auto looks for the fewest layers."
    )


def list_costly(trace: QuantizedTrace) -> list[QuantizedPoint]:
    """List the layers that cost the outputs a large share of all noise, the worst first."""
    noises = {id(point): 10 ** (-point.output_sqnr / 10) for point in trace.points}
    total = sum(noises.values())
    chosen = [p for p in trace.points if total and noises[id(p)] >= _LARGE_SHARE * total]
    return sorted(chosen, key=lambda point: point.output_sqnr)


def name_layer(point: QuantizedPoint | QuantizedFault) -> str:
    """Return the user's layers, or else the tensor's first name."""
    return " + ".join(point.modules) or point.tensor.partition(";")[0]
