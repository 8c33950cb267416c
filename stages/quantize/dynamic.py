"""The stage `dynamic`: int8 weights; activations are quantised as they come, by their own range."""

from __future__ import annotations

from typing import Any

from stages.kit.contract import run_as_program
from stages.quantize.graph import make_stage


def _set_up(tf: Any, converter: Any) -> None:
    """Leave the converter as it is: this mode is what it does by default."""


STAGE = make_stage("dynamic", __doc__ or "", _set_up)

if __name__ == "__main__":
    run_as_program(STAGE)
