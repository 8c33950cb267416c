"""The stage `dynamic` of any TensorFlow: int8 weights, activations by their own range."""

from __future__ import annotations

from stages.kit.contract import run_as_program
from stages.quantize.tensorflow_any.converter import make_tensorflow_stage

STAGE = make_tensorflow_stage("dynamic", __doc__ or "")

if __name__ == "__main__":
    run_as_program(STAGE)
