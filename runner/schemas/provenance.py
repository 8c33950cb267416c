"""The record of a run: in-toto Statement v1, with SLSA provenance v1 and with a test result v0.1.

The field names are the specifications' own:
https://github.com/in-toto/attestation/tree/main/spec/v1,
https://slsa.dev/spec/v1.0/provenance and
https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md.
Only the parameters, below, are this project's own; docs/reproduce.md explains them.
The JSON schemas in docs/schemas are generated from these models by `runner schemas`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from runner.errors import BadInput
from runner.host.text import TOOLCHAIN
from runner.schemas.base import Invalid, Natural, Positive, validate_json

# The meaning of the parameters, and the course of a build; a change that breaks old records
# increments the version.
BUILD_TYPE = "urn:tflite-runner:conversion:v1"
BUILDER = "urn:tflite-runner:engine:"

# A record of a toolchain of three images takes 100 kB.
MOST_BYTES = 16 << 20

_SHA256 = "^[0-9a-f]{64}$"
_TOOLCHAIN = f"^{TOOLCHAIN}$"
# A name that stays inside the folder it is relative to.
_INSIDE = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$"


class _Model(BaseModel):
    """Fields that a reader does not know are ignored, since other producers may add some."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class _Parameters(BaseModel):
    """Parameters that a reader does not know are refused, as SLSA asks."""

    model_config = ConfigDict(extra="forbid")


class ResourceDescriptor(_Model):
    """A file or another resource, known by its content, its place or its name."""

    name: str | None = None
    uri: str | None = None
    digest: dict[str, str] | None = None
    content: str | None = Field(default=None, description="base64")
    downloadLocation: str | None = None
    mediaType: str | None = None
    annotations: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_identity(self) -> ResourceDescriptor:
        if not (self.uri or self.digest or self.content):
            raise ValueError("a resource needs a uri, a digest or content")
        return self

    @property
    def sha256(self) -> str:
        """The sha256 of its content, '' if it has none."""
        return (self.digest or {}).get("sha256", "")


class Subject(ResourceDescriptor):
    """An artifact of the run. Annotations: its stage, size, signature, and its check's figures."""

    # The longest name that file systems take.
    name: str = Field(pattern=_INSIDE, max_length=255)
    digest: dict[str, str]

    @model_validator(mode="after")
    def _check_digest(self) -> Subject:
        if "sha256" not in self.digest:
            raise ValueError("a subject needs a sha256")
        return self


class FileParameter(_Parameters):
    """A file of the user's: where it was, and what it held. `name` is its name for the stages."""

    name: str
    path: str = Field(pattern=r"^[^\x00]+$", max_length=1 << 16)
    sha256: str = Field(pattern=_SHA256)


class ModelParameter(FileParameter):
    kind: str
    bytes: Natural


class UserFile(FileParameter):
    """A file that stages see in the volume, under `name`."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        parts = name.split("/")
        if len(parts) < 2 or parts[0] != "user" or {"", ".", ".."} & set(parts) or "\0" in name:
            raise ValueError("a file of the user's lies below user/")
        return name


class InputParameter(_Parameters):
    """One input, as the first stage understood it; `dims` names its open axes, if it has any."""

    name: str
    shape: list[Positive]
    dtype: str = Field(pattern="^[a-z]+[0-9]*$")
    low: float | None = None
    high: float | None = None
    dims: list[str] = []


class CheckParameter(_Parameters):
    """`noise_samples` is null where there is no noise floor.

    `reference` is the toolchain whose run made the reference, null where the run itself did.
    `strict` lets nothing pass above the tolerance; records from before it was recorded are of
    strict checks.
    """

    samples: Positive
    seed: Natural
    metric: str = Field(pattern="^(mean|max|p99|rms)_(abs|rel)$")
    tolerance: float = Field(gt=0, allow_inf_nan=False)
    strict: bool = True
    noise_samples: Positive | None = None
    reference: str | None = Field(None, max_length=200)


class WheelParameter(FileParameter):
    """A wheel that the user handed over for a vanished pin."""

    pin: str
    replaces: str


class QuantizationParameter(_Parameters):
    """The quantised models that were asked for; `options` are by mode, as its stage took them."""

    modes: list[str] = Field(min_length=1, max_length=20)
    options: dict[str, dict[str, Any]]
    calibration: UserFile | None = None


class ExternalParameters(_Parameters):
    """Everything that was asked for, and the defaults of what was not.

    `options` are the stages' own, by stage; those of a stage that did not run are as they were
    given. `variants` are the images that are not of the default variant.
    """

    toolchain: str = Field(pattern=_TOOLCHAIN)
    model: ModelParameter
    inputs: list[InputParameter]
    inputs_from: str
    inputs_file: UserFile | None = None
    arch: str
    arch_files: list[UserFile]
    check: CheckParameter
    options: dict[str, dict[str, Any]]
    variants: dict[str, str]
    wheels: list[WheelParameter]
    quantization: QuantizationParameter | None = None

    @model_validator(mode="after")
    def _check_arch(self) -> ExternalParameters:
        known = {file.name for file in self.arch_files}
        for arch in (
            self.arch,
            *(str(options.get("arch", "")) for options in self.options.values()),
        ):
            source = arch.partition(":")[0]
            if source.endswith(".py") and source not in known:
                raise ValueError(f"the file {source[:80]} of --arch is not among those recorded")
        return self


class StageParameter(_Model):
    """A stage of the toolchain, as it was."""

    name: str
    image: str
    produces: str


class InternalParameters(_Model):
    """What the runner itself chose: where the stages ran, and which stages the toolchain had."""

    engine: str
    engine_details: dict[str, str] = {}
    platform: dict[str, str] = {}
    stages: list[StageParameter]


class BuildDefinition(_Model):
    buildType: str
    externalParameters: ExternalParameters
    internalParameters: InternalParameters
    resolvedDependencies: list[ResourceDescriptor] = Field(default=[], max_length=10_000)


class Builder(_Model):
    id: str
    version: dict[str, str] = {}


class BuildMetadata(_Model):
    invocationId: str = ""
    startedOn: str = ""
    finishedOn: str = ""


class RunDetails(_Model):
    builder: Builder
    metadata: BuildMetadata = BuildMetadata()
    byproducts: list[ResourceDescriptor] = []


class Predicate(_Model):
    buildDefinition: BuildDefinition
    runDetails: RunDetails


class Statement(_Model):
    """What both kinds of statement have in common."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(
        default="https://in-toto.io/Statement/v1", alias="_type"
    )
    subject: list[Subject] = Field(max_length=100)

    def to_json(self) -> str:
        return self.model_dump_json(indent=1, by_alias=True, exclude_none=True) + "\n"


class Provenance(Statement):
    """`provenance.json`: how the artifacts of a run came about."""

    predicateType: Literal["https://slsa.dev/provenance/v1"] = "https://slsa.dev/provenance/v1"
    predicate: Predicate

    @property
    def parameters(self) -> ExternalParameters:
        return self.predicate.buildDefinition.externalParameters

    @property
    def internal(self) -> InternalParameters:
        return self.predicate.buildDefinition.internalParameters

    def dependency(self, name: str) -> ResourceDescriptor | None:
        dependencies = self.predicate.buildDefinition.resolvedDependencies
        return next((item for item in dependencies if item.name == name), None)


class TestResult(_Model):
    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: list[ResourceDescriptor]
    passedTests: list[str] = []
    warnedTests: list[str] = []
    failedTests: list[str] = []


class TestResultStatement(Statement):
    """`test-result.json`: what the check of the artifacts said, a test an output of a stage."""

    predicateType: Literal["https://in-toto.io/attestation/test-result/v0.1"] = (
        "https://in-toto.io/attestation/test-result/v0.1"
    )
    predicate: TestResult


_S = TypeVar("_S", bound=Statement)


def parse(model: type[_S], text: str | bytes, source: Path) -> _S:
    """Parse a statement. Raises `BadInput` that names the first thing wrong with it."""
    try:
        statement = validate_json(model, text)
    except Invalid as error:
        raise BadInput(
            f"{source} is not a record of a run: {error.place or 'the file'}: {error.message}.",
            "Give the provenance.json of a run folder, or the folder.",
        ) from None
    names = [subject.name for subject in statement.subject]
    if len(set(names)) != len(names):
        raise BadInput(f"{source} is not a record of a run: two of its artifacts have one name.")
    return statement
