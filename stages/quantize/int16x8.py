"""The stage `int16x8`: weights of 8 bits, activations of 16, with ranges that calibration finds."""

from __future__ import annotations

from typing import Any

from stages.kit.contract import run_as_program
from stages.quantize.graph import FIXES, finish_integers, make_stage


def _set_up(tf: Any, converter: Any) -> None:
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]


STAGE = make_stage(
    "int16x8",
    __doc__ or "",
    _set_up,
    calibrated=True,
    finish=finish_integers,
    options=(FIXES,),
)

if __name__ == "__main__":
    run_as_program(STAGE)
