"""The conversion, top to bottom: plan, prepare, run each stage, judge, report."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

import runner
from runner.active import room_for_report, working_in
from runner.cached_run import CachedRun
from runner.diagnosis import trace_run
from runner.engines.base import Engine, Volume
from runner.engines.choice import Choice, prepare_engine
from runner.errors import BadInput, EnvironmentUnavailable, ExitCode, RunnerError
from runner.failures import explain_stage
from runner.files import sha256_of, write_text
from runner.graphfile import identify_source
from runner.inputs import InputSpec, resolve_inputs
from runner.modelfile import ModelFile
from runner.page import write_page
from runner.record import write_records
from runner.report import (
    EngineRecord,
    FileRecord,
    Gate,
    ModelRecord,
    Report,
    StageRecord,
    StageReport,
)
from runner.stage_cache import StageCache
from runner.stage_output import followed
from runner.toolchain import (
    DEFAULT_TOOLCHAIN,
    DEFAULT_VARIANT,
    Image,
    Stage,
    Toolchain,
    load_image,
    load_toolchain,
    variants_of,
    with_wheels,
)
from runner.traces import Diagnosis
from runner.view import SilentView, View
from runner.wheels import accept_wheel

if TYPE_CHECKING:
    from runner.dsse import PrivateKey

METRICS = {name: f"{name}_abs" for name in ("mean", "max", "p99", "rms")} | {
    f"{name}-rel": f"{name}_rel" for name in ("mean", "max", "p99", "rms")
}

_MOST_PYTHON_FILES = 200

# What is done when the stages have run and the volume is still there.
Inside = Callable[[Volume, Sequence[StageRecord]], None]


@dataclass(frozen=True)
class Plan:
    """Everything that was asked for, checked; making one touches neither engine nor disk.

    `python_files` are the file of `--arch` and those beside it, by their names in the volume.
    """

    model: ModelFile
    toolchain: Toolchain
    images: Mapping[str, Image]
    inputs: Sequence[InputSpec]
    inputs_from: str
    arrays: Path | None
    python_files: Mapping[str, Path]
    check: Mapping[str, Any]
    stage_options: Mapping[str, Mapping[str, Any]]
    output: Path
    run: str
    options: Mapping[str, Any] = field(default_factory=dict)
    # Further files that the stages find in the volume, by their names there.
    extras: Mapping[str, Path] = field(default_factory=dict)
    # Whether it is a conversion, of which a record is left.
    recorded: bool = True

    @property
    def arch_file(self) -> Path | None:
        """Where the file of --arch is, if it names one."""
        name = str(self.options.get("arch", "")).partition(":")[0]
        return self.python_files.get(name)


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
    toolchain: str = DEFAULT_TOOLCHAIN,
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
    comes of the stages is in the returned report; `exit_code` in it says how it ended. Raises
    `BadInput` or `EnvironmentUnavailable` where nothing could be started.
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
        choice = prepare_engine(engine, list(plan.images.values()), view)
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
    from runner.dsse import load_signing_key

    return load_signing_key(path)


def make_plan(
    model: Path,
    *,
    output: str | Path | None,
    inputs: Sequence[str],
    samples: int,
    seed: int,
    inputs_file: str | Path | None,
    tolerance: float,
    metric: str,
    options: Mapping[str, Any],
    wheels: Sequence[str],
    gpu: bool,
    toolchain: str,
) -> Plan:
    """Check everything that was asked for. Raises `BadInput`."""
    chain = load_toolchain(toolchain)
    identified = identify_source(chain.accepts, model, str(options.get("arch", "")))
    return plan_for(
        identified,
        chain,
        output=output,
        inputs=inputs,
        samples=samples,
        seed=seed,
        inputs_file=inputs_file,
        tolerance=tolerance,
        metric=metric,
        options=options,
        wheels=wheels,
        gpu=gpu,
    )


def plan_for(
    identified: ModelFile,
    chain: Toolchain,
    *,
    output: str | Path | None,
    inputs: Sequence[str],
    samples: int,
    seed: int,
    inputs_file: str | Path | None,
    tolerance: float,
    metric: str,
    options: Mapping[str, Any],
    wheels: Sequence[str] = (),
    gpu: bool = False,
    extras: Mapping[str, Path] | None = None,
) -> Plan:
    """The plan for a file that is known and a chain of stages for it. Raises `BadInput`."""
    arch = str(options.get("arch", ""))
    model = identified.path
    if samples < 1:
        raise BadInput("--samples must be at least 1: an unchecked model proves nothing.")
    if seed < 0:
        raise BadInput("--seed must be 0 or above.")
    if not 0 < tolerance < math.inf:
        raise BadInput("--tolerance must be a number above 0.")
    if metric not in METRICS:
        raise BadInput(f"There is no metric '{metric}'.", f"Metrics: {', '.join(METRICS)}.")
    arrays = Path(inputs_file) if inputs_file else None
    specs, source = resolve_inputs(model, inputs, arrays)
    images = {name: _image(name, gpu) for name in chain.images}
    accepted = tuple(accept_wheel(wheel, list(images.values())) for wheel in wheels)
    images = {name: with_wheels(image, accepted) for name, image in images.items()}
    arch_file, options = _arch_file(arch, options)
    run = run_name(model)
    check: dict[str, Any] = {
        "samples": samples,
        "seed": seed,
        "tolerance": tolerance,
        "metric": METRICS[metric],
    }
    if arrays is not None:
        check["inputs"] = f"user/inputs{arrays.suffix}"
    return Plan(
        model=identified,
        toolchain=chain,
        images=images,
        inputs=specs,
        inputs_from=source,
        arrays=arrays,
        python_files=python_files(arch_file) if arch_file else {},
        check=check,
        stage_options=_stage_options(chain, options),
        output=run_folder(output, run),
        run=run,
        options={**check, **{k: v for k, v in options.items() if v not in ("", None)}},
        extras=extras or {},
    )


def _image(name: str, gpu: bool) -> Image:
    variant = "cuda" if gpu and "cuda" in variants_of(name) else DEFAULT_VARIANT
    return load_image(name, variant)


def _arch_file(arch: str, options: Mapping[str, Any]) -> tuple[Path | None, Mapping[str, Any]]:
    """The Python file of `--arch`, if it is one, and the options as the stage sees the file."""
    source, colon, attribute = arch.partition(":")
    if not source.endswith(".py"):
        if arch and not colon:
            raise BadInput(
                f"--arch {arch} names neither a file nor a callable.",
                "The forms are FILE.py, FILE.py:CALLABLE and MODULE:CALLABLE.",
            )
        return None, options
    path = Path(source)
    if not path.is_file():
        raise BadInput(f"--arch: there is no file {source}.")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\.py", path.name):
        raise BadInput(f"--arch: {path.name} cannot be imported; a module's name is an identifier.")
    return path, {**options, "arch": f"user/{path.name}{colon}{attribute}"}


def _stage_options(chain: Toolchain, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort options to the stages that understand them. Raises `BadInput` for one that none does."""
    sorted_options: dict[str, dict[str, Any]] = {stage.name: {} for stage in chain.stages}
    for key, value in options.items():
        name, dot, option = key.rpartition(".")
        takers = [s for s in chain.stages if (not dot or s.name == name) and option in s.options]
        if value in ("", None):
            continue
        if not takers:
            known = [f"{s.name}.{o}" for s in chain.stages for o in s.options]
            raise BadInput(f"No stage has the option '{key}'.", f"Known: {', '.join(known)}.")
        for stage in takers:
            sorted_options[stage.name][option] = value
    return sorted_options


def run_folder(output: str | Path | None, run: str) -> Path:
    """The absolute path of a run's folder. Raises `BadInput` if there is something in it."""
    folder = Path(output) if output else Path("runs") / run
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(
            f"{folder} exists and is not empty{_unfinished(folder)}.",
            "Name another --output, or remove it first.",
        )
    return folder.absolute()


def _unfinished(folder: Path) -> str:
    if (folder / "logs").is_dir() and not (folder / "report.json").exists():
        return ": a run is working there, or one was killed (then `runner clean` tidies it)"
    return ""


def run_name(model: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", model.stem).strip("-") or "model"
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{stem[:40]}-{now}-{secrets.token_hex(2)}"


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
                room_for_report(folder),
                choice.engine.volume(plan.run, folder / ".volume") as volume,
            ):
                volume.put(_initial_files(plan))
                cached = CachedRun(cache, plan.run, folder, _initial_files(plan))
                _run_stages(plan, choice.engine, volume, view, records, cached)
                if diagnose and _judge(plan, records, False)[0] == "out-of-tolerance":
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
        report = _report(plan, choice, records, interrupted, started, setup, seconds)
        report.diagnosis = diagnosis
        report.notes += notes
        try:
            write_text(folder / "report.json", report.to_json())
            write_page(report, folder)
            if plan.recorded:
                write_records(plan, report, key)
        except OSError as error:
            view.finished(report, folder)
            raise EnvironmentUnavailable(
                f"The report of this run cannot be written into {folder}: {error.strerror}.",
                "Mend the disk (runner doctor), then run the command again; stages that finished "
                "are taken from the cache. What has its final name in the folder is whole.",
            ) from None
    view.finished(report, folder)
    return report


def _initial_files(plan: Plan) -> dict[str, Path]:
    files: dict[str, Path] = {
        plan.toolchain.stages[0].consumes: plan.model.path,
        **plan.extras,
    }
    if plan.arrays is not None:
        files[plan.check["inputs"]] = plan.arrays
    return files | dict(plan.python_files)


def arch_files(arch: str) -> tuple[str, dict[str, Path | bytes]]:
    """`--arch` as the stages see it, and the files to put into their volume. Raises `BadInput`."""
    file, options = _arch_file(arch, {"arch": arch})
    return str(options["arch"]), {} if file is None else dict(python_files(file))


def python_files(arch_file: Path) -> dict[str, Path]:
    """The file of `--arch`, and what it may import: the Python files and packages beside it."""
    folder = arch_file.parent
    packages = [path.parent for path in folder.glob("*/__init__.py")]
    beside = [*folder.glob("*.py"), *(path for p in packages for path in p.rglob("*.py"))]
    if len(beside) > _MOST_PYTHON_FILES:
        beside = [arch_file]  # a folder of everything, not a project's
    return {f"user/{path.relative_to(folder).as_posix()}": path for path in beside}


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
    with followed(stage, view, plan.output / f"logs/{stage.name}.log") as on_line:
        ended = volume.run(stage, on_line)
    record.exit_status = ended.status
    record.status, record.blame = "failed", "stage"
    text = volume.read(f"reports/{stage.name}.json")
    try:
        record.report = StageReport.model_validate_json(text) if text else None
    except ValidationError as error:
        record.failure = f"The stage's report is not valid: {error.errors()[0]['msg']}"
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
        return "The stage reports an artifact that is not there."
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


def _sources(plan: Plan) -> dict[str, Path | None]:
    return {"path": plan.model.path, "arch_file": plan.arch_file, "inputs_file": plan.arrays}


def _shown_path(path: Path | None) -> str | None:
    return None if path is None else os.fsencode(path.absolute()).decode(errors="replace")


def _report(
    plan: Plan,
    choice: Choice,
    records: Sequence[StageRecord],
    interrupted: bool,
    started: float,
    setup: float,
    total: float,
) -> Report:
    inside = sum(r.report.seconds for r in records if r.report and not r.cached)
    outcome, code, gate = _judge(plan, records, interrupted)
    first = records[0].report
    return Report(
        runner=runner.__version__,
        run=plan.run,
        started=datetime.datetime.fromtimestamp(started, datetime.timezone.utc).isoformat(),
        seconds=round(total, 3),
        setup_seconds=round(setup, 3),
        overhead_seconds=round(total - setup - inside, 3),
        outcome=outcome,
        exit_code=int(code),
        toolchain=plan.toolchain.name,
        reference=plan.toolchain.reference,
        model=ModelRecord(
            # A name that is not UTF-8 is shown as far as it goes.
            name=os.fsencode(plan.model.path.name).decode(errors="replace"),
            kind=plan.model.kind.value,
            sha256=plan.model.sha256,
            bytes=plan.model.bytes,
            **{name: _shown_path(path) for name, path in _sources(plan).items()},
        ),
        options=dict(plan.options),
        inputs_from=plan.inputs_from or ("inferred from the first layer" if first else ""),
        engine=EngineRecord(
            name=choice.engine.name, reason=choice.reason, details=choice.engine.details
        ),
        gate=gate,
        notes=[
            *(note for record in records if record.report for note in record.report.notes),
            *_note_of_the_cache(records),
        ],
        artifacts=[r.report.artifact for r in records if r.report and r.report.artifact],
        stages=list(records),
    )


def _note_of_the_cache(records: Sequence[StageRecord]) -> list[str]:
    taken = {record.name: record.cached for record in records if record.cached}
    if not taken:
        return []
    runs = ", ".join(dict.fromkeys(taken.values()))
    return [f"Taken from the cache: {', '.join(taken)} (made by {runs}); --no-cache runs them."]


_BLAMED = {"input": ExitCode.BAD_INPUT, "environment": ExitCode.ENVIRONMENT}

Outcome = Literal["passed", "out-of-tolerance", "vacuous", "failed", "interrupted"]


def _judge(
    plan: Plan, records: Sequence[StageRecord], interrupted: bool
) -> tuple[Outcome, ExitCode, Gate]:
    """The outcome of the run: the verdict on the final model, if there is one."""
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
    gate.value = max(values, default=None)
    gate.verdict = check.verdict
    if check.verdict == "passed":
        return "passed", ExitCode.PASSED, gate
    if check.verdict == "vacuous":
        return "vacuous", ExitCode.VACUOUS, gate
    return "out-of-tolerance", ExitCode.OUT_OF_TOLERANCE, gate
