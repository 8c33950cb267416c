"""What a reader finds out about a file: the inspection, and what decides who takes the file."""

from __future__ import annotations

from pydantic import Field

from runner.schemas.inspection import Inspection, Obstacle


class FileFacts(Inspection):
    """An inspection before any toolchain was asked whether it takes the file.

    `version` is the file's in its format (a TorchScript archive's, an ONNX model's operator set),
    0 where it has none; `ir_version` is an ONNX model's; `container` is 'zip' or 'legacy' for files
    of torch. `problems` stand in the way of every toolchain, whichever takes such files. `remedy`
    is what to do with a file that no toolchain starts from.
    """

    version: int = Field(default=0, exclude=True)
    ir_version: int = Field(default=0, exclude=True)
    container: str = Field(default="", exclude=True)
    problems: list[Obstacle] = Field(default=[], exclude=True)
    remedy: str = Field(default="", exclude=True)
