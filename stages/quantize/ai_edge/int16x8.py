"""The stage `int16x8` of ai-edge-quantizer: weights of 8 bits, activations of 16."""

from __future__ import annotations

from stages.kit.contract import run_as_program
from stages.quantize.ai_edge.quantizer import make_ai_edge_stage

STAGE = make_ai_edge_stage("int16x8", __doc__ or "")

if __name__ == "__main__":
    run_as_program(STAGE)
