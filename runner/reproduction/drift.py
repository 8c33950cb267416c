"""What is not as it was when a run was recorded: locks, environments, code, options."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runner.host.paths import ROOT
from runner.schemas.provenance import Provenance
from runner.schemas.report import EnvironmentRecord, Report, describe_cpython
from runner.schemas.reproduction import Difference
from runner.toolchains.code import tree_digest, tree_hashes
from runner.toolchains.model import Image, Toolchain
from runner.version import __version__

# So many changed files are named.
_MOST_FILES = 8


def find_differences(
    statement: Provenance, images: Mapping[str, Image], toolchain: Toolchain, report: Report
) -> list[Difference]:
    """Everything that may explain a difference, from the record and the new run's report."""
    used = {r.environment.image: r.environment for r in report.stages if r.environment}
    as_recorded = {
        title: environment
        for title, environment in used.items()
        if _recorded_identity(statement, title, report.engine.name)
        in (environment.identity, _key_without_interpreter(statement, title, images))
    }
    return [
        *_locks(statement, images, toolchain, as_recorded, used),
        *_code(statement, report, docker_as_recorded=_all_as_recorded(used, as_recorded, report)),
        *_options(statement, report),
        *_engine(statement, report),
    ]


def _recorded_identity(statement: Provenance, title: str, engine: str) -> str:
    """As an engine gives it; '' if another engine recorded it."""
    found = statement.dependency(f"environment/{title}")
    if found is None or statement.internal.engine != engine:
        return ""
    return f"sha256:{found.sha256}" if engine == "docker" else found.sha256


def _key_without_interpreter(
    statement: Provenance, title: str, images: Mapping[str, Image]
) -> str | None:
    """What an environment is called in records that do not name its interpreter; else None."""
    if statement.dependency(f"interpreter/{title}") is not None:
        return None
    return next((i.environment_key for i in images.values() if i.title == title), None)


def _all_as_recorded(
    used: Mapping[str, EnvironmentRecord], same: Mapping[str, EnvironmentRecord], report: Report
) -> bool:
    """Whether the stages' code came from the recorded images."""
    return report.engine.name == "docker" and bool(used) and used.keys() == same.keys()


def _locks(
    statement: Provenance,
    images: Mapping[str, Image],
    toolchain: Toolchain,
    as_recorded: Mapping[str, EnvironmentRecord],
    used: Mapping[str, EnvironmentRecord],
) -> Iterator[Difference]:
    for image in images.values():
        stages = [stage.name for stage in toolchain.stages if stage.image == image.name]
        lock = statement.dependency(f"lock/{image.title}")
        if lock is None or lock.sha256 != image.lock_sha256:
            yield Difference(
                what=f"the lock of {image.title}",
                recorded=lock.sha256 if lock else "(none)",
                here=image.lock_sha256,
                stages=stages,
                effective=image.title not in as_recorded,
            )
        environment = used.get(image.title)
        known = statement.dependency(f"environment/{image.title}")
        if known is None or environment is None or image.title in as_recorded:
            continue
        notes = known.annotations or {}
        python = notes.get("python", image.python)
        if python != image.python:
            yield Difference(
                what=f"the Python of {image.title}",
                recorded=str(python),
                here=image.python,
                stages=stages,
            )
        interpreter = _interpreter(statement, environment)
        if interpreter is not None:
            yield interpreter.model_copy(update={"stages": stages})
            if notes.get("key") == image.environment_key:
                continue  # nothing else makes it another environment
        if identity := _recorded_identity(statement, image.title, _engine_of(environment)):
            yield Difference(
                what=f"the environment {image.title}",
                recorded=identity.removeprefix("sha256:"),
                here=environment.identity.removeprefix("sha256:"),
                stages=stages,
            )


def _interpreter(statement: Provenance, environment: EnvironmentRecord) -> Difference | None:
    """Whether an environment's CPython is another than was recorded: version, build or binary."""
    recorded, here = (
        statement.dependency(f"interpreter/{environment.image}"),
        environment.interpreter,
    )
    if recorded is None or here is None or recorded.sha256 == here.sha256:
        return None
    notes = recorded.annotations or {}
    version, build = str(notes.get("version", "?")), str(notes.get("build", "?"))
    return Difference(
        what=f"the interpreter of {environment.image}",
        recorded=describe_cpython(version, build, recorded.sha256),
        here=str(here),
    )


def _engine_of(environment: EnvironmentRecord) -> str:
    return "docker" if environment.identity.startswith("sha256:") else "process"


def _code(statement: Provenance, report: Report, docker_as_recorded: bool) -> Iterator[Difference]:
    hashes = tree_hashes(ROOT / "stages")
    recorded = statement.dependency("stages")
    if recorded is not None and recorded.sha256 != tree_digest(hashes):
        files = (recorded.annotations or {}).get("files")
        theirs = files if isinstance(files, dict) else {}
        changed = sorted(f for f in {*theirs, *hashes} if theirs.get(f) != hashes.get(f))
        named = ", ".join(changed[:_MOST_FILES]) + (" ..." if len(changed) > _MOST_FILES else "")
        yield Difference(
            what=f"the stages' code ({named})",
            recorded=recorded.sha256,
            here=tree_digest(hashes),
            effective=not docker_as_recorded,
        )
    version = statement.predicate.runDetails.builder.version.get("runner", "")
    if version != __version__:
        yield Difference(what="the runner", recorded=version, here=__version__)


def _options(statement: Provenance, report: Report) -> Iterator[Difference]:
    """Options that the stages now know otherwise; what was recorded was asked for as it was."""
    for record in report.stages:
        recorded = statement.parameters.options.get(record.name)
        if record.report is None or recorded is None:
            continue
        for name in sorted({*recorded, *record.report.options}):
            before, now = _said(recorded, name), _said(record.report.options, name)
            if before != now:
                what = f"the option {record.name}.{name}"
                yield Difference(what=what, recorded=before, here=now, stages=[record.name])


def _said(options: Mapping[str, Any], name: str) -> str:
    return json.dumps(options[name]) if name in options else "(there was none)"


def _engine(statement: Provenance, report: Report) -> Iterator[Difference]:
    """Both engines are to give the same bytes; where they don't, this may be why."""
    if statement.internal.engine != report.engine.name:
        yield Difference(
            what="the engine", recorded=statement.internal.engine, here=report.engine.name
        )
