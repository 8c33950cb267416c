"""The stage `dynamic` of ai-edge-quantizer: int8 weights, activations by their own range."""

from __future__ import annotations

from stages.kit.contract import run_as_program
from stages.quantize.ai_edge.quantizer import make_ai_edge_stage

STAGE = make_ai_edge_stage("dynamic", __doc__ or "")

if __name__ == "__main__":
    run_as_program(STAGE)
