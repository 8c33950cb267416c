"""Repairs of an integer model's layers: each is tried, and kept only where it helps.

A repair that helps one net costs another a little, and which is not to be seen beforehand. So each
is fitted to some of the calibration samples, and judged by others of them, against the float model.
The samples of the check stay unseen.
"""

from __future__ import annotations

import traceback
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np

from stages.fixes.catalogue import select
from stages.frameworks.tensorflow import import_tensorflow
from stages.kit.contract import Job, Signature
from stages.kit.samples import reorder_axes
from stages.kit.tracing import get_first_line
from stages.quantize.calibration import open_calibration
from stages.quantize.layers.bias_correction import correct_biases
from stages.quantize.layers.mixed import convert_float, open_model
from stages.quantize.layers.trial import (
    Batches,
    compare_outputs,
    measure_gain,
    run_quantized,
    split,
)
from stages.quantize.layers.weight_rounding import round_weights
from stages.quantize.layers.weighted import count_products
from stages.quantize.trained import count_fake_quantizers

# What repairs an integer model, by the float one and samples; None if there is nothing to repair.
Repair = Callable[[Any, Any, Batches], Optional[bytes]]

# The repairs by their fixes' names, in the order in which they are tried.
_REPAIRS: Dict[str, Repair] = {
    "weight-rounding": round_weights,
    "bias-correction": correct_biases,
}


def repair_layers(job: Job, signature: Signature, content: bytes) -> bytes:
    """Return the integer model with those repairs that bring it nearer to the float one.

    They are those that the option `fixes` selects. What came of each is in `report["repairs"]`.
    """
    selected = [fix.name for fix in select(job.options["fixes"], "quantize")]
    chosen = [name for name in _REPAIRS if name in selected]
    # Noise says nothing of what the layers see, and a model that was trained for integers keeps
    # what it learned.
    if not chosen:
        return content
    trained = bool(count_fake_quantizers(import_tensorflow(), job))
    if trained or not job.options["calibration"]:
        named = [name for name in chosen if name in job.options["fixes"]]
        if named:
            why = "the model was trained for integers" if trained else "noise is no calibration"
            job.note(f"Not tried: {' and '.join(named)}, since {why}.")
        return content
    with job.phase("repairs"):
        try:
            fitted, judged = _choose_samples(job, signature, content)
            if not judged:
                job.note(
                    f"Not tried: {' and '.join(chosen)}. There are too few calibration samples, or "
                    "the model is too large."
                )
                return content
            trial = _Trial(job, signature, content, fitted, judged)
        except Exception as error:  # the model converted without them
            traceback.print_exc()
            job.note(f"The repairs of layers were not tried: {get_first_line(error)}")
            return content
        for name in chosen:
            try:
                trial.run(name)
            except Exception as error:  # what was kept before stays
                traceback.print_exc()
                job.note(f"The fix {name} failed, and was left out: {get_first_line(error)}")
    return trial.content


def _choose_samples(job: Job, signature: Signature, content: bytes) -> Tuple[Batches, Batches]:
    """Choose calibration samples to fit repairs to and to judge them by, in the graph's layout.

    Only those are read: the files may be larger than the memory.
    """
    model, _ = open_model(signature, content)
    chosen = split(open_calibration(job, signature.inputs), count_products(model))
    fitted, judged = (
        [
            [reorder_axes(value, tensor.axes) for value, tensor in zip(values, signature.inputs)]
            for values in batches
        ]
        for batches in chosen
    )
    return fitted, judged


class _Trial:
    """An integer model, and what it makes of the samples that judge its repairs."""

    def __init__(
        self, job: Job, signature: Signature, content: bytes, fitted: Batches, judged: Batches
    ) -> None:
        self.job, self.signature, self.content = job, signature, content
        self.fitted, self.judged = fitted, judged
        self.source, outputs = open_model(signature, convert_float(job, signature))
        self.expected = list(map(self.source.plain(outputs), self.judged))
        self.found = run_quantized(content, signature, self.judged)

    def run(self, name: str) -> None:
        """Try a repair, and keep it if what it gains is above the error of that."""
        quantized, _ = open_model(self.signature, self.content)
        changed = _REPAIRS[name](self.source, quantized, self.fitted)
        if changed is None:
            return
        found = run_quantized(changed, self.signature, self.judged)
        gain, error = measure_gain(self.expected, self.found, found)
        if not np.isfinite([gain, error]).all():
            self.job.note(
                f"The fix {name} was left out: the float model's outputs are not finite on all "
                "calibration samples, so nothing judges it."
            )
            return
        ratios = [compare_outputs(self.expected, each)[0] for each in (self.found, found)]
        kept = gain > error and ratios[1] > ratios[0]
        record = {"name": name, "kept": kept, "samples": len(self.judged)}
        record.update(gain=gain, error=error)
        self.job.report["repairs"] = [*self.job.report.get("repairs", ()), record]
        self.job.note(
            f"The fix {name} was tried and {'kept' if kept else 'left out'}: it gains "
            f"{gain:.1f} ± {error:.1f} dB on {len(self.judged)} calibration samples that it was "
            "not fitted to."
        )
        if kept:
            self.content, self.found = changed, found
            self.job.report["fixes"] = [*self.job.report.get("fixes", ()), name]
