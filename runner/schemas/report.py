"""The reports: what a stage writes (untrusted until it validates here) and what a run leaves.

The JSON schemas in docs/schemas are generated from these models by `runner schemas`.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runner.host.text import TOOLCHAIN
from runner.schemas.base import Integer, Natural
from runner.schemas.diagnosis import Diagnosis, Place, QuantizedTrace, Trace
from runner.schemas.latency import Latency

Verdict = Literal["passed", "rounding", "exceeded", "vacuous", "nonfinite", "shape"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileRecord(_Model):
    """A file by content. `path` is relative to the volume, or to the run folder."""

    path: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: Natural


class TensorRecord(_Model):
    """An input or output: `name` is the same in all stages, `node` is the artifact's own name.

    `axes` is the artifact's own order of axes, empty where that is `shape`'s. `dims` names the open
    dimension of each axis that has one (its size in `shape` is 1), empty where none is open.
    """

    name: str
    shape: list[Natural]
    dtype: str = Field(pattern="^[a-z]+[0-9]*$")
    node: str
    low: float | None = None
    high: float | None = None
    axes: list[Integer] = []
    dims: list[str] = []


class SignatureRecord(_Model):
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]

    @model_validator(mode="after")
    def _check_inputs(self) -> SignatureRecord:
        if any(size < 1 for tensor in self.inputs for size in tensor.shape):
            raise ValueError("an input has no elements")
        return self


class WorstSample(_Model):
    """A sample by its place among the inputs, from 0, and the error over its elements."""

    sample: Natural
    max_abs: float
    mean_abs: float | None = None


class Histogram(_Model):
    """How many elements have an absolute error of edges[i] <= error < edges[i + 1].

    The edges are powers of two. `zeros` counts the elements without any error: they are in no bin.
    """

    zeros: Natural
    edges: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(max_length=65)
    counts: list[Natural] = Field(max_length=64)

    @model_validator(mode="after")
    def _check_edges(self) -> Histogram:
        if len(self.edges) != (len(self.counts) + 1 if self.counts else 0):
            raise ValueError("a histogram has one edge more than it has bins")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("a histogram's edges ascend")
        return self


class ConfusedPair(_Model):
    """Samples of which the reference finds one class and the model another.

    `sample` is the first of them, `count` how many there are.
    """

    reference: Natural
    actual: Natural
    count: Natural
    sample: Natural


class OutputRecord(_Model):
    """The error of one output over all samples, in the output's own units.

    `abs` is |actual - reference|, `rel` is that divided by |reference|, which counts as at least
    float32's epsilon times the sample's root mean square.
    Of an output of classes, `top1_agreement` is the share of samples for which it has the
    reference's class, `confusion` the pairs of classes of the others; with the user's labels,
    `accuracy` is the share of samples with the true class, `reference_accuracy` the reference's.
    Quantiles are exact to 0.1 %. `reference_sample_std` is how much PyTorch's output varies over
    the samples; `passing_tolerance` is the smallest tolerance that would have passed.
    """

    name: str
    shape: list[Integer]
    actual_shape: list[Integer] | None
    dtype: str
    samples: Integer
    nonfinite: Integer
    reference_nonfinite: Integer
    equal_infinities: Integer = 0
    mean_abs: float | None
    max_abs: float | None
    p99_abs: float | None
    rms_abs: float | None
    mean_rel: float | None
    max_rel: float | None
    p99_rel: float | None
    rms_rel: float | None
    cosine_mean: float | None
    cosine_min: float | None
    top1_agreement: float | None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    confusion: list[ConfusedPair] = Field([], max_length=12)
    reference_mean: float
    reference_std: float
    reference_sample_std: float
    worst_samples: list[WorstSample] = Field(max_length=5)
    histogram: Histogram | None = None
    verdict: Verdict
    passing_tolerance: float | None
    noise_floor: float | None
    times_noise_floor: float | None


class StressRecord(_Model):
    """An output's error with inputs of another magnitude, on a few samples that no gate judges.

    `times_noise_floor` is the error in multiples of the reference's own rounding there, `nonfinite`
    how many elements are NaN or infinite where the reference's are not. `failure` says why the
    framework did not run at all; then the record is of no single output.
    """

    magnitude: float
    name: str
    nonfinite: Integer
    mean_abs: float | None
    times_noise_floor: float | None
    failure: str = ""


# The largest picture, in pixels of height and width.
MOST_PIXELS = 48


class Picture(_Model):
    """A sample as an image, made small: rows of pixels, a byte a channel, in base64."""

    sample: Natural
    width: Annotated[int, Field(ge=1, le=MOST_PIXELS)]
    height: Annotated[int, Field(ge=1, le=MOST_PIXELS)]
    channels: Literal[1, 3]
    pixels: str = Field(max_length=4 * MOST_PIXELS * MOST_PIXELS)

    @model_validator(mode="after")
    def _check_pixels(self) -> Picture:
        if len(self.decode()) != self.width * self.height * self.channels:
            raise ValueError("a picture has a byte for each channel of each pixel")
        return self

    def decode(self) -> bytes:
        return base64.b64decode(self.pixels, validate=True)


class SizeRecord(_Model):
    """The check at another size of the open batch, against the reference's own run at that size.

    `value` is the worst output's metric; `failure` says what is wrong where the verdict is 'shape'.
    """

    size: Natural
    samples: Natural
    verdict: Verdict
    value: float | None
    failure: str = ""


class CheckRecord(_Model):
    """One framework's run over all samples, against PyTorch's outputs.

    `pictures` show samples of which a quantised model makes the largest errors, or another class.
    `sizes` are further batch sizes, where the batch is open; the verdict is the worst of all.
    """

    framework: str
    samples: Integer
    metric: str
    tolerance: float
    verdict: Verdict
    seconds: float
    outputs: list[OutputRecord] = Field(min_length=1)
    stress: list[StressRecord] = []
    pictures: list[Picture] = Field([], max_length=6)
    sizes: list[SizeRecord] = []


class NoiseFloorOutput(_Model):
    name: str
    mean_abs: float | None
    max_abs: float | None
    rms_abs: float | None
    p99_abs: float | None


class NoiseFloor(_Model):
    """PyTorch's float32 outputs against its own in float64; `reason` says why there is none."""

    samples: Natural
    outputs: list[NoiseFloorOutput] | None
    reason: str


class StageError(_Model):
    """Why a stage failed. `blame` is 'input' where the user's model or options are at fault."""

    phase: str
    type: str
    message: str
    remedy: str
    blame: Literal["input", "stage"]
    traceback: list[str]


class CalibrationRecord(_Model):
    """The samples that a model was calibrated on; `moved` says which inputs differ in the check."""

    samples: Integer
    moved: dict[str, str] = {}


class SearchStep(_Model):
    """A set of layers left in float, and the signal to noise (dB) on the calibration's samples."""

    kept: list[str]
    sqnr: float
    bytes: Integer


class LatencyBeside(_Model):
    """A quantised model's latency and the float model's, in turns in one process of `runtime`."""

    runtime: str = Field(max_length=200)
    float_model: Latency
    quantized: Latency


class RepairRecord(_Model):
    """A repair of an integer model's layers, which was kept if it helped.

    `gain` is by how many dB the noise of a calibration sample falls on the average, of `samples`
    that the repair was not fitted to, and `error` the standard error of that.
    """

    name: str = Field(max_length=100)
    kept: bool
    samples: Integer
    gain: float
    error: float


class StageReport(_Model):
    """`reports/STAGE.json`: what a stage says of its own run. docs/contract.md explains it."""

    schema_: Literal[1] = Field(alias="schema")
    stage: str
    status: Literal["ok", "failed"]
    started: str
    seconds: float
    phases: dict[str, float]
    peak_memory_bytes: Integer
    platform: dict[str, str]
    versions: dict[str, str]
    options: dict[str, Any]
    notes: list[str]
    input: FileRecord | None
    artifact: FileRecord | None
    signature: SignatureRecord | None
    operators: dict[str, Integer]
    check: CheckRecord | None
    error: StageError | None
    parameters: Integer | None = None
    noise_floor: NoiseFloor | None = None
    fixes: list[str] = []
    # The module path of each ONNX tensor (stage `torch`), and each one's place in the frozen graph.
    layers: dict[str, str] = Field({}, max_length=20_000)
    tensors: dict[str, Place] = Field({}, max_length=20_000)
    trace: Trace | None = None
    quantized: list[QuantizedTrace] = Field([], max_length=20)
    # What a quantising stage found of its calibration samples beside those of the check.
    calibration: CalibrationRecord | None = None
    # Beside the float model's, of a quantised model.
    latency: LatencyBeside | None = None
    # What was tried to bring an integer model nearer to the float one.
    repairs: list[RepairRecord] = Field([], max_length=100)
    # What was tried to keep in float (mode `auto`).
    search: list[SearchStep] = Field([], max_length=1000)


class InterpreterRecord(_Model):
    """The CPython of an environment. `sha256` is of the file that holds it.

    `source` is where the runner found it: 'path', 'pyenv', 'archive', 'uv', or 'image'.
    """

    version: str
    build: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    source: str

    def __str__(self) -> str:
        return describe_cpython(self.version, self.build, self.sha256)


def describe_cpython(version: str, build: str, sha256: str) -> str:
    """Name an interpreter for a person, exactly enough to tell any two apart."""
    return f"CPython {version} ({build}, sha256 {sha256[:12]})"


class EnvironmentRecord(_Model):
    """What a stage ran in: an image's id or a virtual environment's key, its lock and Python."""

    image: str
    identity: str
    lock_sha256: str
    interpreter: InterpreterRecord | None = None
    stand_ins: list[str]
    wheels: list[str] = []
    details: dict[str, str] = {}


class KnownFailure(_Model):
    """What is known of a failure: an entry of runner/known_failures.

    `fix` is the fix that handles it, 'all' where several together do, '' where none does.
    """

    id: str
    cause: str
    remedy: str
    source: str
    fix: str = ""


class StageRecord(_Model):
    """A stage as the runner saw it, with the stage's own report if it left a valid one.

    `known` is what is known of its failure, or of its check's. Of an unknown failure `last_lines`
    are the log's last meaningful lines.
    """

    name: str = Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)
    title: str
    status: Literal["ok", "failed", "skipped", "interrupted"]
    seconds: float = 0.0
    exit_status: Integer | None = None
    failure: str = ""
    remedy: str = ""
    blame: Literal["", "input", "stage", "environment"] = ""
    known: KnownFailure | None = None
    last_lines: list[str] = []
    environment: EnvironmentRecord | None = None
    log: str | None = None
    # The run that made it, if it was taken from the cache.
    cached: str = ""
    report: StageReport | None = None


class EngineRecord(_Model):
    name: str
    reason: str
    details: dict[str, str] = {}


class ModelRecord(_Model):
    name: str
    kind: str
    sha256: str
    bytes: Integer
    # Its path and those of the files that belong to it, for those who run it again.
    path: str | None = None
    arch_file: str | None = None
    inputs_file: str | None = None


class Gate(_Model):
    """The verdict on the final model, by the worst of its outputs."""

    metric: str = Field(pattern="^(mean|max|p99|rms)_(abs|rel)$")
    tolerance: float
    value: float | None
    verdict: Verdict | None


class GivenReferenceRecord(_Model):
    """The run whose reference outputs judged this one; `toolchain` is that run's, by its title.

    `sha256` is of the index of the samples and of the outputs, as samples/ held them.
    """

    toolchain: str = Field(max_length=200)
    run: str = Field(max_length=300)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ElsewhereRow(_Model):
    """A quantised model in another interpreter; `failure` says why it does not run there."""

    mode: str = Field(max_length=100)
    failure: str = Field("", max_length=500)
    check: CheckRecord | None = None
    latency: LatencyBeside | None = None


class ElsewhereAnswer(_Model):
    """What the stage `elsewhere` writes, which is untrusted until it validates here."""

    runtime: str = Field(max_length=200)
    files: list[ElsewhereRow] = Field(max_length=100)


class Elsewhere(_Model):
    """Quantised models in the interpreter of an image; `failure` says why none was tried."""

    image: str
    runtime: str
    failure: str = ""
    files: list[ElsewhereRow] = []


class Report(_Model):
    """`report.json`: everything about one run. `reference` is whose outputs it compares with.

    `given_reference` says which other run made these, if the run did not make them itself.
    `quantized` are the models besides the float one, each by the stage that made it; the `check` of
    each is judged by `rms_rel`, the error relative to the output's size: 10 ** (-SQNR / 20).
    """

    schema_version: Literal[1] = 1
    runner: str
    run: str
    started: str
    seconds: float
    setup_seconds: float
    overhead_seconds: float
    outcome: Literal["passed", "out-of-tolerance", "vacuous", "failed", "interrupted"]
    exit_code: Integer
    toolchain: str = Field(pattern=f"^{TOOLCHAIN}$", max_length=200)
    reference: str = "PyTorch"
    given_reference: GivenReferenceRecord | None = None
    model: ModelRecord
    options: dict[str, Any]
    inputs_from: str
    engine: EngineRecord
    gate: Gate
    notes: list[str]
    artifacts: list[FileRecord]
    stages: list[StageRecord]
    quantized: list[StageRecord] = []
    # The quantised models in other interpreters than the one that judged them.
    elsewhere: list[Elsewhere] = []
    diagnosis: Diagnosis | None = None

    @property
    def records(self) -> list[StageRecord]:
        """All stages, those of quantised models after the others."""
        return [*self.stages, *self.quantized]

    def list_made(self) -> list[FileRecord]:
        """List the artifacts in the run folder, those of quantised models after the others."""
        made = [r.report.artifact for r in self.quantized if r.status == "ok" and r.report]
        return [*self.artifacts, *(artifact for artifact in made if artifact)]

    def to_json(self) -> str:
        return self.model_dump_json(indent=1, by_alias=True) + "\n"
