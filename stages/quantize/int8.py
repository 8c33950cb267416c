"""The stage `int8`: weights and activations of 8 bits, with ranges that calibration finds."""

from __future__ import annotations

from typing import Any

from stages.kit.contract import Job, Option, Signature, flag, run_as_program
from stages.quantize.graph import FIXES, INTEGER_ENDS, finish_integers, make_stage
from stages.quantize.layers.mixed import keep_layers
from stages.quantize.layers.repairs import repair_layers

KEEP_FLOAT = Option("keep_float", str, "", "layers that stay in float, comma-separated")

TRAINED = Option("trained", flag, False, "take the ranges that the model was trained to")


def set_up(tf: Any, converter: Any) -> None:
    """Ask for integers; an operator without an int8 kernel stays in float, between conversions."""
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]


def _finish(job: Job, signature: Signature, content: bytes) -> bytes:
    content = repair_layers(job, signature, content)
    if job.options["keep_float"]:
        content = keep_layers(job, signature, content)
    return finish_integers(job, signature, content)


STAGE = make_stage(
    "int8",
    __doc__ or "",
    set_up,
    calibrated=True,
    finish=_finish,
    options=(INTEGER_ENDS, TRAINED, KEEP_FLOAT, FIXES),
)

if __name__ == "__main__":
    run_as_program(STAGE)
