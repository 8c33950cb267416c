"""A recorded conversion, run again from its record alone, with the artifacts compared."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.conversion.convert import run_plan
from runner.conversion.observer import Observer
from runner.conversion.settings import RunSettings
from runner.engines.select import Choice, prepare_engine
from runner.errors import BadInput, EnvironmentUnavailable, ExitCode
from runner.formats.kinds import get_artifact_format
from runner.host.files import hash_file, write_text
from runner.host.text import make_printable
from runner.packages.user_wheel import accept_wheel
from runner.planning.inputs import InputSpec
from runner.planning.plan import Plan, choose_run_folder, make_run_name
from runner.planning.quantization import QuantizationPlan
from runner.planning.source import identify_source
from runner.provenance.read import Recorded, read_record
from runner.reproduction.artifacts import Comparer, compare_artifacts
from runner.reproduction.drift import find_differences
from runner.schemas.provenance import FileParameter, Provenance
from runner.schemas.report import Report
from runner.schemas.reproduction import (
    EXIT_CODES,
    ArtifactComparison,
    EnvironmentUsed,
    Reproduction,
    Verdict,
    decide_verdict,
    explain_difference,
)
from runner.toolchains.load import load_image, load_toolchain
from runner.toolchains.model import Image, Toolchain, add_wheels
from runner.trust.scan import make_trust_check

REPRODUCTION_FILE = "reproduction.json"


@dataclass(frozen=True)
class MovedFiles:
    """Where files of a recorded run are now; each must have the recorded sha256.

    `arch` is the file of --arch, `calibration` that of --calibration. None means that a file
    is where it was.
    """

    model: Path | None = None
    arch: Path | None = None
    inputs_file: Path | None = None
    calibration: Path | None = None


def reproduce(
    record: Path,
    moved: MovedFiles = MovedFiles(),
    settings: RunSettings = RunSettings(),
    *,
    verify_key: Path | None = None,
) -> Reproduction:
    """Repeat a recorded run and say how it compares; the new run folder has it all.

    `record` is a run folder, its provenance.json or its provenance.dsse.json. The user's files are
    taken from where they were, unless `moved` says where they are now.

    Raises `BadInput` for anything but a record and for a file that is not the recorded one,
    `Unverified` if the record is not signed by `verify_key`, and `EnvironmentUnavailable`, which
    reproduction.json then says too.
    """
    started = time.time()
    view = settings.observer
    recorded = read_record(record, verify_key)
    for alteration in recorded.alterations:
        view.say(make_printable(f"Altered: {alteration}."))
    for note in _list_notes(recorded):
        view.say(make_printable(note))
    plan = make_plan_again(recorded, moved, settings)
    watched = _Watched(view)
    with view:
        try:
            choice = _choose(plan, recorded, replace(settings, observer=watched))
        except EnvironmentUnavailable as error:
            write_text(
                plan.output / REPRODUCTION_FILE,
                _report_unavailable(plan, recorded, error.message).to_json(),
            )
            raise
        comparer = Comparer(
            recorded, plan.toolchain, plan.stage_options, plan.check, plan.output / "logs"
        )
        report = run_plan(
            plan,
            choice,
            replace(settings, cache=False, diagnose=False),
            started,
            after_stages=comparer,
        )
    result = _judge(recorded, plan, report, comparer, watched.made)
    write_text(plan.output / REPRODUCTION_FILE, result.to_json())
    return result


def make_plan_again(recorded: Recorded, moved: MovedFiles, settings: RunSettings) -> Plan:
    """Make the plan of a recorded run, with nothing left to a default. Raises `BadInput`."""
    parameters = recorded.statement.parameters
    chain = load_toolchain(parameters.toolchain)
    path = _locate("the model", parameters.model, moved.model, "--model", recorded.folder)
    identified = identify_source(chain, path, parameters.arch)
    arrays = None
    if parameters.inputs_file is not None:
        arrays = _locate(
            "the inputs file",
            parameters.inputs_file,
            moved.inputs_file,
            "--inputs",
            recorded.folder,
        )
    images: dict[str, Image] = {}
    for name in chain.images:
        variant = parameters.variants.get(name)
        images[name] = load_image(name, variant) if variant else load_image(name)
    accepted = tuple(
        accept_wheel(f"{path}#sha256={sha256}", list(images.values()))
        for path, sha256 in _find_wheels(recorded.statement, settings.wheels, list(images.values()))
    )
    # Artifacts do not depend on the reference: a run that was given one makes its own here.
    check: dict[str, Any] = parameters.check.model_dump(exclude_none=True, exclude={"reference"})
    if arrays is not None and parameters.inputs_file is not None:
        check["inputs"] = parameters.inputs_file.name
    options = {stage.name: dict(parameters.options.get(stage.name, {})) for stage in chain.stages}
    run = make_run_name(path)
    flat = {f"{stage}.{name}": value for stage, o in options.items() for name, value in o.items()}
    return Plan(
        model=identified,
        toolchain=chain,
        images={name: add_wheels(image, accepted) for name, image in images.items()},
        inputs=[
            InputSpec(
                *(item.name, tuple(item.shape), item.dtype, item.low, item.high),
                dims=tuple(item.dims),
            )
            for item in parameters.inputs
        ],
        inputs_from=parameters.inputs_from,
        arrays=arrays,
        python_files=_find_python_files(recorded, moved.arch),
        check=check,
        stage_options=options,
        output=choose_run_folder(settings.output, run),
        run=run,
        quantization=_plan_quantization_again(recorded, chain, moved),
        options={
            **check,
            **({"arch": parameters.arch} if parameters.arch else {}),
            **{name: value for name, value in flat.items() if value not in ("", None)},
        },
    )


def _plan_quantization_again(
    recorded: Recorded, chain: Toolchain, moved: MovedFiles
) -> QuantizationPlan:
    """Plan the recorded quantised models. Raises `BadInput` for a mode that is not known here."""
    asked = recorded.statement.parameters.quantization
    if asked is None:
        return QuantizationPlan()
    known = {stage.name: stage for stage in chain.quantizers}
    unknown = [mode for mode in asked.modes if mode not in known]
    if unknown:
        raise BadInput(f"The toolchain '{chain.name}' has no --quantize {unknown[0]} here.")
    files: dict[str, Path] = {}
    if asked.calibration is not None:
        files[asked.calibration.name] = _locate(
            "the calibration file",
            asked.calibration,
            moved.calibration,
            "--calibration",
            recorded.folder,
        )
    return QuantizationPlan(
        stages=[known[mode] for mode in asked.modes],
        options={mode: dict(asked.options.get(mode, {})) for mode in asked.modes},
        files=files,
        hashes={name: hash_file(path) for name, path in files.items()},
    )


def _list_notes(recorded: Recorded) -> list[str]:
    given = recorded.statement.parameters.check.reference
    if given is None:
        return []
    return [
        f"The recorded run was judged by the reference of {given}; this one makes its own, on "
        "which the artifacts' bytes do not depend."
    ]


def _locate(what: str, file: FileParameter, given: Path | None, option: str, folder: Path) -> Path:
    """Find where a recorded file is now, with the recorded content. Raises `BadInput`."""
    places = [given] if given else [Path(file.path), folder / Path(file.path).name]
    path = next((place for place in places if _is_file(place)), None)
    if path is None:
        where = f"there is no file {places[0]}"
        raise BadInput(f"{what.capitalize()} is not here: {where}.", f"Say where: {option} FILE.")
    sha256 = hash_file(path)
    if sha256 != file.sha256:
        raise BadInput(
            f"{path} is not {what} of the record: its sha256 is {sha256}, and {file.sha256} was "
            "recorded.",
            f"It was changed since, or the record was: give the one of then with {option} FILE.",
        )
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a recorded path that no file system here can hold
        return False


def _find_python_files(recorded: Recorded, arch: Path | None) -> dict[str, Path]:
    """Find the recorded file of --arch and those beside it, without any added since."""
    files = recorded.statement.parameters.arch_files
    if not files:
        return {}
    found = {}
    for file in files:
        # Names are relative to the folder of the file of --arch, which the volume calls `user`.
        place = arch.parent / file.name.partition("/")[2] if arch else None
        found[file.name] = _locate(
            f"the file {Path(file.path).name} of --arch", file, place, "--arch", recorded.folder
        )
    return found


def _find_wheels(
    statement: Provenance, given: Sequence[str], images: Sequence[Image]
) -> list[tuple[Path, str]]:
    """Find the user's recorded wheels. Raises `EnvironmentUnavailable` for one that is gone."""
    paths = [Path(argument.partition("#sha256=")[0]) for argument in given]
    known = {
        sha256 for image in images for stand_in in image.stand_ins for sha256 in stand_in.sha256
    }
    found = []
    for wheel in statement.parameters.wheels:
        places = [path for path in paths if path.name == wheel.name]
        # The record's own path counts only for a wheel that this project knows: a wheel is a
        # program, and anybody can write a record.
        if wheel.sha256 in known:
            places.append(Path(wheel.path))
        place = next((place for place in places if _is_file(place)), None)
        if place is None:
            raise EnvironmentUnavailable(
                f"The recorded run used the wheel {wheel.name} (sha256 {wheel.sha256}) for "
                f"{wheel.pin}, and it is not here, or not known here.",
                "Say where it is: --wheel FILE.",
            )
        found.append((place, wheel.sha256))
    return found


def _choose(plan: Plan, recorded: Recorded, settings: RunSettings) -> Choice:
    """Choose an engine that is ready: with the very images of the record, if those are here."""
    images, wanted = list(plan.images.values()), settings.engine
    if wanted in ("auto", "docker") and recorded.statement.internal.engine == "docker":
        from runner.engines.docker.client import connect
        from runner.engines.docker.engine import DockerEngine

        ids = {}
        for image in images:
            known = recorded.statement.dependency(f"environment/{image.title}")
            if known is not None and re.fullmatch("[0-9a-f]{64}", known.sha256):
                ids[image.name] = f"sha256:{known.sha256}"
        try:
            engine = DockerEngine(connect(), settings.limits)
            if engine.adopt(images, ids):
                return Choice(engine, "the recorded images are here")
        except EnvironmentUnavailable:
            if wanted == "docker":
                raise

    def check_trust() -> str:  # called only if needed, as it hashes every artifact
        artifacts = [recorded.artifact(subject.name) for subject in recorded.statement.subject]
        options = [{"arch": recorded.statement.parameters.arch}, *plan.stage_options.values()]
        return make_trust_check(
            {
                plan.model.path: plan.model.format,
                # Recorded artifacts are run too, where the new ones differ.
                **{path: get_artifact_format(path) for path in artifacts if path is not None},
            },
            next(iter(plan.python_files.values()), None),
            recorded=[str(o.get("arch") or "") for o in options],
            trusted=settings.trust_model,
        )()

    return prepare_engine(wanted, images, settings.observer, settings.limits, check_trust)


class _Watched(Observer):
    """An observer that passes set-up work on to another, and remembers what had to be made."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.made: set[str] = set()

    def task(self, title: str) -> Callable[[str, float | None], None]:
        self.made.add(title.rpartition(" ")[2])
        return self._observer.task(title)


def _judge(
    recorded: Recorded, plan: Plan, report: Report, comparer: Comparer, made: set[str]
) -> Reproduction:
    artifacts = compare_artifacts(recorded, report, comparer.measured)
    found = find_differences(recorded.statement, plan.images, plan.toolchain, report)
    verdict = decide_verdict(artifacts, recorded.alterations)
    first = next((item for item in artifacts if item.verdict != "identical"), None)
    failed = next((record for record in report.records if record.status == "failed"), None)
    if failed is not None and failed.blame == "environment":
        verdict = "environment-unavailable"
    code = EXIT_CODES[verdict]
    if report.outcome == "interrupted":
        verdict, code = "different", ExitCode.INTERRUPTED
    reasons: list[str] = []
    if first is not None:
        known = [*recorded.alterations, *found]
        reasons = explain_difference(first.stage, known, signed=bool(recorded.signed_by))
        if first.note and first.measured == "nothing":
            reasons.append(first.note)
    return _make_result(
        plan,
        recorded,
        verdict,
        summary=_summarize(verdict, artifacts, recorded, failed.failure if failed else ""),
        exit_code=int(code),
        first_differing_stage=first.stage if first else None,
        reasons=reasons,
        artifacts=artifacts,
        differences=found,
        environments=_list_environments(recorded.statement, report, made),
    )


def _make_result(plan: Plan, recorded: Recorded, verdict: Verdict, **fields: Any) -> Reproduction:
    return Reproduction(
        verdict=verdict,
        record=str(recorded.path),
        record_sha256=recorded.sha256,
        recorded_run=recorded.statement.predicate.runDetails.metadata.invocationId,
        signed_by=recorded.signed_by,
        run=plan.run,
        alterations=list(recorded.alterations),
        notes=_list_notes(recorded),
        **fields,
    )


def _report_unavailable(plan: Plan, recorded: Recorded, message: str) -> Reproduction:
    return _make_result(
        plan,
        recorded,
        "environment-unavailable",
        summary=message,
        exit_code=int(ExitCode.ENVIRONMENT),
    )


def _list_environments(
    statement: Provenance, report: Report, made: set[str]
) -> list[EnvironmentUsed]:
    used: dict[str, EnvironmentUsed] = {}
    for record in report.records:
        environment = record.environment
        if environment is None:
            continue
        known = statement.dependency(f"environment/{environment.image}")
        digest = environment.identity.removeprefix("sha256:")
        source = "made now" if environment.image in made else "here"
        if known is not None and known.sha256 == digest:
            source += ", as recorded"
        used[environment.image] = EnvironmentUsed(
            image=environment.image,
            engine=report.engine.name,
            identity=environment.identity,
            source=source,
        )
    return list(used.values())


def _summarize(
    verdict: Verdict, artifacts: Sequence[ArtifactComparison], recorded: Recorded, failure: str
) -> str:
    counts: Mapping[str, int] = {
        v: sum(a.verdict == v for a in artifacts) for v in ("identical", "equivalent")
    }
    if verdict == "environment-unavailable":
        return f"A stage could not run here: {failure}"
    if recorded.alterations:
        altered = ", ".join(item.what for item in recorded.alterations)
        return f"Something was altered after the run: {altered}."
    if not artifacts:
        return "Neither the recorded run nor this one made an artifact."
    if verdict == "identical":
        return f"All {len(artifacts)} artifacts have the recorded bytes."
    if verdict == "equivalent":
        return (
            f"{counts['identical']} of {len(artifacts)} artifacts have the recorded bytes; the "
            "outputs of the others are equal within the noise floor."
        )
    wrong = [a.path for a in artifacts if a.verdict not in ("identical", "equivalent")]
    return f"Not as recorded: {', '.join(wrong)}."
