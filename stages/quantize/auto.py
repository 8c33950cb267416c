"""The stage `auto`: int8, with the fewest layers in float that bring it above its gate."""

from __future__ import annotations

from stages.kit.contract import Job, Signature, run_as_program
from stages.quantize.graph import FIXES, INTEGER_ENDS, finish_integers, make_stage
from stages.quantize.int8 import set_up
from stages.quantize.layers.mixed import search_layers
from stages.quantize.layers.repairs import repair_layers


def _finish(job: Job, signature: Signature, content: bytes) -> bytes:
    content = search_layers(job, signature, repair_layers(job, signature, content))
    return finish_integers(job, signature, content)


STAGE = make_stage(
    "auto",
    __doc__ or "",
    set_up,
    calibrated=True,
    finish=_finish,
    options=(INTEGER_ENDS, FIXES),
)

if __name__ == "__main__":
    run_as_program(STAGE)
