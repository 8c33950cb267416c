"""What an inspection finds out about a file: the data behind `runner inspect`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Size = int | str


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TensorFacts(_Model):
    """An input or output. A size that the file leaves open is a name or '?'.

    `shape` is None where the file does not even say how many axes there are.
    """

    name: str
    shape: list[Size] | None
    dtype: str
    quantization: str = ""


class Obstacle(_Model):
    """Why the toolchain cannot take the file, and what to do about it.

    `runs` says whether the file's own framework here may run it nevertheless; `settled_by` names
    the option that does away with the obstacle. `refused` says whether a conversion refuses the
    file before anything starts; else a stage has the last word.
    """

    reason: str
    remedy: str = ""
    runs: bool = True
    settled_by: str = ""
    refused: bool = False


class Acceptance(_Model):
    """Whether this toolchain converts the file. `command` is how, or what to do with it instead.

    `accepted` is None for a file that is converted already.
    """

    accepted: bool | None
    command: str = ""
    obstacles: list[Obstacle] = []


class Loaded(_Model):
    """What the framework of the stage's own environment made of the file."""

    framework: str
    ok: bool
    message: str = ""
    remedy: str = ""
    facts: dict[str, str] = {}
    engine: str = ""


Format = Literal[
    "torchscript",
    "torch-module",
    "state-dict",
    "checkpoint",
    "torch-export",
    "torch-other",
    "onnx",
    "frozen-graph",
    "graph",
    "saved-model",
    "meta-graph",
    "tflite",
    "keras",
    "other",
]


class Inspection(_Model):
    """Everything about a file. All but `loaded` was read from its bytes, without running any."""

    schema_version: Literal[1] = 1
    path: str
    bytes: int
    sha256: str | None
    format: Format
    what: str
    written_by: str = ""
    details: dict[str, str] = {}
    inputs: list[TensorFacts] | None = None
    outputs: list[TensorFacts] | None = None
    operators: dict[str, int] | None = None
    parameters: int | None = None
    parameter_types: dict[str, int] = {}
    flex: list[str] = []
    custom: list[str] = []
    control_flow: list[str] = []
    layout: str = ""
    damaged: bool = False
    notes: list[str] = []
    toolchain: Acceptance = Acceptance(accepted=False)
    loaded: Loaded | None = None
    not_loaded: str = ""

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"
