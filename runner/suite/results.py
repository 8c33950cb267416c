"""The results of a suite: a folder with a run folder and a record for each conversion.

    suite.json                          which conversions the suite has, as last planned
    runs/MODEL/TOOLCHAIN/VARIANT/       a run, as `runner convert` leaves it
    runs/MODEL/TOOLCHAIN/VARIANT.json   its record, with the key of what it was made from
    latency.json                        what was measured of the models made
    results.csv, results.parquet        one row for each conversion
    index.html                          the page

A run is moved to its place first and recorded then: what has a record is whole.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from runner.errors import BadInput, ExitCode
from runner.host.files import hash_file, read_bytes, remove_tree, write_text
from runner.host.text import make_printable
from runner.report.html.render import PAGE as RUN_PAGE
from runner.report.html.render import write_page
from runner.report.runs import REPORT, read_report
from runner.report.table import defuse, make_rows
from runner.report.wording import compute_sqnr, find_agreement
from runner.schemas.base import Integer, Invalid, Model, Natural, validate_json
from runner.schemas.report import Report
from runner.suite.plan import Cell, Conversion, SuitePlan

_MOST_BYTES = 256_000_000
_INDEX, _LATENCY, LOG = "suite.json", "latency.json", "conversion.log"

Outcome = Literal[
    "passed",
    "rounding",
    "out-of-tolerance",
    "vacuous",
    "failed",
    "refused",
    "killed",
    "unavailable",
    "missing",
]
# What another try would not change.
_FINAL = ("passed", "rounding", "out-of-tolerance", "vacuous", "failed", "refused")


# By the exit code of a conversion that left no report: anything else has ended its process.
_WITHOUT_REPORT: Mapping[int, Outcome] = {
    ExitCode.BAD_INPUT: "refused",
    ExitCode.ENVIRONMENT: "unavailable",
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Quantized(_Model):
    """A quantised model made besides: signal to noise in dB, share of samples of equal class."""

    status: str
    sqnr: float | None = None
    top1: float | None = None
    bytes: Natural | None = None


class Record(_Model):
    """One conversion and what came of it. `error` and `noise_floor` are by the run's metric.

    `run` is the run folder, relative to the results, '' without one; `log` is the file to read
    where it failed. `artifact` is the sha256 of the final model. `attempts` counts how often it was
    begun.
    """

    key: str = Field(pattern="^([0-9a-f]{64})?$")
    model: str
    toolchain: str
    variant: str
    outcome: Outcome
    reason: str = ""
    exit_code: Integer = 0
    metric: str = ""
    tolerance: float | None = None
    error: float | None = None
    noise_floor: float | None = None
    bytes: Natural | None = None
    operators: Natural | None = None
    flex: Natural | None = None
    artifact: str = ""
    quantized: dict[str, Quantized] = {}
    seconds: float = 0.0
    worker: str = ""
    attempts: Natural = 0
    run: str = ""
    log: str = ""

    @property
    def cell(self) -> Cell:
        return Cell(self.model, self.toolchain, self.variant)

    @property
    def is_final(self) -> bool:
        """Tell whether another try would come to the same."""
        return self.outcome in _FINAL


class Timing(_Model):
    """The latency of one file: the median of each session, in seconds, on one thread.

    `yardstick` is what the yardstick took in the same session.
    """

    sessions: Annotated[list[float], Field(max_length=1000)]
    yardstick: Annotated[list[float], Field(max_length=1000)] = []
    failure: str = ""


class LatencyRecord(_Model):
    """What was measured: files by sha256, all in the same interpreter on the same machine."""

    runtime: str = ""
    machine: str = ""
    files: dict[str, Timing] = {}


class _Index(_Model):
    schema_version: Literal[1] = 1
    name: str
    runner: str
    models: list[str]
    toolchains: list[str]
    variants: list[str]
    # The conversions in order, each with its key; those that are refused are recorded here.
    keys: list[str]
    refused: list[Record]


@dataclass(frozen=True)
class ResultSet:
    """The results as they can be read: `records` has one for each conversion, in order."""

    folder: Path
    name: str
    models: Sequence[str]
    toolchains: Sequence[str]
    variants: Sequence[str]
    records: Sequence[Record]
    latency: LatencyRecord

    def find_latency(self, record: Record) -> Timing | None:
        return self.latency.files.get(record.artifact) if record.artifact else None


class Results:
    """A folder of results that is being written; one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def open(self) -> Iterator[Results]:
        """Hold the folder. Raises `BadInput` if it is not one of results, or another holds it."""
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"{self.folder} is no folder.", "Name another --output.")
        strange = self.folder.is_dir() and any(self.folder.iterdir())
        if strange and not (self.folder / _INDEX).is_file():
            raise BadInput(
                f"{self.folder} holds something else than a suite's results.",
                "Name another --output.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(self.folder / ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BadInput(
                f"Another command is writing into {self.folder}.",
                "Wait for it, or name another --output.",
            ) from None
        try:
            remove_tree(self.drafts)  # of a command that was killed
            yield self
        finally:
            remove_tree(self.drafts)
            lock.release()

    @property
    def drafts(self) -> Path:
        """The folder for runs that are not whole yet."""
        return self.folder / ".drafts"

    def find(self, conversion: Conversion) -> Record | None:
        """Find the record of a conversion, if its run is there with every file that matters."""
        if conversion.request is None:
            return _refuse(conversion)
        record = _read_record(_locate(self.folder, conversion.cell))
        if record is None or record.key != conversion.request.key or not record.is_final:
            return None
        run = self.folder / record.run
        if record.run and not (run / REPORT).is_file():
            return None
        if record.artifact and record.artifact not in _hash_models(run):
            return None
        return record

    def place(self, draft: Path, record: Record) -> None:
        """Move a whole run to its place, and record it."""
        target = self.folder / record.cell.folder
        _locate(self.folder, record.cell).unlink(missing_ok=True)
        remove_tree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(target)
        if (target / REPORT).is_file():
            write_page(read_report(target), target)  # it names the folder
        self.write(record)

    def write(self, record: Record) -> None:
        write_text(_locate(self.folder, record.cell), record.model_dump_json(indent=1) + "\n")

    def write_index(self, plan: SuitePlan, runner: str) -> None:
        index = _Index(
            name=plan.suite,
            runner=runner,
            models=list(plan.models),
            toolchains=list(plan.toolchains),
            variants=list(plan.variants),
            keys=[c.request.key if c.request else "" for c in plan.conversions],
            refused=[_refuse(c) for c in plan.conversions if c.request is None],
        )
        write_text(self.folder / _INDEX, index.model_dump_json(indent=1) + "\n")

    def write_latency(self, latency: LatencyRecord) -> None:
        write_text(self.folder / _LATENCY, latency.model_dump_json(indent=1) + "\n")


def _locate(folder: Path, cell: Cell) -> Path:
    """Return the path of a conversion's record, beside its run folder."""
    return folder / f"{cell.folder}.json"


def read_results(folder: Path) -> ResultSet:
    """Read a folder of results. Raises `BadInput` if it is none."""
    try:
        index = _read(_Index, folder / _INDEX)
    except OSError:
        raise BadInput(
            f"{folder} holds no results of a suite.", "Name what `runner suite run` has written."
        ) from None
    refused = iter(index.refused)
    cells = iter(
        Cell(model, toolchain, variant)
        for model in index.models
        for toolchain in index.toolchains
        for variant in index.variants
    )
    records = []
    for key, cell in zip(index.keys, cells, strict=True):
        record = _read_record(_locate(folder, cell)) if key else next(refused)
        if record is None or record.key != key:
            record = _make_missing(cell, key)
        records.append(record)
    try:
        latency = _read(LatencyRecord, folder / _LATENCY)
    except OSError:
        latency = LatencyRecord()
    return ResultSet(
        *(folder, index.name, index.models, index.toolchains, index.variants), records, latency
    )


def _make_missing(cell: Cell, key: str) -> Record:
    return Record(
        key=key,
        model=cell.model,
        toolchain=cell.toolchain,
        variant=cell.variant,
        outcome="missing",
        reason="It has no result yet.",
    )


def make_record(
    conversion: Conversion,
    run: Path | None,
    *,
    exit_code: int = 0,
    failure: str = "",
    worker: str = "",
    seconds: float = 0.0,
    attempts: int = 0,
) -> Record:
    """Make the record of a conversion from its run's report, or of one that left none."""
    cell, request = conversion.cell, conversion.request
    assert request is not None
    record = Record(
        key=request.key,
        model=cell.model,
        toolchain=cell.toolchain,
        variant=cell.variant,
        outcome="failed",
        reason=failure,
        exit_code=exit_code,
        worker=worker,
        seconds=round(seconds, 3),
        attempts=attempts,
        run=cell.folder if run else "",
        log=f"{cell.folder}/{LOG}" if run and (run / LOG).is_file() else "",
    )
    if run is None or not (run / REPORT).is_file():
        record.outcome = _WITHOUT_REPORT.get(exit_code, "killed")
        return record
    return _complete(record, read_report(run), run)


def _complete(record: Record, report: Report, run: Path) -> Record:
    row = make_rows([(run, report)])[0]
    record.outcome = _name_outcome(report)
    record.exit_code = report.exit_code
    record.reason = row.reason
    record.metric, record.tolerance = report.gate.metric, report.gate.tolerance
    record.error, record.noise_floor = row.error, row.noise_floor
    record.bytes, record.operators, record.flex = row.bytes, row.operators, row.flex
    last = report.stages[-1] if report.stages else None
    final = last.report if last and last.status == "ok" else None
    record.artifact = final.artifact.sha256 if final and final.artifact else ""
    for stage in report.quantized:
        made = stage.report
        check = made.check if made else None
        record.quantized[stage.name] = Quantized(
            status=stage.status,
            sqnr=compute_sqnr(check) if check else None,
            top1=find_agreement(check) if check else None,
            bytes=made.artifact.bytes if made and made.artifact else None,
        )
    failed = next((s for s in report.stages if s.status in ("failed", "interrupted")), None)
    if failed is not None and failed.log:
        record.log = f"{record.run}/{failed.log}"
    return record


def _name_outcome(report: Report) -> Outcome:
    if report.outcome == "interrupted":
        return "killed"
    if report.outcome == "failed":
        blames = {s.blame for s in (*report.stages, *report.quantized) if s.status == "failed"}
        return "unavailable" if "environment" in blames else "failed"
    if report.outcome == "passed" and report.gate.verdict == "rounding":
        return "rounding"
    return report.outcome


def _refuse(conversion: Conversion) -> Record:
    assert conversion.refusal is not None
    cell, refusal = conversion.cell, conversion.refusal
    return Record(
        key="",
        model=cell.model,
        toolchain=cell.toolchain,
        variant=cell.variant,
        outcome="refused",
        reason=make_printable(f"{refusal.message} {refusal.remedy}".strip())[:1000],
        exit_code=int(ExitCode.BAD_INPUT),
    )


def _hash_models(run: Path) -> set[str]:
    return {hash_file(path) for path in run.glob("*.tflite") if path.is_file()}


def _read_record(path: Path) -> Record | None:
    try:
        return _read(Record, path)
    except (OSError, BadInput):
        return None


def _read(model: type[Model], path: Path) -> Model:
    try:
        content = read_bytes(path, _MOST_BYTES)
        if content is None:
            raise BadInput(f"{path} is too large.")
        return validate_json(model, content)
    except Invalid as error:
        raise BadInput(
            f"{path} is not a suite's of this version: {error}.", "Was it made by a newer runner?"
        ) from None


_COLUMNS = (
    *("model", "toolchain", "variant", "outcome", "metric", "tolerance", "error", "noise_floor"),
    *("bytes", "operators", "flex", "latency", "seconds", "worker", "attempts", "exit_code"),
    *("reason", "run", "log", "artifact", "key"),
)


def list_rows(results: ResultSet) -> list[dict[str, Any]]:
    """List the rows of the table of results: figures as numbers, latency in seconds."""
    rows = []
    for record in results.records:
        timing = results.find_latency(record)
        row = record.model_dump(exclude={"quantized"})
        row["latency"] = find_median(timing.sessions) if timing else None
        rows.append({name: row[name] for name in _COLUMNS})
    return rows


def write_table(results: ResultSet) -> list[Path]:
    """Write results.csv, and results.parquet where pyarrow is there; return what was written."""
    rows = list_rows(results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([defuse(value) for value in row.values()] for row in rows)
    written = [results.folder / "results.csv"]
    write_text(written[0], text.getvalue())
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return written
    table = pyarrow.table({name: [row[name] for row in rows] for name in _COLUMNS})
    target = results.folder / "results.parquet"
    draft = target.with_name(".results.parquet.part")
    pyarrow.parquet.write_table(table, draft)
    draft.replace(target)
    return [*written, target]


def find_median(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    ordered, count = sorted(values), len(values)
    if not ordered:
        return None
    middle = count // 2
    return ordered[middle] if count % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def make_link(record: Record) -> str:
    """Return the link from the suite's page to a run's, or to its log; '' without either."""
    if record.run and record.metric:
        return f"{record.run}/{RUN_PAGE}"
    return record.log


def count_outcomes(records: Iterable[Record]) -> Mapping[str, int]:
    """Count the records of each outcome."""
    counts: dict[str, int] = {}
    for record in records:
        counts[record.outcome] = counts.get(record.outcome, 0) + 1
    return counts
