"""Why a layer of a quantised model is bad: what is unusual about its levels, weights and inputs.

A rule names a layer only if its figures are far from those of sound models, and, but for the inputs
themselves, if the layer's own noise shows the damage. Thresholds are in docs/quantization.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from stages.quantize.layers.noise import Layer

# More of a tensor's values than this lie outside of its levels.
_MOST_OUTSIDE = 0.01
# The values of an input use less than this share of its levels, or those of an inner tensor.
_LEAST_USED = {True: 1 / 5, False: 1 / 20}
# One channel is so many times as large as the median one: it leaves the others four bits.
_OUTLIER = 16.0
# The same for weights, which have no other use of the levels.
_WEIGHTS_OUTLIER = {"DEPTHWISE_CONV_2D": 4.0, "CONV_2D": 8.0, "FULLY_CONNECTED": 16.0}
# Operands of one scale, of which one is so many times as large as the other.
_UNLIKE = {"CONCATENATION": 10.0, "PACK": 10.0, "ADD": 64.0, "SUB": 64.0}
# A step of the input of a saturating function, and the share of its outputs at their ends.
_COARSE_STEP = 0.15
_MOST_SATURATED = 0.25
# Signal to noise, as powers: below it the damage shows (sound layers are above 30 dB).
_DAMAGED = 10 ** (25 / 10)

# So many times the power of rounding is none.
_BEYOND_ROUNDING = 1e4

_WEIGHTED = tuple(_WEIGHTS_OUTLIER)
_SATURATING = {"LOGISTIC": (0.0, 1.0), "TANH": (-1.0, 1.0)}


@dataclass(frozen=True)
class Fault:
    """A layer, what kind of fault it has, and the reason in words."""

    layer: Layer
    kind: str
    reason: str


def find_faults(layers: Sequence[Layer], quantized: Any, moved: Dict[str, str]) -> List[Fault]:
    """Find the faults, in order of depth; `moved` has a reason by input whose mean is another.

    Of faults that follow from the one before (values out of range, behind such an input), only the
    first is named.
    """
    faults: List[Fault] = []
    by_counterpart = {layer.counterpart: layer for layer in layers}
    ranges_explained = False
    for layer in layers:
        reads = find_inputs(quantized, layer, by_counterpart)
        is_input = not reads
        if is_input and layer.name in moved:
            faults.append(Fault(layer, "input", moved[layer.name]))
            ranges_explained = True
            continue
        reason = "" if ranges_explained else _judge_range(layer, is_input)
        if reason:
            faults.append(Fault(layer, "range", reason))
            ranges_explained = True
            continue
        for kind, judge in _RULES:
            reason = judge(layer, reads, quantized)
            if reason:
                faults.append(Fault(layer, kind, reason))
                break
    return faults


def find_inputs(quantized: Any, layer: Layer, by_counterpart: Dict[str, Layer]) -> List[Layer]:
    """Return the layers that the operators of this one read."""
    others = set(by_counterpart) - {layer.counterpart}
    piece = quantized.piece(layer.counterpart, others)
    return [by_counterpart[name] for name in piece.inputs]


def _judge_range(layer: Layer, is_input: bool) -> str:
    if not layer.levels.scale or not layer.values:
        return ""
    low, high = layer.levels.range
    seen_low, seen_high = float(layer.low.min()), float(layer.high.max())
    share = layer.outside / layer.values
    if share > _MOST_OUTSIDE and _is_damaged(layer) and not _is_fixed(layer):
        return (
            f"{share:.0%} of its values lie outside of [{low:.3g}, {high:.3g}], which calibration "
            f"reached: they are cut off (they reach [{seen_low:.3g}, {seen_high:.3g}])"
        )
    used = (seen_high - seen_low) / max(high - low, 1e-300)
    if used < _LEAST_USED[is_input] and not _is_fixed(layer) and (is_input or _is_damaged(layer)):
        return (
            f"its values reach [{seen_low:.3g}, {seen_high:.3g}] and use {max(used, 0):.1%} of its "
            f"levels, since calibration reached [{low:.3g}, {high:.3g}]"
        )
    return ""


def _judge_weights(layer: Layer, reads: Sequence[Layer], quantized: Any) -> str:
    kind = find_kind(layer, _WEIGHTED)
    weights = _read_weights(quantized, layer) if kind else None
    if weights is None or not _is_damaged(layer):
        return ""
    sizes = weights[weights > 0]
    if not len(sizes):
        return ""
    ratio = float(sizes.max() / np.median(sizes))
    if ratio < _WEIGHTS_OUTLIER[kind]:
        return ""
    return (
        f"its weights have one scale for all {len(weights)} channels, and channel "
        f"{int(weights.argmax())}'s are {ratio:.3g} times as large as the median channel's"
    )


def _judge_outlier(layer: Layer, reads: Sequence[Layer], quantized: Any) -> str:
    sizes = layer.sizes
    alive = sizes[sizes > 0]
    makes_it = not reads or find_kind(layer, (*_WEIGHTED, "ADD"))
    if len(alive) < 3 or not makes_it or not layer.levels.scale or not _is_damaged(layer):
        return ""
    ratio = float(alive.max() / np.median(alive))
    if ratio < _OUTLIER or any(_has_outlier(other, int(sizes.argmax())) for other in reads):
        return ""
    return (
        f"one scale serves all {len(sizes)} channels, and channel {int(sizes.argmax())} reaches "
        f"{alive.max():.3g}, {ratio:.3g} times the median channel's {np.median(alive):.3g}"
    )


def _judge_operands(layer: Layer, reads: Sequence[Layer], quantized: Any) -> str:
    kind = find_kind(layer, tuple(_UNLIKE))
    sizes = [float(other.sizes.max(initial=0.0)) for other in reads]
    if not kind or len(sizes) < 2 or not min(sizes) or not _is_damaged(layer):
        return ""
    ratio = max(sizes) / min(sizes)
    if ratio < _UNLIKE[kind]:
        return ""
    small = reads[int(np.argmin(sizes))]
    levels = 2 * min(sizes) / layer.levels.scale if layer.levels.scale else 0
    return (
        f"its inputs get one scale, and the largest reaches {max(sizes):.3g}, {ratio:.3g} times as "
        f"far as '{small.title or small.name.split(';')[0]}' ({min(sizes):.3g}), which is left "
        f"{levels:.0f} levels"
    )


def _judge_saturation(layer: Layer, reads: Sequence[Layer], quantized: Any) -> str:
    kind = find_kind(layer, tuple(_SATURATING))
    if not kind or len(reads) != 1 or reads[0].levels.scale < _COARSE_STEP:
        return ""
    source = reads[0]
    if layer.saturated < _MOST_SATURATED:
        return ""
    low, high = source.levels.range
    name = "sigmoid" if kind == "LOGISTIC" else "tanh"
    return (
        f"the {name} is saturated: {layer.saturated:.0%} of its values are at an end, and its "
        f"input has steps of {source.levels.scale:.2g} ([{low:.3g}, {high:.3g}]), where it rises "
        "between -4 and 4"
    )


def _judge_kernel(layer: Layer, reads: Sequence[Layer], quantized: Any) -> str:
    """Judge an operator without weights by what rounding its result can cost."""
    if not layer.levels.scale or not layer.values or find_kind(layer, _WEIGHTED):
        return ""
    rounding = layer.values * layer.levels.scale**2 / 12
    times = float(layer.own.sum()) / rounding
    if times < _BEYOND_ROUNDING or layer.own_ratio > _DAMAGED or layer.outside:
        return ""
    return (
        f"this interpreter computes something else: its noise has {times:.1e} times the power of "
        "the rounding to its levels"
    )


_RULES = (
    ("kernel", _judge_kernel),
    ("weights", _judge_weights),
    ("outlier", _judge_outlier),
    ("operands", _judge_operands),
    ("saturated", _judge_saturation),
)


def find_kind(layer: Layer, kinds: Sequence[str]) -> str:
    """Return the first of these kinds of operator that the layer has, without its activation."""
    own = [operator.partition("+")[0] for operator in layer.operators]
    return next((kind for kind in own if kind in kinds), "")


def _is_fixed(layer: Layer) -> bool:
    """Tell whether the range comes from the operator and not from calibration."""
    return bool(find_kind(layer, (*_SATURATING, "SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION")))


def _is_damaged(layer: Layer) -> bool:
    return min(layer.own_ratio, layer.quiet_ratio) < _DAMAGED


def _has_outlier(layer: Layer, channel: int) -> bool:
    sizes = layer.sizes
    alive = sizes[sizes > 0]
    return bool(len(alive) >= 3 and alive.max() / np.median(alive) >= _OUTLIER)


def _read_weights(quantized: Any, layer: Layer) -> Optional[np.ndarray]:
    """Return the largest weight of each output channel; None unless they share one scale."""
    position = quantized.producers.get(quantized.indices[layer.counterpart])
    if position is None or quantized.kinds[position].partition("+")[0] not in _WEIGHTED:
        return None
    tensor = quantized.graph.tensors[int(quantized.graph.operators[position].inputs[1])]
    buffer = quantized.model.buffers[tensor.buffer].data
    scales = [] if tensor.quantization is None else tensor.quantization.scale
    if buffer is None or scales is None or len(scales) != 1:
        return None
    values = np.frombuffer(bytes(bytearray(buffer)), np.int8).reshape(
        [int(d) for d in tensor.shape]
    )
    # TensorFlow Lite's depthwise weights have their channels last, all others first.
    depthwise = quantized.kinds[position].startswith("DEPTHWISE")
    rows = np.moveaxis(values, -1, 0) if depthwise else values
    sizes: np.ndarray = np.abs(rows.reshape(len(rows), -1).astype(np.float64)).max(axis=1)
    return sizes
