"""The stage `float16`: weights of half precision, which are widened as they are used."""

from __future__ import annotations

from typing import Any

from stages.kit.contract import run_as_program
from stages.quantize.graph import make_stage
from stages.quantize.order import sort_dequantized


def _set_up(tf: Any, converter: Any) -> None:
    converter.target_spec.supported_types = [tf.float16]


STAGE = make_stage(
    "float16",
    __doc__ or "",
    _set_up,
    finish=lambda job, signature, content: sort_dequantized(content),
)

if __name__ == "__main__":
    run_as_program(STAGE)
