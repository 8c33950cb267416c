"""`runner diagnose RUN`: reopen a finished run, and find the operator that introduces its error."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.conversion.folder import note_active_run
from runner.conversion.quantized.trace import add_quantized, trace_quantized
from runner.conversion.settings import DEFAULT_SAMPLES, RunSettings
from runner.conversion.trace import trace_run
from runner.engines.select import prepare_engine
from runner.errors import BadInput
from runner.formats.kinds import get_artifact_format
from runner.host.files import hash_file, write_text
from runner.planning.plan import collect_python_files
from runner.planning.source import identify_source
from runner.report.runs import read_report
from runner.schemas.diagnosis import Diagnosis
from runner.schemas.inspection import Format
from runner.schemas.report import Report, StageRecord
from runner.toolchains.load import load_image, load_toolchain
from runner.toolchains.model import DEFAULT_VARIANT, Image, Toolchain
from runner.trust.scan import make_trust_check

_MOST_SAMPLES = 1000


def diagnose(
    folder: Path,
    *,
    model: Path | None = None,
    samples: int = DEFAULT_SAMPLES,
    settings: RunSettings = RunSettings(),
) -> Diagnosis:
    """Trace a run folder's artifacts against each other, and write `diagnosis.json` there.

    `model` is the path of the model, if it has moved since the run. Artifacts are traced as they
    are now: the notes name any that changed since the run. Raises `BadInput` or
    `EnvironmentUnavailable` if nothing can be traced.
    """
    view, folder = settings.observer, folder.absolute()
    report = read_report(folder)
    if not 1 <= samples <= _MOST_SAMPLES:
        raise BadInput(f"--samples must be between 1 and {_MOST_SAMPLES}.")
    chain = load_toolchain(report.toolchain)
    files, notes = _collect_files(report, chain, folder, model)
    images = _load_images(report, chain)
    check = read_check(report)
    with view:

        def find_risk() -> str:  # deferred: it reads the whole model
            return make_trust_check(
                _identify_formats(files, report, chain),
                Path(report.model.arch_file) if report.model.arch_file else None,
                recorded=_list_archs(report),
                trusted=settings.trust_model,
            )()

        choice = prepare_engine(settings.engine, images, view, settings.limits, find_risk)
        view.say(f"Engine: {choice.engine.name} ({choice.reason})")
        token = secrets.token_hex(4)
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", report.run)[:80]
        scratch = folder / f".volume-{token}"
        _refuse_link(folder / "logs").mkdir(exist_ok=True)
        with (
            note_active_run(folder),
            choice.engine.volume(f"{name}-trace-{token}", scratch) as volume,
        ):
            volume.put(files)
            records = _list_traceable(report, chain, folder)
            diagnosis = trace_run(chain, volume, records, check, folder, view, samples)
            traces = trace_quantized(
                chain, volume, report.quantized, check, folder, view, diagnosis.samples
            )
            add_quantized(diagnosis, traces, report.quantized)
    diagnosis.notes[:0] = notes
    write_text(folder / "diagnosis.json", diagnosis.model_dump_json(indent=1) + "\n")
    return diagnosis


def _collect_files(
    report: Report, chain: Toolchain, folder: Path, given: Path | None
) -> tuple[dict[str, Path | bytes], list[str]]:
    """Collect what the volume of a trace must hold, and notes about it. Raises `BadInput`."""
    files: dict[str, Path | bytes] = {chain.stages[0].consumes: _find_model(report, given)}
    notes = []
    known = {stage.name for stage in chain.stages}
    for record in report.stages:
        if record.name not in known or record.report is None or record.report.artifact is None:
            continue
        text = record.report.model_dump_json(by_alias=True)
        files[f"reports/{record.name}.json"] = text.encode()
    recorded = {artifact.path: artifact.sha256 for artifact in report.artifacts}
    for stage in chain.stages:
        path = folder / stage.produces
        if stage.produces not in recorded or path.is_symlink() or not path.is_file():
            continue
        files[stage.produces] = path
        if hash_file(path) != recorded[stage.produces]:
            notes.append(f"{stage.produces} has changed since the run; it is traced as it is now.")
    if not recorded or chain.stages[0].produces not in files:
        raise BadInput(
            f"{folder} holds no artifact to trace.", "The log of the stage that failed says more."
        )
    if report.model.arch_file:
        path = _require_file(report.model.arch_file, "The file of --arch")
        if path.suffix != ".py":  # an untrusted report may name any file of the user's
            raise BadInput(f"{path}, which the report names as --arch, is no Python file.")
        files |= collect_python_files(path)
    if report.model.inputs_file:
        name = str(report.options.get("inputs", ""))
        if not re.fullmatch(r"user/inputs\.np[yz]", name):
            raise BadInput("The report does not say how the inputs were read.")
        files[name] = _check_arrays(_require_file(report.model.inputs_file, "The file of --inputs"))
    return files, notes


def _refuse_link(folder: Path) -> Path:
    if folder.is_symlink():
        raise BadInput(f"{folder} is a link, which a run never leaves.", "Remove it.")
    return folder


def _identify_formats(
    files: Mapping[str, Path | bytes], report: Report, chain: Toolchain
) -> dict[Path, Format]:
    """Identify the formats of the files that the tracing stages load."""
    arch = str(report.options.get("arch", ""))
    formats: dict[Path, Format] = {}
    for name, path in files.items():
        if name == chain.stages[0].consumes and isinstance(path, Path):
            formats[path] = identify_source(chain, path, arch).format
        elif name in {stage.produces for stage in chain.stages} and isinstance(path, Path):
            formats[path] = get_artifact_format(path)
    return formats


def _list_archs(report: Report) -> list[str]:
    """List every --arch that a stage could be given."""
    options = [report.options, *(r.report.options for r in report.stages if r.report)]
    return [str(value) for o in options for key, value in o.items() if key.endswith("arch")]


def _find_model(report: Report, given: Path | None) -> Path:
    path = given or Path(report.model.path or report.model.name)
    if not path.is_file():
        raise BadInput(f"The model of this run is not at {path}.", "Say where it is: --model FILE.")
    if hash_file(path) != report.model.sha256:
        raise BadInput(
            f"{path} is not the model of this run: its sha256 is another.",
            "Name the file that was converted: --model FILE.",
        )
    return path


def _check_arrays(path: Path) -> Path:
    """Return `path` if it holds arrays: an untrusted report may name any file as the inputs."""
    with open(path, "rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise BadInput(f"{path}, which the report names as --inputs, is not .npy or .npz.")
    return path


def read_check(report: Report) -> dict[str, Any]:
    """Return which samples the run was checked with. Raises `BadInput`."""
    check = {key: report.options.get(key) for key in ("samples", "seed")}
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in check.values()) or not check["samples"]:
        raise BadInput("The report does not say which samples the run was checked with.")
    return {**check, **{key: report.options[key] for key in ("inputs",) if key in report.options}}


def _require_file(path: str, what: str) -> Path:
    if not Path(path).is_file():
        raise BadInput(f"{what} of this run is no longer at {path}.", "Put it there again.")
    return Path(path)


def _load_images(report: Report, chain: Toolchain) -> list[Image]:
    """Load the images of the run, in the variants that it used."""
    taken = {record.environment.image for record in report.stages if record.environment}
    return [
        load_image(name, "cuda" if f"{name}-cuda" in taken else DEFAULT_VARIANT)
        for name in chain.images
    ]


def _list_traceable(report: Report, chain: Toolchain, folder: Path) -> list[StageRecord]:
    """List the records of stages whose artifacts are still in the folder, up to the first gap."""
    records = {record.name: record for record in report.stages}
    found = []
    for stage in chain.stages:
        if stage.name not in records or not (folder / stage.produces).is_file():
            break
        found.append(records[stage.name])
    return found
