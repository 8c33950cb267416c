"""The record: the run's circumstances, files with their hashes, environments and options."""

from __future__ import annotations

from dataclasses import dataclass

from runner.report.html import figures
from runner.report.html.marks import Pair, make_link
from runner.schemas.report import Report

_MOST_OPTIONS, _MOST_DETAILS, _MOST_FILES = 60, 8, 20


@dataclass(frozen=True)
class File:
    name: str
    link: str
    bytes: str
    sha256: str


@dataclass(frozen=True)
class Environment:
    """What a stage ran in: an image's id or a virtual environment's key, and its lock."""

    stage: str
    image: str
    python: str
    identity: str
    lock: str
    wheels: str


def list_circumstances(report: Report) -> list[Pair]:
    engine = report.engine
    details = list(engine.details.items())[:_MOST_DETAILS]
    pairs = [
        Pair("Toolchain", report.toolchain),
        Pair("Engine", f"{engine.name} ({engine.reason})" if engine.reason else engine.name),
        *(Pair(f"Engine: {name}", value) for name, value in details),
        Pair("Inputs from", report.inputs_from),
        *_describe_reference(report),
        Pair("Runner", report.runner),
        Pair("Started", report.started),
        Pair("Exit code", str(report.exit_code)),
    ]
    return [Pair(figures.clip(p.name, 40), figures.clip(p.value, 200)) for p in pairs if p.value]


def _describe_reference(report: Report) -> list[Pair]:
    given = report.given_reference
    if given is None:
        return []
    return [Pair("Reference of", f"{given.toolchain}, run {given.run} (sha256 {given.sha256})")]


def list_files(report: Report) -> list[File]:
    """List the given model and every artifact; only the latter lie beside the page."""
    given = report.model
    return [
        File(figures.clip(given.name, 80), "", figures.count(given.bytes), given.sha256[:64]),
        *(
            File(
                figures.clip(artifact.path, 80),
                make_link(artifact.path),
                figures.count(artifact.bytes),
                artifact.sha256,
            )
            for artifact in report.artifacts[:_MOST_FILES]
        ),
    ]


def list_environments(report: Report) -> list[Environment]:
    found = []
    for record in report.stages:
        if record.environment is None:
            continue
        platform = record.report.platform if record.report else {}
        python = f"{platform.get('python', '')} {platform.get('machine', '')}".strip()
        found.append(
            Environment(
                stage=figures.clip(record.name, 40),
                image=figures.clip(record.environment.image, 60),
                python=figures.clip(python, 40) or figures.NONE,
                identity=figures.clip(record.environment.identity, 120),
                lock=figures.clip(record.environment.lock_sha256, 64),
                wheels=figures.clip(", ".join(record.environment.wheels), 200),
            )
        )
    return found


def list_stand_ins(report: Report) -> list[str]:
    """List the releases that stand in for vanished pins, and the user's own wheels."""
    found = []
    for record in report.stages:
        if record.environment is not None:
            name = figures.clip(record.name, 40)
            found += [f"{name}: {figures.clip(text)}" for text in record.environment.stand_ins]
            found += [f"{name}: your wheel {figures.clip(w)}" for w in record.environment.wheels]
    return list(dict.fromkeys(found))[:_MOST_OPTIONS]


def list_options(report: Report) -> list[Pair]:
    """List what was asked for, the stages' options included."""
    return [
        Pair(figures.clip(str(name), 60), figures.clip(str(value), 120))
        for name, value in list(report.options.items())[:_MOST_OPTIONS]
    ]
