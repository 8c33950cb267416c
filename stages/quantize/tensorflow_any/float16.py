"""The stage `float16` of any TensorFlow: weights of half precision, widened as they are used."""

from __future__ import annotations

from stages.kit.contract import run_as_program
from stages.quantize.tensorflow_any.converter import make_tensorflow_stage

STAGE = make_tensorflow_stage("float16", __doc__ or "")

if __name__ == "__main__":
    run_as_program(STAGE)
