"""The result of reproducing a run: the models of `reproduction.json`, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.errors import ExitCode
from runner.schemas.base import Integer

Verdict = Literal["identical", "equivalent", "different", "environment-unavailable"]

EXIT_CODES: dict[Verdict, ExitCode] = {
    "identical": ExitCode.PASSED,
    "equivalent": ExitCode.EQUIVALENT,
    "different": ExitCode.DIFFERENT,
    "environment-unavailable": ExitCode.ENVIRONMENT,
}

# Two float32 computations of one value may each be off by the noise floor.
ALLOWED_NOISE = 2.0
_EPSILON = 2.0**-23


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Difference(_Model):
    """Something that is not as it was recorded. `stages` are those it bears on; none: all.

    `effective` is false for what differs on this machine, but was not used.
    """

    what: str
    recorded: str
    here: str
    stages: list[str] = []
    effective: bool = True

    def __str__(self) -> str:
        return f"{self.what}: recorded {_shorten(self.recorded)}, here {_shorten(self.here)}"


class OutputDifference(_Model):
    """How far an output of the new artifact is from the recorded one's, over all samples.

    Where only the figures of both runs were to be had, it is the sum of both distances from
    PyTorch's outputs: the two artifacts are at most that far apart.
    """

    name: str
    mean_abs: float | None
    max_abs: float | None
    noise_floor: float | None
    allowed: float


class ArtifactComparison(_Model):
    """One artifact, recorded and made again. `measured` says what the verdict rests on."""

    path: str
    stage: str
    recorded_sha256: str | None
    sha256: str | None
    verdict: Literal["identical", "equivalent", "different", "missing", "new"]
    measured: Literal["bytes", "outputs of both", "figures of both runs", "nothing"]
    outputs: list[OutputDifference] = []
    note: str = ""


class EnvironmentUsed(_Model):
    """Where a stage's environment came from: `here`, `here, as recorded` or `made now`."""

    image: str
    engine: str
    identity: str
    source: str


class Reproduction(_Model):
    """`reproduction.json`: a run made again from its record, and how it compares.

    `alterations` are what contradicts the record, in it or beside it: with any, the run is not
    reproduced, whatever its bytes. `reasons` are why the first differing stage differs, as far as
    the record tells. `notes` are what else was not as in the recorded run.
    """

    schema_version: Literal[1] = 1
    verdict: Verdict
    exit_code: Integer
    record: str
    record_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    recorded_run: str
    signed_by: str
    run: str
    summary: str
    first_differing_stage: str | None = None
    reasons: list[str] = []
    artifacts: list[ArtifactComparison] = []
    alterations: list[Difference] = []
    differences: list[Difference] = []
    environments: list[EnvironmentUsed] = []
    notes: list[str] = []

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def decide_verdict(
    artifacts: Sequence[ArtifactComparison], alterations: Sequence[Difference]
) -> Verdict:
    """Return the worst of the artifacts' verdicts; 'different' if anything was altered."""
    verdicts = {artifact.verdict for artifact in artifacts}
    if alterations or verdicts & {"different", "missing", "new"}:
        return "different"
    return "equivalent" if "equivalent" in verdicts else "identical"


def compute_allowed_difference(
    noise_floor: float | None, reference_mean: float | None, reference_std: float | None
) -> float:
    """Return the largest mean absolute difference of two outputs that rounding alone explains.

    Without a measured noise floor, float32's resolution at the outputs' size takes its place.
    """
    if noise_floor is None:
        noise_floor = _EPSILON * max(abs(reference_mean or 0.0), reference_std or 0.0)
    return ALLOWED_NOISE * noise_floor


def explain_difference(stage: str, differences: Sequence[Difference], signed: bool) -> list[str]:
    """Explain why a stage's artifact may differ, as far as that can be told."""
    found = [d for d in differences if d.effective and (not d.stages or stage in d.stages)]
    if found:
        return [str(difference) for difference in found]
    told = "Lock, stage code, options and inputs are as recorded, so what is left is the machine"
    return [f"{told}." if signed else f"{told}, or that the record was altered: it is not signed."]


def _shorten(value: str) -> str:
    """Cut a hash to its first digits, and other text to a line."""
    if len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return f"sha256 {value[:12]}…"
    return value if len(value) <= 120 else f"{value[:117]}..."
