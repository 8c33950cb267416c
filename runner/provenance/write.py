"""How a finished run is recorded: `provenance.json` and `test-result.json` in its folder."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.host.files import hash_file, write_text
from runner.host.paths import PACKAGE, ROOT
from runner.packages.lockfile import parse_lock
from runner.planning.plan import Plan
from runner.schemas.provenance import (
    BUILD_TYPE,
    BUILDER,
    BuildDefinition,
    Builder,
    BuildMetadata,
    CheckParameter,
    ExternalParameters,
    InputParameter,
    InternalParameters,
    ModelParameter,
    Predicate,
    Provenance,
    QuantizationParameter,
    ResourceDescriptor,
    RunDetails,
    StageParameter,
    Statement,
    Subject,
    TestResult,
    TestResultStatement,
    UserFile,
    WheelParameter,
)
from runner.schemas.report import CheckRecord, Report, StageRecord
from runner.toolchains.code import compute_tree_digest, hash_toolchain, hash_tree
from runner.toolchains.model import DEFAULT_VARIANT, Image
from runner.version import __version__

if TYPE_CHECKING:
    from runner.provenance.signing import PrivateKey

PROVENANCE_FILE = "provenance.json"
TEST_RESULT_FILE = "test-result.json"
# The file name of each statement's signed form.
SIGNED = {PROVENANCE_FILE: "provenance.dsse.json", TEST_RESULT_FILE: "test-result.dsse.json"}

_PACKAGES_LOCK = "images/base/packages.lock"


def write_records(plan: Plan, report: Report, key: PrivateKey | None = None) -> None:
    """Write the two statements of a run, after its report; with a key, the signed ones too."""
    statements: dict[str, Statement] = {
        PROVENANCE_FILE: build_provenance(plan, report),
        TEST_RESULT_FILE: build_test_result(plan, report),
    }
    for name, statement in statements.items():
        text = statement.to_json()
        write_text(plan.output / name, text)
        if key is not None:
            from runner.provenance.signing import (
                sign,  # imported late: a run without a signature need not pay for it
            )

            write_text(plan.output / SIGNED[name], sign(text.encode(), key).to_json())


def build_provenance(plan: Plan, report: Report) -> Provenance:
    """Build the statement of how the artifacts of a run came about, as far as the run went."""
    started = datetime.datetime.fromisoformat(report.started)
    # Not read from the clock, which may have been set back since.
    finished = started + datetime.timedelta(seconds=report.seconds)
    return Provenance(
        subject=_list_subjects(plan, report),
        predicate=Predicate(
            buildDefinition=BuildDefinition(
                buildType=BUILD_TYPE,
                externalParameters=_collect_parameters(plan, report),
                internalParameters=InternalParameters(
                    engine=report.engine.name,
                    engine_details=report.engine.details,
                    platform={
                        "system": platform.system(),
                        "machine": platform.machine(),
                        "release": platform.release(),
                    },
                    stages=[
                        StageParameter(name=s.name, image=s.image, produces=s.produces)
                        for s in (*plan.toolchain.stages, *plan.quantization.stages)
                    ],
                ),
                resolvedDependencies=list(_list_dependencies(plan, report)),
            ),
            runDetails=RunDetails(
                builder=Builder(
                    id=BUILDER + report.engine.name,
                    version={"runner": __version__, "python": platform.python_version()},
                ),
                metadata=BuildMetadata(
                    invocationId=report.run,
                    startedOn=_format_utc(started),
                    finishedOn=_format_utc(finished),
                ),
                byproducts=_list_byproducts(plan.output, report),
            ),
        ),
    )


def build_test_result(plan: Plan, report: Report) -> TestResultStatement:
    """Build the statement of what the checks said.

    The verdict on the final artifact decides; earlier ones only warn.
    """
    passed: list[str] = []
    warned: list[str] = []
    failed: list[str] = []
    for record in report.stages:
        if record.status != "ok":
            failed.append(record.name)
        check = record.report.check if record.report else None
        final = record is report.stages[-1]
        for output in check.outputs if check else ():
            worse = failed if final and output.verdict != "vacuous" else warned
            good = output.verdict in ("passed", "rounding")
            (passed if good else worse).append(f"{record.name}/{output.name}")
    for record in report.quantized:
        check = record.report.check if record.report and record.status == "ok" else None
        good = check is not None and check.verdict in ("passed", "rounding")
        (passed if good else failed).append(record.name)
    vacuous = report.outcome == "vacuous"
    if vacuous and not warned:
        warned.append(report.stages[-1].name)
    converted = report.outcome in ("passed", "vacuous")
    settings = json.dumps(plan.check, sort_keys=True).encode()
    return TestResultStatement(
        subject=_list_subjects(plan, report),
        predicate=TestResult(
            result="FAILED" if not converted else "WARNED" if vacuous or warned else "PASSED",
            configuration=[
                ResourceDescriptor(
                    name="check",
                    digest={"sha256": hashlib.sha256(settings).hexdigest()},
                    content=base64.b64encode(settings).decode(),
                    mediaType="application/json",
                ),
                _describe_file("report.json", plan.output / "report.json"),
            ],
            passedTests=passed,
            warnedTests=warned,
            failedTests=failed,
        ),
    )


def _list_subjects(plan: Plan, report: Report) -> list[Subject]:
    subjects = []
    quantized = zip(plan.quantization.stages, report.quantized, strict=False)
    for stage, record in (*zip(plan.toolchain.stages, report.stages, strict=True), *quantized):
        artifact = record.report.artifact if record.report else None
        if record.report is None or artifact is None or artifact.path != stage.produces:
            continue
        if not (plan.output / artifact.path).is_file():
            continue  # not kept: it was not what the stage said it was
        check = record.report.check
        signature = record.report.signature
        subjects.append(
            Subject(
                name=artifact.path,
                digest={"sha256": artifact.sha256},
                annotations={
                    "stage": record.name,
                    "bytes": artifact.bytes,
                    "signature": signature.model_dump() if signature else None,
                    "check": _collect_figures(check) if check else None,
                },
            )
        )
    return subjects


def _collect_figures(check: CheckRecord) -> dict[str, Any]:
    """Collect figures to compare with another run's, should the artifact itself be gone."""
    keys = ("name", "mean_abs", "max_abs", "noise_floor", "reference_mean", "reference_std")
    return {
        "framework": check.framework,
        "samples": check.samples,
        "outputs": [{key: getattr(output, key) for key in keys} for output in check.outputs],
    }


def _collect_parameters(plan: Plan, report: Report) -> ExternalParameters:
    """Collect what was asked for, and what was left open as the stages filled it in."""
    reports = {record.name: record.report for record in report.stages if record.report}
    first = reports.get(plan.toolchain.stages[0].name)
    if first is not None and first.signature is not None:
        inputs = [
            InputParameter(
                name=t.name, shape=t.shape, dtype=t.dtype, low=t.low, high=t.high, dims=t.dims
            )
            for t in first.signature.inputs
        ]
    else:
        inputs = [InputParameter(**spec.as_request()) for spec in plan.inputs]
    options = {}
    for stage in plan.toolchain.stages:
        known = reports.get(stage.name)
        options[stage.name] = dict(known.options if known else plan.stage_options[stage.name])
    floor = first.noise_floor if first else None
    return ExternalParameters(
        toolchain=plan.toolchain.name,
        model=ModelParameter(
            name=report.model.name,
            path=_format_path(plan.model.path),
            sha256=plan.model.sha256,
            kind=plan.model.kind,
            bytes=plan.model.bytes,
        ),
        inputs=inputs,
        inputs_from=report.inputs_from,
        inputs_file=(
            UserFile(
                name=plan.check["inputs"],
                path=_format_path(plan.arrays),
                sha256=hash_file(plan.arrays),
            )
            if plan.arrays is not None
            else None
        ),
        arch=str(plan.options.get("arch", "")),
        arch_files=[
            UserFile(name=_decode_name(name), path=_format_path(path), sha256=hash_file(path))
            for name, path in sorted(plan.python_files.items())
        ],
        check=CheckParameter(
            samples=plan.check["samples"],
            seed=plan.check["seed"],
            metric=plan.check["metric"],
            tolerance=plan.check["tolerance"],
            strict=plan.check["strict"],
            noise_samples=(floor.samples or None) if floor else None,
            reference=plan.check.get("reference"),
        ),
        options=options,
        variants={
            image.name: image.variant
            for image in plan.images.values()
            if image.variant != DEFAULT_VARIANT
        },
        wheels=[
            WheelParameter(
                name=wheel.path.name,
                path=_format_path(wheel.path),
                sha256=wheel.sha256,
                pin=wheel.pin,
                replaces=wheel.replaces,
            )
            for wheel in {w.sha256: w for i in plan.images.values() for w in i.wheels}.values()
        ],
        quantization=_collect_quantization(plan, report),
    )


def _collect_quantization(plan: Plan, report: Report) -> QuantizationParameter | None:
    asked = plan.quantization
    if not asked.stages:
        return None
    known = {record.name: record.report for record in report.quantized if record.report}
    files = [
        UserFile(name=name, path=_format_path(path), sha256=asked.hashes[name])
        for name, path in asked.files.items()
    ]
    return QuantizationParameter(
        modes=[stage.name for stage in asked.stages],
        options={
            stage.name: dict(
                known[stage.name].options if stage.name in known else asked.options[stage.name]
            )
            for stage in asked.stages
        },
        calibration=next(iter(files), None),
    )


def _list_dependencies(plan: Plan, report: Report) -> Iterator[ResourceDescriptor]:
    parameters = _collect_parameters(plan, report)
    yield _describe(f"model/{parameters.model.name}", parameters.model.sha256)
    calibration = parameters.quantization.calibration if parameters.quantization else None
    for file in (parameters.inputs_file, calibration, *parameters.arch_files):
        if file is not None:
            yield _describe(file.name, file.sha256)
    if given := plan.reference:
        yield _describe("reference", given.sha256, toolchain=given.toolchain, run=given.run)
    for image in plan.images.values():
        path = image.lock_path
        yield _describe(f"lock/{image.title}", image.lock_sha256, path=path, as_of=image.as_of)
        records = [
            r
            for s, r in zip(plan.toolchain.stages, report.stages, strict=True)
            if s.image == image.name and r.environment is not None
        ]
        if records:
            yield from _describe_environment(image, records[0], report.engine.name)
    yield from _list_packages(list(plan.images.values()))
    for wheel in parameters.wheels:
        yield _describe(
            f"wheel/{wheel.name}", wheel.sha256, pin=wheel.pin, in_place_of=wheel.replaces
        )
    code = hash_toolchain(plan.toolchain, [stage.name for stage in plan.quantization.stages])
    yield _describe("stages", compute_tree_digest(code), files=code)
    yield _describe("runner", compute_tree_digest(hash_tree(PACKAGE)), version=__version__)
    if commit := _read_commit():
        yield ResourceDescriptor(name="repository", digest={"gitCommit": commit})


def _describe_environment(
    image: Image, record: StageRecord, engine: str
) -> Iterator[ResourceDescriptor]:
    """Yield the image's id or the virtual environment's key; on docker, the image's base too."""
    assert record.environment is not None
    details = record.environment.details
    annotations: dict[str, Any] = {
        "engine": engine,
        "python": image.python,
        "key": image.environment_key,
    }
    if image.wheels:
        annotations["wheels"] = [wheel.sha256 for wheel in image.wheels]
    if "tag" in details:
        annotations["tag"] = details["tag"]
    yield _describe(
        f"environment/{image.title}",
        record.environment.identity.removeprefix("sha256:"),
        **annotations,
    )
    if python := record.environment.interpreter:
        yield _describe(
            f"interpreter/{image.title}",
            python.sha256,
            version=python.version,
            build=python.build,
            source=python.source,
        )
    if base := details.get("base"):
        packages = ROOT / _PACKAGES_LOCK
        digest = base.partition("+")[0].removeprefix("sha256:")
        yield _describe(f"base/{image.title}", digest)
        yield _describe_file(f"base-lock/{image.title}", packages)


def _list_packages(images: list[Image]) -> Iterator[ResourceDescriptor]:
    """Yield every package of the locks, with the hashes that they allow and what it stands in for.

    A lock names all files of a release; the installer chooses the one that fits the platform.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for image in images:
        stand_ins = {stand_in.use: stand_in for stand_in in image.stand_ins_used}
        replaced = {wheel.replaces for wheel in image.wheels}
        for pin in parse_lock(image.lock.read_text()):
            if str(pin) in replaced:
                continue
            key = pin.name, str(pin.version)
            entry = found.setdefault(key, {"images": [], "sha256": list(pin.hashes)})
            entry["images"].append(image.title)
            if stand_in := stand_ins.get(str(pin)):
                entry["stand_in_for"] = stand_in.pin
                entry["reason"] = stand_in.reason
    for (name, version), known in sorted(found.items()):
        hashes = known.pop("sha256")
        if len(hashes) != 1:
            known["sha256"] = hashes
        yield ResourceDescriptor(
            name=f"{name}=={version}",
            uri=f"pkg:pypi/{name}@{version}",
            digest={"sha256": hashes[0]} if len(hashes) == 1 else None,
            annotations=known,
        )


@functools.cache
def _read_commit() -> str:
    """Return the commit of the checkout that this runs from; '' without a checkout or git."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--verify", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    commit = done.stdout.strip()
    return commit if done.returncode == 0 and re.fullmatch("[0-9a-f]{40,64}", commit) else ""


def _list_byproducts(folder: Path, report: Report) -> list[ResourceDescriptor]:
    names = ["report.json", *(record.log for record in report.records if record.log)]
    return [_describe_file(name, folder / name) for name in names if (folder / name).is_file()]


def _describe(name: str, sha256: str, **annotations: Any) -> ResourceDescriptor:
    return ResourceDescriptor(name=name, digest={"sha256": sha256}, annotations=annotations or None)


def _describe_file(name: str, path: Path) -> ResourceDescriptor:
    return _describe(name, hash_file(path))


def _format_path(path: Path) -> str:
    return _decode_name(str(path.absolute()))


def _decode_name(name: str) -> str:
    """Decode a file's name as text that JSON can hold; what is not UTF-8 is replaced."""
    return os.fsencode(name).decode(errors="replace")


def _format_utc(time: datetime.datetime) -> str:
    return time.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
