"""The gate of a quantised model: signal to noise, and the same class as PyTorch's.

An error of quantisation is a thousand times that of float32's rounding and grows with the outputs,
so an absolute tolerance says nothing. The signal-to-quantisation-noise ratio (SQNR) is the power of
PyTorch's outputs over that of the error, in decibels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict

from stages.kit.contract import InputError, Job, Option
from stages.kit.samples import Predict, Samples, compare
from stages.quantize.check.pictures import draw_pictures

GATE = (
    Option("min_sqnr", float, 20.0, "the least signal-to-noise ratio of an output, in dB"),
    Option("min_top1", float, 0.98, "the least share of samples with PyTorch's class, 0 to 1"),
)


def compare_quality(
    job: Job, samples: Samples, framework: str, make_predict: Callable[[], Predict]
) -> Dict[str, Any]:
    """Run a quantised model on all samples, and return the `check` of its report.

    Each output's error relative to its size has to be that of the least SQNR at most, and a
    classifier's agreement with PyTorch its own least. Raises `InputError` for a gate without sense.
    """
    least, agreement = job.options["min_sqnr"], job.options["min_top1"]
    if not (0 < least < 200 and 0 <= agreement <= 1):
        raise InputError(
            f"A gate of {least:g} dB and an agreement of {agreement:g} means nothing.",
            "The ratio is above 0 and below 200 dB, the agreement from 0 to 1.",
        )
    gate = {"metric": "rms_rel", "tolerance": 10 ** (-least / 20), "strict": True}
    settings = {**job.request.get("check", {}), **gate}
    judged = replace(job, request={**job.request, "check": settings})
    found = compare(judged, replace(samples, stress=()), framework, make_predict)
    for output in found.get("outputs", ()):
        share = output["top1_agreement"]
        if output["verdict"] == "passed" and share is not None and share < agreement:
            output["verdict"] = "exceeded"
            if found["verdict"] == "passed":
                found["verdict"] = "exceeded"
            job.note(
                f"'{output['name']}' has PyTorch's class for {share:.1%} of the samples, and "
                f"{agreement:.1%} are asked for (--min-top1)."
            )
    found["pictures"] = draw_pictures(samples, found.get("outputs", ()))
    return found
