"""The stage `int8`: weights and activations of 8 bits, with ranges that calibration finds."""

from __future__ import annotations

from typing import Any

from stages.kit.contract import run_as_program
from stages.quantize.graph import make_stage


def _set_up(tf: Any, converter: Any) -> None:
    # An operator without an int8 kernel stays in float, between two conversions.
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]


STAGE = make_stage("int8", __doc__ or "", _set_up, calibrated=True)

if __name__ == "__main__":
    run_as_program(STAGE)
