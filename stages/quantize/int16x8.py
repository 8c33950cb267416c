"""The stage `int16x8`: weights of 8 bits, activations of 16, with ranges that calibration finds."""

from __future__ import annotations

from typing import Any

from stages.fixes.catalogue import resolve
from stages.kit.contract import Job, Signature, run_as_program
from stages.quantize.graph import FIXES, finish_integers, make_stage
from stages.quantize.layers.mixed import keep_kinds
from stages.quantize.layers.repairs import repair_layers


def _set_up(tf: Any, converter: Any) -> None:
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]


def _finish(job: Job, signature: Signature, content: bytes) -> bytes:
    chosen = resolve(job.options, "quantize")
    if "int16-tables" in chosen:
        # First, since repairs look at what the interpreter makes of the layers.
        content = keep_kinds(job, signature, content, ("LOGISTIC", "TANH"))
    content = repair_layers(job, signature, content)
    return finish_integers(job, signature, content)


STAGE = make_stage(
    "int16x8",
    __doc__ or "",
    _set_up,
    calibrated=True,
    finish=_finish,
    options=(FIXES,),
)

if __name__ == "__main__":
    run_as_program(STAGE)
