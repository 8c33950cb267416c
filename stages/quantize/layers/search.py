"""Layers of an int8 model that stay in float: those that are named, or the fewest that it takes.

The search is greedy. Layers are tried in the order of what their own noise costs the outputs; each
is added with the operators that read it, which would else read the same bad integers. Once the
ratio is reached, every operator that it holds without is put back. Only the samples of the
calibration are used, so that the check's remain unseen.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Set

import numpy as np

from stages.frameworks.tflite_model import TfliteModel
from stages.kit.contract import InputError, Job, Signature, report_progress
from stages.kit.layers import LayerFinder, deduplicate
from stages.quantize.layers.keep_float import keep_in_float
from stages.quantize.layers.noise import Layer, measure
from stages.quantize.layers.trial import choose, compare_outputs, run_quantized

# Samples to find costly layers with, and to measure a set of layers with.
_TRACED, _MEASURED = 8, 64
# Calibration samples are kinder than others: a decibel more is asked for.
_MARGIN = 1.0
_MOST_STEPS = 60
# Operators that hand values on as they are: behind them are the same bad integers.
_CARRYING = (
    "RESHAPE", "TRANSPOSE", "PAD", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE",
    "MAX_POOL_2D", "CONCATENATION", "QUANTIZE", "SPLIT", "GATHER", "RESIZE_NEAREST_NEIGHBOR",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """The float model and the quantised one of a graph, and the layers of the user's model."""

    source: TfliteModel
    quantized: TfliteModel
    outputs: Sequence[str]
    finder: LayerFinder

    def describe(self, names: Sequence[str]) -> List[str]:
        """Return the user's layers of these tensors, or else the tensors' names."""
        found = []
        for name in names:
            found.append(" + ".join(self.finder.find_all(name)) or name.partition(";")[0])
        return deduplicate(found, most=len(found))


def find_named(pair: Pair, layers: str) -> Set[str]:
    """Return the tensors of layers, which are comma-separated: modules' paths, or tensors' names.

    A module stands for all within it. Raises `InputError` for one that is not there.
    """
    known: Dict[str, Set[str]] = {}
    for name in pair.source.order():
        if pair.source.dtype(pair.source.indices[name]) != "float32":
            continue
        for module in pair.finder.find_all(name):
            path = module.split(".")
            for length in range(1, len(path) + 1):
                known.setdefault(".".join(path[:length]), set()).add(name)
        known.setdefault(name.partition(";")[0], set()).add(name)
    chosen: Set[str] = set()
    for layer in (part.strip() for text in layers.split(",") for part in text.split(" + ")):
        if layer not in known:
            near = difflib.get_close_matches(layer, list(known), 3, 0.5) or list(known)[:3]
            raise InputError(
                f"The model has no layer '{layer}' to keep in float.",
                f"Near it are {', '.join(near)}; runner diagnose RUN names all.",
            )
        chosen |= known[layer]
    return chosen


def search(
    job: Job, pair: Pair, samples: Sequence[np.ndarray], least: float, agreement: float
) -> Set[str]:
    """Return the fewest tensors found to be kept in float for a ratio of `least` dB.

    `agreement` is the least share of samples with the float model's class. `samples` are arrays of
    shape (samples, *shape), in the model's order of axes. The steps are in `report["search"]`.
    """
    batches = choose(samples, _MEASURED)
    expected = [pair.source.plain(pair.outputs)(values) for values in batches]
    steps: List[Dict[str, Any]] = []
    signature = Signature.from_dict(job.request["signature"])

    def passes(kept: Set[str]) -> bool:
        content = keep_in_float(pair.source, pair.quantized, kept)
        found = run_quantized(content, signature, batches)
        ratio, same = compare_outputs(expected, found)
        ordered = [name for name in pair.source.order() if name in kept]
        steps.append({"kept": pair.describe(ordered), "sqnr": ratio, "bytes": len(content)})
        report_progress("search", len(steps), _MOST_STEPS)
        return ratio >= least + _MARGIN and same >= agreement

    kept: Set[str] = set()
    done = passes(kept)
    if not done:
        traced = [np.stack(column) for column in zip(*choose(samples, _TRACED))]
        layers = measure(pair.source, pair.quantized, traced, pair.outputs)
        for layer in sorted(layers, key=lambda layer: -layer.output_noise):
            group = _list_group(pair.source, layer)
            if group <= kept or len(steps) >= _MOST_STEPS:
                continue
            kept = kept | group
            done = passes(kept)
            if done:
                break
    for name in [name for name in pair.source.order() if name in kept] if done else ():
        if len(steps) < _MOST_STEPS and passes(kept - {name}):
            kept = kept - {name}
    job.report["search"] = steps
    if not done:
        job.note(
            f"No set of layers in float was found with {least + _MARGIN:g} dB on the calibration's "
            f"samples, in {len(steps)} steps."
        )
    elif kept:
        ordered = [name for name in pair.source.order() if name in kept]
        job.note(f"Kept in float: {', '.join(pair.describe(ordered))}.")
    return kept


def _list_group(source: TfliteModel, layer: Layer) -> Set[str]:
    """Return what must be in float for a tensor to be so: what makes it, and what reads it."""
    group: Set[str] = set()
    index = source.indices[layer.name]
    if index in source.producers:
        group.add(layer.name)
    pending, seen = [index], {index}
    while pending:
        place = pending.pop()
        for position, operator in enumerate(source.graph.operators):
            if place not in [int(t) for t in operator.inputs]:
                continue
            for output in (int(t) for t in operator.outputs):
                if output in seen or source.dtype(output) != "float32":
                    continue
                seen.add(output)
                group.add(source.names[output])
                if source.kinds[position].partition("+")[0] in _CARRYING:
                    pending.append(output)
    return group
