"""What a benchmark found: .tflite files in one or several interpreters, timed in turns."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.schemas.base import Integer, Natural, Positive
from runner.schemas.latency import Latency


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorFigures(_Model):
    """The error against the reference on a few samples, of the worst output.

    `mean_abs` is null where there is no number to compare: NaN, infinities or another shape.
    """

    samples: Positive
    mean_abs: float | None
    max_abs: float | None
    nonfinite: Natural
    other_shape: bool


class FileResult(_Model):
    """One file in one interpreter; `failure` says why it does not run there, '' if it does."""

    file: str = Field(max_length=300)
    failure: str = ""
    error: ErrorFigures | None = None
    operators: dict[str, Integer] = {}
    latency: list[Latency] = Field([], max_length=100)


class Measured(_Model):
    """The stage's artifact, which is untrusted until it validates here."""

    runtime: str = Field(max_length=200)
    takes_threads: bool
    files: list[FileResult] = Field(max_length=1000)


class RuntimeResult(_Model):
    """One interpreter: the image that has it, and what it calls itself.

    `failure` says why nothing could be tried in it, '' if it could.
    """

    image: str
    runtime: str
    takes_threads: bool = True
    failure: str = ""
    files: list[FileResult] = []


class BenchmarkedFile(_Model):
    """A file by its name here, and by content."""

    name: str
    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: Natural


class Benchmark(_Model):
    """`runner benchmark --json`: files in order, and what each interpreter made of them."""

    schema_version: Literal[1] = 1
    runner: str
    engine: str
    cores: Positive
    rounds: Positive
    seconds: float
    files: list[BenchmarkedFile]
    runtimes: list[RuntimeResult]

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    def find_file(self, name: str) -> BenchmarkedFile | None:
        return next((file for file in self.files if file.name == name), None)

    def find(self, image: str, name: str) -> FileResult | None:
        """Return what an image made of a file, None if the image could not try it."""
        runtime = next((r for r in self.runtimes if r.image == image), None)
        return next((f for f in runtime.files if f.file == name), None) if runtime else None
