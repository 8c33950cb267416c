"""How a record is read from a run folder, a statement or a signed envelope, and then checked.

Whoever can write to the folder can change a record and all that lies beside it. A signature reveals
that; without one, only contradictions within the record or to what lies beside it are found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.errors import BadInput, Unverified
from runner.host.files import hash_file, read_bytes
from runner.provenance.signing import compute_key_id, load_verifying_key, read_envelope, verify
from runner.provenance.write import PROVENANCE_FILE, SIGNED
from runner.report.runs import read_report
from runner.schemas.provenance import BUILD_TYPE, MOST_BYTES, Provenance, parse
from runner.schemas.report import Report
from runner.schemas.reproduction import Difference

_ENVELOPE = SIGNED[PROVENANCE_FILE]


@dataclass(frozen=True)
class Recorded:
    """A record that was read. `folder` is where it lies, perhaps with the run's artifacts.

    `signed_by` is the id of the key that its signature was verified with, or ''. `alterations` are
    the contradictions to the record: within itself, or in the folder.
    """

    statement: Provenance
    path: Path
    folder: Path
    sha256: str
    signed_by: str
    alterations: tuple[Difference, ...]

    def artifact(self, name: str) -> Path | None:
        """Return the recorded artifact, if the folder still has it with the recorded bytes."""
        path = self.folder / name
        subject = next(s for s in self.statement.subject if s.name == name)
        return path if path.is_file() and hash_file(path) == subject.sha256 else None


def read_record(path: Path, verify_key: Path | None = None) -> Recorded:
    """Read a record, and verify it if a key is given.

    Raises `BadInput` for anything but a record, `Unverified` if it is not signed by the key.
    """
    file = _find_record_file(path, signed=verify_key is not None)
    text = _read(file)
    if _is_envelope(text):
        envelope = read_envelope(text, file)
        payload = envelope.content()
    else:
        envelope, payload = None, text
    signed_by = ""
    if verify_key is not None:
        key = load_verifying_key(verify_key)
        if envelope is None:
            beside = file.parent / _ENVELOPE
            if not beside.is_file():
                raise Unverified(
                    f"{file} is not signed: there is no {_ENVELOPE} beside it.",
                    "Leave out --verify-key to reproduce it unverified.",
                )
            envelope = read_envelope(_read(beside), beside)
        signed = verify(envelope, key)
        _check_same_as_signed(path, file, signed)
        payload, signed_by = signed, compute_key_id(key)
    statement = parse(Provenance, payload, file)
    if statement.predicate.buildDefinition.buildType != BUILD_TYPE:
        raise BadInput(
            f"{file} records another kind of build: "
            f"{statement.predicate.buildDefinition.buildType[:80]}."
        )
    found = [
        *_find_contradictions(statement, file.parent),
        *_find_altered_files(statement, file.parent),
    ]
    return Recorded(
        statement=statement,
        path=file,
        folder=file.parent,
        sha256=hashlib.sha256(payload).hexdigest(),
        signed_by=signed_by,
        alterations=tuple(found),
    )


def _find_record_file(path: Path, signed: bool) -> Path:
    if not path.is_dir():
        return path
    names = (_ENVELOPE, PROVENANCE_FILE) if signed else (PROVENANCE_FILE, _ENVELOPE)
    for name in names:
        if (path / name).is_file():
            return path / name
    raise BadInput(f"{path} holds no record ({PROVENANCE_FILE}).", "Give a run's folder.")


def _check_same_as_signed(path: Path, file: Path, signed: bytes) -> None:
    """Raise `Unverified` for a plain record that differs from the one signed beside it."""
    plain = path / PROVENANCE_FILE if path.is_dir() else file
    if plain.name.endswith(".dsse.json") or not plain.is_file():
        return
    text = _read(plain)
    if text != signed and not _is_envelope(text):
        raise Unverified(
            f"{plain} is not what was signed: it was changed after that.",
            f"Give {_ENVELOPE} instead, which holds the record as it was signed.",
        )


def _is_envelope(text: bytes) -> bool:
    """Tell an envelope by its content, since files get renamed."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False  # the next reader says what is wrong
    return isinstance(content, dict) and "payloadType" in content


def _read(file: Path) -> bytes:
    try:
        text = read_bytes(file, MOST_BYTES)
    except FileNotFoundError:
        raise BadInput(f"There is no record {file}.") from None
    except OSError as error:
        raise BadInput(f"The record {file} cannot be read: {error.strerror}.") from None
    if text is None:
        raise BadInput(f"{file} is not a record of a run: it is too large.")
    return text


def _find_altered_files(statement: Provenance, folder: Path) -> Iterator[Difference]:
    """Yield the artifacts in the folder that are not what the record says."""
    for subject in statement.subject:
        path = folder / subject.name
        if path.is_file() and (sha256 := hash_file(path)) != subject.sha256:
            yield Difference(
                what=f"the artifact {subject.name} in {folder.name or folder}",
                recorded=subject.sha256,
                here=sha256,
            )


def _find_contradictions(statement: Provenance, folder: Path) -> Iterator[Difference]:
    """Yield where the record contradicts itself, or the run's report that lies beside it."""
    parameters, builds = statement.parameters, statement.predicate.buildDefinition
    locks = {item.name: item for item in reversed(builds.resolvedDependencies)}
    model = statement.dependency(f"model/{parameters.model.name}")
    if model is not None and model.sha256 != parameters.model.sha256:
        yield _make_contradiction("the model's sha256", parameters.model.sha256, model.sha256)
    for dependency in builds.resolvedDependencies:
        kind, _, title = (dependency.name or "").partition("/")
        lock = locks.get(f"lock/{title}")
        notes = dependency.annotations or {}
        if kind == "environment" and lock is not None and "key" in notes:
            wheels = notes.get("wheels", [])
            wheels = wheels if isinstance(wheels, list) else [wheels]
            parts = [notes.get("python", ""), lock.sha256, *wheels]
            key = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
            if key != notes["key"]:
                other = "another, by the key of the environment that was made from it"
                yield _make_contradiction(f"the lock of {title}", lock.sha256, other)
    report = _read_report_beside(statement, folder)
    if report is not None:
        yield from _compare_with_report(statement, report)


def _read_report_beside(statement: Provenance, folder: Path) -> Report | None:
    """Read the run's report, if it lies there and is the one that the record names."""
    byproducts = statement.predicate.runDetails.byproducts
    named = next((item for item in byproducts if item.name == "report.json"), None)
    path = folder / "report.json"
    if named is None or not path.is_file() or path.stat().st_size > MOST_BYTES:
        return None
    try:
        return read_report(folder) if hash_file(path) == named.sha256 else None
    except BadInput:
        return None


def _compare_with_report(statement: Provenance, report: Report) -> Iterator[Difference]:
    parameters = statement.parameters
    pairs: list[tuple[str, object, object]] = [
        ("the model's sha256", parameters.model.sha256, report.model.sha256),
        ("the toolchain", parameters.toolchain, report.toolchain),
    ]
    check = parameters.check.model_dump(exclude={"noise_samples"})
    stated = {"strict": True, **report.options}  # as in reports from before there was --strict
    pairs += [(f"the option {key}", value, stated.get(key)) for key, value in check.items()]
    artifacts = {artifact.path: artifact.sha256 for artifact in report.list_made()}
    pairs += [
        (f"the artifact {s.name}", s.sha256, artifacts.get(s.name)) for s in statement.subject
    ]
    first = next((record.report for record in report.stages if record.report), None)
    if first is not None and first.signature is not None:
        inputs = [item.model_dump() for item in parameters.inputs]
        reported = [t.model_dump(exclude={"node", "axes"}) for t in first.signature.inputs]
        pairs.append(("the inputs", inputs, reported))
    for record in report.stages:
        if record.report is not None:
            options = parameters.options.get(record.name, {})
            for name in sorted({*options, *record.report.options}):
                what = f"the option {record.name}.{name}"
                pairs.append((what, options.get(name), record.report.options.get(name)))
        if record.environment is not None:
            title, lock = record.environment.image, record.environment.lock_sha256
            known = statement.dependency(f"lock/{title}")
            pairs.append((f"the lock of {title}", known.sha256 if known else None, lock))
    seen = set()
    for what, ours, theirs in pairs:
        if ours != theirs and what not in seen:
            seen.add(what)
            yield _make_contradiction(what, ours, theirs)


def _make_contradiction(what: str, record: object, other: object) -> Difference:
    return Difference(
        what=f"{what}, where the record contradicts itself or the run's report",
        recorded=str(record),
        here=str(other),
    )
