"""Where an error is introduced: what the programs that trace a stage find, and what follows.

docs/diagnosis.md explains the method and the figures.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.schemas.base import Integer


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Place(_Model):
    """Where an ONNX tensor lies in the frozen graph; `axes[i]` is the ONNX axis at position i.

    `channels[i]` is the ONNX channel at place i; empty where channels lie in ONNX's order.
    """

    node: str
    axes: list[Integer] = Field(max_length=16)
    channels: list[Integer] = Field([], max_length=1 << 20)


class TracePoint(_Model):
    """A tensor of an artifact beside its counterpart in what the artifact was made from.

    `inputs` are the tensors of other points that it is computed from.
    `error` is how far they differ in plain runs: the root mean square, relative to the reference's.
    `own_error` is what the tensor's own operators add, run on the reference's values: its largest
    one, relative to the reference's largest value. `limit` is what rounding explains of it, `ratio`
    how many times that limit it is (by the worst channel). `wrong` says why it cannot be rounding.
    """

    tensor: str
    reference: str
    shape: list[Integer]
    inputs: list[str] = []
    operators: list[str]
    nodes: list[str]
    modules: list[str]
    error: float
    own_error: float
    limit: float
    ratio: float
    wrong: str
    reference_nonfinite: bool


class Trace(_Model):
    """One stage's artifact beside what it was made from, tensor by tensor, in order of depth.

    `matched` of the artifact's `tensors` have a certain counterpart.
    """

    samples: Integer
    tensors: Integer
    matched: Integer
    points: list[TracePoint] = Field(max_length=4000)
    notes: list[str]


class Culprit(_Model):
    """A tensor whose own operators add more than rounding explains.

    `modules` are the paths of the layers in the user's model, `operators` and `nodes` the kinds and
    names of the artifact's operators between this tensor and those before it that have a
    counterpart. `wrong` says what is wrong: 'error', or another reason in words.
    """

    stage: str
    artifact: str
    tensor: str
    operators: list[str]
    nodes: list[str]
    modules: list[str]
    own_error: float
    limit: float
    wrong: str


class Named(_Model):
    """A tensor of a stage's trace that a summary names, though its operators are right."""

    stage: str
    tensor: str


class QuantizedPoint(_Model):
    """A tensor of the float model beside its counterpart in a quantised one; ratios are in dB.

    `sqnr` is of plain runs; `own_sqnr` of the layer's own noise, `quiet_sqnr` that of the channel
    at the first quartile; `output_sqnr` what the outputs would have if only this layer were
    quantised. `levels` is the range that integers stand for (None in float), `seen` what the
    samples reach, and `outside` the share of their values outside of it. `inputs` are the tensors
    of other points that it is computed from.
    """

    tensor: str
    operators: list[str]
    modules: list[str]
    shape: list[Integer]
    inputs: list[str] = []
    sqnr: float
    own_sqnr: float
    quiet_sqnr: float
    output_sqnr: float
    levels: tuple[float, float] | None
    seen: tuple[float, float]
    outside: float


class QuantizedFault(_Model):
    """A layer of a quantised model with something unusual, and why its noise comes from that.

    `kind` is 'input' (another mean than in calibration), 'range' (values outside of the calibrated
    range, or few levels used), 'weights' (one scale for unlike channels), 'outlier' (a channel that
    is far larger than the others), 'operands' (unlike inputs of one scale), 'saturated' or
    'kernel' (what the interpreter computes there is something else).
    """

    tensor: str
    operators: list[str]
    modules: list[str]
    kind: str
    reason: str


class QuantizedTrace(_Model):
    """A quantised model beside the float one, in order of depth; `failure` says why it is not."""

    mode: str
    artifact: str
    samples: Integer
    tensors: Integer
    matched: Integer
    points: list[QuantizedPoint] = Field(max_length=4000)
    faults: list[QuantizedFault] = Field(max_length=4000)
    failure: str = ""


class StageTrace(_Model):
    """One stage of a diagnosis; `failure` says why it has no trace."""

    stage: str
    artifact: str
    seconds: float
    failure: str = ""
    trace: Trace | None = None


class Diagnosis(_Model):
    """The first operator where an error is born, if there is one, and the curve of error by depth.

    `verdict` is 'found'; 'rounding' where every operator that could be compared is right;
    'cancellation' where each is, and the result's error is still many times rounding; 'reference'
    where the reference itself holds NaN or infinity; 'incomplete' where a part of the chain could
    not be traced and the rest is right; 'quantization' where the float model is right, and a layer
    of a quantised one is at fault. `named` is where NaN or infinity begins, or where digits are
    lost. `samples` are the numbers of the samples.
    """

    verdict: Literal["found", "rounding", "cancellation", "reference", "incomplete", "quantization"]
    summary: str
    culprit: Culprit | None
    named: Named | None = None
    others: list[Culprit] = Field(max_length=20)
    samples: list[Integer]
    notes: list[str]
    seconds: float
    stages: list[StageTrace]
    quantized: list[QuantizedTrace] = []
