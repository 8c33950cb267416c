"""What a reader learns about a file: the inspection, and what decides which toolchain fits."""

from __future__ import annotations

from pydantic import Field

from runner.schemas.inspection import Inspection, Obstacle


class FileFacts(Inspection):
    """An inspection, made before asking any toolchain whether it takes the file.

    `version` is that of the file's format (of a TorchScript archive, an ONNX model's opset), 0 if
    it has none; `ir_version` is an ONNX model's; `container` is 'zip' or 'legacy' for torch files.
    `problems` prevent every toolchain from taking the file. `remedy` is what to do with a file that
    no toolchain starts from.
    """

    version: int = Field(default=0, exclude=True)
    ir_version: int = Field(default=0, exclude=True)
    container: str = Field(default="", exclude=True)
    problems: list[Obstacle] = Field(default=[], exclude=True)
    remedy: str = Field(default="", exclude=True)
