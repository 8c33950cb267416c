"""How a result is checked: on which inputs, by which metric and within which tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import BadInput
from runner.planning.labels import read_labels

METRICS = {name: f"{name}_abs" for name in ("mean", "max", "p99", "rms")} | {
    f"{name}-rel": f"{name}_rel" for name in ("mean", "max", "p99", "rms")
}


@dataclass(frozen=True)
class Check:
    """The check that was asked for.

    `inputs` are specifications ([NAME=]SHAPE[:DTYPE]), none if a file beside the model or the first
    stage settles them; `inputs_file` holds the user's own samples, in place of generated ones, or
    is a folder of images; `labels` has their true classes. `made` is set where the runner itself
    has made the file of a folder, so that the run is to keep it.
    `strict` lets no error above the tolerance pass as float32's rounding.
    """

    inputs: Sequence[str] = ()
    inputs_file: Path | None = None
    samples: int = 1000
    seed: int = 0
    tolerance: float = 1e-6
    metric: str = "mean"
    strict: bool = False
    labels: Path | None = None
    made: bool = False

    def as_request(self) -> dict[str, Any]:
        """Return the check in the form of a request. Raises `BadInput` for a value out of range."""
        if self.samples < 1:
            raise BadInput("--samples must be at least 1: an unchecked model proves nothing.")
        if self.samples >= 1 << 63:
            raise BadInput("--samples is a number of 63 bits at most.")
        if not 0 <= self.seed < 1 << 63:
            raise BadInput("--seed must be 0 or above, and of 63 bits at most.")
        if not 0 < self.tolerance < math.inf:
            raise BadInput("--tolerance must be a number above 0.")
        if self.metric not in METRICS:
            raise BadInput(
                f"There is no metric '{self.metric}'.", f"Metrics: {', '.join(METRICS)}."
            )
        request: dict[str, Any] = {
            "samples": self.samples,
            "seed": self.seed,
            "tolerance": self.tolerance,
            "metric": METRICS[self.metric],
            "strict": self.strict,
        }
        if self.inputs_file is not None:
            request["inputs"] = f"user/inputs{self.inputs_file.suffix}"
        if self.labels is not None:
            request["labels"] = read_labels(self.labels, self.inputs_file)
        return request
