"""What has changed since a run was recorded: locks, environments, code, options, engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runner.schemas.provenance import Provenance
from runner.schemas.report import EnvironmentRecord, Report, describe_cpython
from runner.schemas.reproduction import Difference
from runner.toolchains.code import compute_tree_digest, hash_toolchain
from runner.toolchains.model import Image, Toolchain
from runner.version import __version__

# At most this many changed files are named.
_MOST_FILES = 8


def find_differences(
    statement: Provenance, images: Mapping[str, Image], toolchain: Toolchain, report: Report
) -> list[Difference]:
    """List all that may explain a difference, from the record and the new run's report."""
    used = {r.environment.image: r.environment for r in report.stages if r.environment}
    as_recorded = {
        title: environment
        for title, environment in used.items()
        if _get_recorded_identity(statement, title, report.engine.name)
        in (environment.identity, _get_key_without_interpreter(statement, title, images))
    }
    return [
        *_compare_locks(statement, images, toolchain, as_recorded, used),
        *_compare_code(
            statement, report, toolchain, _used_recorded_images(used, as_recorded, report)
        ),
        *_compare_options(statement, report),
        *_compare_engines(statement, report),
    ]


def _get_recorded_identity(statement: Provenance, title: str, engine: str) -> str:
    """Return the recorded identity as an engine gives it; '' if another engine recorded it."""
    found = statement.dependency(f"environment/{title}")
    if found is None or statement.internal.engine != engine:
        return ""
    return f"sha256:{found.sha256}" if engine == "docker" else found.sha256


def _get_key_without_interpreter(
    statement: Provenance, title: str, images: Mapping[str, Image]
) -> str | None:
    """Return the environment's key if the record does not name its interpreter; else None."""
    if statement.dependency(f"interpreter/{title}") is not None:
        return None
    return next((i.environment_key for i in images.values() if i.title == title), None)


def _used_recorded_images(
    used: Mapping[str, EnvironmentRecord], same: Mapping[str, EnvironmentRecord], report: Report
) -> bool:
    """Tell whether the stages' code came from the recorded images."""
    return report.engine.name == "docker" and bool(used) and used.keys() == same.keys()


def _compare_locks(
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
        interpreter = _compare_interpreters(statement, environment)
        if interpreter is not None:
            yield interpreter.model_copy(update={"stages": stages})
            if notes.get("key") == image.environment_key:
                continue  # nothing else about the environment differs
        if identity := _get_recorded_identity(statement, image.title, _get_engine(environment)):
            yield Difference(
                what=f"the environment {image.title}",
                recorded=identity.removeprefix("sha256:"),
                here=environment.identity.removeprefix("sha256:"),
                stages=stages,
            )


def _compare_interpreters(
    statement: Provenance, environment: EnvironmentRecord
) -> Difference | None:
    """Tell how an environment's CPython differs from the record in version, build or binary."""
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


def _get_engine(environment: EnvironmentRecord) -> str:
    return "docker" if environment.identity.startswith("sha256:") else "process"


def _compare_code(
    statement: Provenance, report: Report, toolchain: Toolchain, docker_as_recorded: bool
) -> Iterator[Difference]:
    hashes = hash_toolchain(toolchain, [record.name for record in report.quantized])
    recorded = statement.dependency("stages")
    if recorded is not None and recorded.sha256 != compute_tree_digest(hashes):
        files = (recorded.annotations or {}).get("files")
        theirs = files if isinstance(files, dict) else {}
        changed = sorted(f for f in {*theirs, *hashes} if theirs.get(f) != hashes.get(f))
        named = ", ".join(changed[:_MOST_FILES]) + (" ..." if len(changed) > _MOST_FILES else "")
        yield Difference(
            what=f"the stages' code ({named})",
            recorded=recorded.sha256,
            here=compute_tree_digest(hashes),
            effective=not docker_as_recorded,
        )
    version = statement.predicate.runDetails.builder.version.get("runner", "")
    if version != __version__:
        yield Difference(what="the runner", recorded=version, here=__version__)


def _compare_options(statement: Provenance, report: Report) -> Iterator[Difference]:
    """Yield the options that stages now report differently, though given as recorded."""
    for record in report.stages:
        recorded = statement.parameters.options.get(record.name)
        if record.report is None or recorded is None:
            continue
        for name in sorted({*recorded, *record.report.options}):
            before, now = _format(recorded, name), _format(record.report.options, name)
            if before != now:
                what = f"the option {record.name}.{name}"
                yield Difference(what=what, recorded=before, here=now, stages=[record.name])


def _format(options: Mapping[str, Any], name: str) -> str:
    return json.dumps(options[name]) if name in options else "(there was none)"


def _compare_engines(statement: Provenance, report: Report) -> Iterator[Difference]:
    """Yield a change of engine: both should give the same bytes, but if not, this may be why."""
    if statement.internal.engine != report.engine.name:
        yield Difference(
            what="the engine", recorded=statement.internal.engine, here=report.engine.name
        )
