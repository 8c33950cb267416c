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
    """Where an ONNX tensor lies in the frozen graph; `axes[i]` is the ONNX axis at position i."""

    node: str
    axes: list[Integer] = Field(max_length=16)


class TracePoint(_Model):
    """A tensor of an artifact beside its counterpart in what the artifact was made from.

    `error` is how far they differ in plain runs: the root mean square, relative to the reference's.
    `own_error` is what the tensor's own operators add, run on the reference's values: its largest
    one, relative to the reference's largest value. `limit` is what rounding explains of it, `ratio`
    how many times that limit it is (by the worst channel). `wrong` says why it cannot be rounding.
    """

    tensor: str
    reference: str
    shape: list[Integer]
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
    not be traced and the rest is right. `samples` are the numbers of the samples.
    """

    verdict: Literal["found", "rounding", "cancellation", "reference", "incomplete"]
    summary: str
    culprit: Culprit | None
    others: list[Culprit] = Field(max_length=20)
    samples: list[Integer]
    notes: list[str]
    seconds: float
    stages: list[StageTrace]
