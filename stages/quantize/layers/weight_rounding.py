"""The fix `weight-rounding`: int8 weights rounded up or down as the layer's outputs want it.

Rounded to the nearest each weight is off by at most half a step, but the errors of a channel's
weights meet inputs that go together, and add up. Here the weights of a channel are rounded one by
one, and the error of each is made up for by those still to come, as far as the layer's inputs on
calibration samples allow it. The scales stay, and so do size and speed (Frantar et al. 2022,
'GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers', section 3).
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from stages.frameworks.tflite_file import pack_model
from stages.kit.contract import report_progress
from stages.quantize.layers.weighted import (
    find_kind,
    from_rows,
    list_terms,
    pair_layers,
    read_constant,
    read_scales,
    run_inputs,
    shares_buffer,
    to_rows,
    write_constant,
)

# What is added to the diagonal of the terms' moments, as a part of their mean: it keeps weights
# near their own value where samples say little of them. With a tenth of it, the classifier of a
# MobileNetV2, of 1,280 terms, is fitted to the samples so closely that others lose by it.
_DAMPING = 0.1
# Moments are a matrix of terms x terms, whose inverse takes terms^3. This many take some seconds,
# and 42 MB; a layer of more is left as it is.
_MOST_TERMS = 2304
# Columns that are rounded before the rest of the weights hears of it.
_BLOCK = 64


def round_weights(
    source: Any, quantized: Any, rows: Sequence[Sequence[np.ndarray]]
) -> Optional[bytes]:
    """Return the integer model with weights rounded anew; None without a layer to round.

    `source` is the float model of the same graph; both are `TfliteModel`s. `rows` are samples: an
    array per input each.
    """
    groups = _group(source, quantized)
    if not groups:
        return None
    moments = _sum_moments(source, groups, rows)
    for number, (index, pairs) in enumerate(groups.items()):
        layer, wanted = pairs[0]
        kind = find_kind(quantized, layer)
        scales = read_scales(quantized, index)
        exact = np.asarray(read_constant(source, int(wanted.inputs[1])), np.float64) / scales
        rounded = _round_rows(to_rows(kind, exact), moments[index])
        write_constant(quantized, index, from_rows(kind, rounded, exact.shape))
        report_progress("weight rounding", number + 1, len(groups))
    return pack_model(quantized.model)


def _group(source: Any, quantized: Any) -> Dict[int, List[Tuple[Any, Any]]]:
    """Group the pairs of layers by the integer model's weights, which several may share."""
    groups: Dict[int, List[Tuple[Any, Any]]] = {}
    for layer, wanted in pair_layers(source, quantized):
        index = int(layer.inputs[1])
        shape = quantized.shape(index)
        terms = np.prod(shape[1:3] if len(shape) == 4 and shape[0] == 1 else shape[1:])
        if quantized.dtype(index) != "int8" or terms > _MOST_TERMS:
            continue
        if not shares_buffer(quantized, index):
            groups.setdefault(index, []).append((layer, wanted))
    return groups


def _sum_moments(
    source: Any,
    groups: Dict[int, List[Tuple[Any, Any]]],
    rows: Sequence[Sequence[np.ndarray]],
) -> Dict[int, np.ndarray]:
    """Return by weights the second moments of what they are multiplied by, over all samples.

    The arrays have shape (1, terms, terms), for depthwise convolutions (channels, terms, terms).
    """
    wanted = [pair[1] for pairs in groups.values() for pair in pairs]
    sums: Dict[int, Any] = {}
    for values in run_inputs(source, wanted, rows):
        for index, pairs in groups.items():
            for _, layer in pairs:
                # In float64, so that sums do not depend on the processor's ways to add.
                terms = list_terms(source, layer, values[int(layer.inputs[0])]).astype(np.float64)
                sums[index] = sums.get(index, 0.0) + (terms.transpose(0, 2, 1) @ terms)
    return sums


def _round_rows(exact: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Round weights in steps, of shape (channels, terms), to integers of -127 to 127.

    The terms with the largest moments come first, while there are most others to make up for them.
    """
    if len(moments) > 1:
        each = [_round_rows(row[None], part[None])[0] for row, part in zip(exact, moments)]
        return np.stack(each)
    wide = moments[0]
    size = len(wide)
    damping = _DAMPING * np.trace(wide) / size
    if not damping:
        return np.clip(np.round(exact), -127, 127)
    order = np.argsort(-np.diag(wide), kind="stable")
    wide = wide[np.ix_(order, order)] + damping * np.eye(size)
    factor = np.linalg.cholesky(np.linalg.inv(wide)).T
    left, done = exact[:, order].copy(), np.empty_like(exact)
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        errors = np.empty((len(left), end - start))
        for place in range(start, end):
            column = left[:, place]
            rounded = np.clip(np.round(column), -127, 127)
            done[:, order[place]] = rounded
            error = (column - rounded) / factor[place, place]
            errors[:, place - start] = error
            left[:, place + 1 : end] -= np.outer(error, factor[place, place + 1 : end])
        left[:, end:] -= errors @ factor[start:end, end:]
    return done
