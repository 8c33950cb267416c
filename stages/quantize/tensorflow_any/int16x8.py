"""The stage `int16x8` of any TensorFlow: weights of 8 bits, activations of 16."""

from __future__ import annotations

from stages.kit.contract import run_as_program
from stages.quantize.tensorflow_any.converter import make_tensorflow_stage

STAGE = make_tensorflow_stage("int16x8", __doc__ or "")

if __name__ == "__main__":
    run_as_program(STAGE)
