"""`comparison.json`: one model through several toolchains, judged by one reference."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.schemas.base import Integer, Natural
from runner.schemas.benchmark import Benchmark
from runner.schemas.latency import Latency
from runner.schemas.report import EngineRecord, GivenReferenceRecord, ModelRecord

Outcome = Literal[
    "passed", "out-of-tolerance", "vacuous", "failed", "refused", "interrupted", "not-run"
]
CellState = Literal["right", "wrong", "fails", "unknown"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ToolchainResult(_Model):
    """What came of one toolchain. `toolchain` is its title, `folder` its run's, beside this file.

    `why` says why there is no result, or why it did not pass, and `remedy` what to do; `stage` is
    where it failed. `seconds` are those that its stages took when they ran. `latency` is that in
    the interpreter that all were measured in, `home` the image of its own. `costs` is what it costs
    against the recommended one, in words.
    """

    toolchain: str = Field(max_length=200)
    description: str
    date: str
    folder: str | None = None
    outcome: Outcome
    exit_code: Integer
    why: str = ""
    remedy: str = ""
    stage: str = ""
    error: float | None = None
    mean_abs: float | None = None
    noise_floor: float | None = None
    times_noise_floor: float | None = None
    operators: Natural | None = None
    flex: Natural | None = None
    bytes: Natural | None = None
    sha256: str | None = None
    seconds: float | None = None
    latency: list[Latency] = []
    home: str = ""
    costs: str = ""


class Cell(_Model):
    """What an interpreter makes of a toolchain's file: `home` marks its own.

    `wrong` is an error far above that in the file's own interpreter, which runs it all the same.
    """

    toolchain: str
    image: str
    runtime: str
    home: bool
    state: CellState
    error: float | None = None
    why: str = ""


class Comparison(_Model):
    """One model through several toolchains, in the order that was asked for.

    `reference` is the run that made the reference outputs, null if none got that far. `take` is the
    recommended toolchain, if there is one; `verdict` says so, `warnings` what to beware of.
    `threads` and `timed_in` are of the latencies.
    """

    schema_version: Literal[1] = 1
    runner: str
    started: str
    seconds: float
    exit_code: Integer
    model: ModelRecord
    metric: str
    tolerance: float
    samples: Natural
    engine: EngineRecord | None
    reference: GivenReferenceRecord | None
    reference_by: str = ""
    toolchains: list[ToolchainResult]
    take: str | None
    verdict: str
    warnings: list[str] = []
    notes: list[str] = []
    timed_in: str = ""
    matrix: list[Cell] = []
    benchmark: Benchmark | None = None

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"
