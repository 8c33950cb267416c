"""Inspection of a model by its own framework, which loads it in the locked environment."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from runner.conversion.settings import RunSettings
from runner.engines.base import Engine
from runner.engines.process.environments import is_installed
from runner.engines.select import Choice, make_process_engine, prepare_engine
from runner.errors import EnvironmentUnavailable
from runner.host.process_identity import make_scratch_folder
from runner.planning.plan import read_arch_files
from runner.planning.source import Source
from runner.schemas.base import Integer
from runner.schemas.inspection import Inspection, Loaded, Obstacle, TensorFacts
from runner.schemas.report import StageReport
from runner.schemas.stage_reports import read_answer, read_report
from runner.toolchains.load import load_image
from runner.toolchains.model import Image
from runner.toolchains.tools import find_format, load_tool
from runner.trust.scan import make_trust_check

_SUMMARY_ONLY = "what follows was read from the file alone"


class _Described(BaseModel):
    """The stage's artifact, which is untrusted until it validates here."""

    model_config = ConfigDict(extra="forbid")

    framework: str = Field(max_length=200)
    ok: bool
    message: str = ""
    remedy: str = ""
    inputs: list[TensorFacts] | None = None
    outputs: list[TensorFacts] | None = None
    parameters: Integer | None = None
    facts: dict[str, str] = {}


def load(found: Inspection, source: Source, settings: RunSettings) -> None:
    """Complete an inspection by what the framework says, or say in `not_loaded` why not.

    With the engine 'auto' nothing is installed or built for it: a summary needs no environment.
    Raises `BadInput`, or `EnvironmentUnavailable` if an engine was asked for by name.
    """
    opened = find_format(found)
    if opened is None:
        found.not_loaded = "no framework of this toolchain opens such a file"
        return
    if reason := _find_obstacle(found, source.arch):
        found.not_loaded = reason
        return
    arch, files = read_arch_files(source.arch)
    asked = make_trust_check(
        {source.path: found.format},
        Path(next(iter(files))) if files else None,
        trusted=settings.trust_model,
    )
    choice = _prepare(settings, load_image(opened.image), asked)
    if isinstance(choice, str):
        found.not_loaded = choice
        return
    stage = load_tool("inspect").stage(0, opened, source.path)
    options = {**source.options, "kind": opened.kind, "arch": arch}
    request = {
        "input": {"path": stage.consumes, "sha256": found.sha256},
        "options": options,
    }
    with (
        make_scratch_folder("inspect") as scratch,
        choice.engine.volume(_make_run_name(), scratch / "volume") as volume,
    ):
        volume.put(
            {
                **files,
                stage.consumes: source.path,
                f"requests/{stage.name}.json": json.dumps(request).encode(),
                f"reports/{stage.name}.json": b"",
            }
        )
        ended = volume.run(stage, lambda line: None)
        report, described = _read_results(
            volume.read(f"reports/{stage.name}.json"), volume.read(stage.produces)
        )
    if described is None:
        error = report.error if report else None
        found.loaded = Loaded(
            framework=opened.kind,
            ok=False,
            message=ended.reason
            or (error.message if error else f"The stage ended with status {ended.status}."),
            remedy=ended.remedy or (error.remedy if error else ""),
            engine=choice.engine.name,
        )
    else:
        _complete(found, described, report, choice.engine)
    if not found.loaded or found.loaded.ok or not found.toolchain.accepted:
        return
    found.toolchain.accepted = False
    found.toolchain.obstacles.append(
        Obstacle(
            reason=f"{found.loaded.framework} does not load it: {found.loaded.message}",
            remedy=found.loaded.remedy,
        )
    )


def _find_obstacle(found: Inspection, arch: str) -> str:
    """Return why loading a file is not even tried, or '' if nothing speaks against it."""
    if against := [o.reason for o in found.toolchain.obstacles if not o.runs]:
        return against[0][:1].lower() + against[0][1:].rstrip(".")
    if found.format in ("state-dict", "checkpoint") and not arch.partition(":")[2]:
        return "weights alone cannot be loaded: name what builds the model with --arch"
    if found.format == "torch-module" and found.details.get("classes of its own") and not arch:
        return "its classes are not in it: give their file with --arch"
    return ""


def _prepare(settings: RunSettings, image: Image, code_in_file: Callable[[], str]) -> Choice | str:
    """Prepare the engine that was asked for; for `auto`, one that is ready, or say why none is."""
    images, view, limits = [image], settings.observer, settings.limits
    if settings.engine != "auto":
        return prepare_engine(settings.engine, images, view, limits, code_in_file)
    from runner.engines.docker.client import connect
    from runner.engines.docker.engine import DockerEngine

    try:
        engine = DockerEngine(connect(), limits)
        if not engine.find_missing(images):
            engine.prepare(images, view)
            return Choice(engine, "the image is here")
    except EnvironmentUnavailable:
        pass  # no daemon answers
    if not is_installed(image):
        return (
            f"the environment '{image.name}' is not on this machine, so {_SUMMARY_ONLY}; "
            "--engine docker or --engine process makes it"
        )
    process = make_process_engine(limits)
    if process.sandbox is None and (found := code_in_file()):
        return f"{found.rstrip('.')}, and nothing isolates it here; --trust-model loads it anyway"
    process.prepare(images, view)
    return Choice(process, "the environment is here")


def _read_results(
    report: bytes | None, artifact: bytes | None
) -> tuple[StageReport | None, _Described | None]:
    """Read the stage's report and artifact; each is None if missing, both if either is invalid."""
    try:
        valid = read_report(report) if report else None
        described = read_answer(artifact, _Described, "answer") if artifact else None
    except ValueError:
        return None, None
    return valid, described if valid is not None and valid.status == "ok" else None


def _complete(
    found: Inspection, described: _Described, report: StageReport | None, engine: Engine
) -> None:
    """Add what the framework says and the bytes of the file could not."""
    found.loaded = Loaded(
        framework=described.framework,
        ok=described.ok,
        message=described.message,
        remedy=described.remedy,
        facts=described.facts,
        engine=engine.name,
    )
    if not described.ok:
        return
    if found.format == "torchscript" and report is not None:
        found.operators = report.operators
    if found.inputs is None or found.format == "frozen-graph":
        found.inputs = described.inputs or found.inputs
    if found.outputs is None or found.format == "frozen-graph":
        found.outputs = described.outputs or found.outputs
    if found.format in ("torchscript", "torch-module", "state-dict", "checkpoint"):
        found.parameters = described.parameters
        found.parameter_types = {}
    if report is not None:
        found.notes += report.notes


def _make_run_name() -> str:
    return f"inspect-{secrets.token_hex(4)}"
