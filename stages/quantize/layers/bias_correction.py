"""The fix `bias-correction`: biases that make up for what rounding moves a layer's mean by.

Rounded weights and activations do not only add noise: over many samples the outputs of a channel
are off in one direction, which the layers behind it take for signal. The mean over calibration
samples of what a layer gives is brought back to the float model's, layer by layer in the order of
the graph, so that each sees the corrected inputs (Nagel et al. 2019, 'Data-Free Quantization
Through Weight Equalization and Bias Correction', the empirical form of section 4.2).

A layer is linear up to its activation, so the mean of its outputs is its output for the mean of its
inputs: the shift is known before the activation, which may be fused to it.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from stages.frameworks.tflite_file import pack_model
from stages.kit.contract import report_progress
from stages.quantize.layers.noise import encode_inputs, read_levels
from stages.quantize.layers.weighted import (
    apply_weights,
    has_bias,
    pair_layers,
    read_constant,
    run_inputs,
    write_constant,
)


def correct_biases(
    source: Any, quantized: Any, rows: Sequence[Sequence[np.ndarray]]
) -> Optional[bytes]:
    """Return the integer model with corrected biases; None without a layer to correct.

    `source` is the float model of the same graph; both are `TfliteModel`s. `rows` are samples: an
    array per input each.
    """
    pairs = [p for p in pair_layers(source, quantized) if has_bias(quantized, p[0])]
    if not pairs:
        return None
    expected = _average(source, [wanted for _, wanted in pairs], rows)
    given = [quantized.names[int(layer.inputs[0])] for layer, _ in pairs]
    averages = _Averages(quantized, given, [encode_inputs(quantized, row) for row in rows])
    for number, (layer, wanted) in enumerate(pairs):
        got = apply_weights(quantized, layer, averages.take(number))
        shift = got - apply_weights(source, wanted, expected[int(wanted.inputs[0])])
        _move_bias(quantized, layer, shift.reshape(-1, shift.shape[-1]).mean(axis=0))
        report_progress("bias correction", number + 1, len(pairs))
    return pack_model(quantized.model)


def _average(
    source: Any, layers: Sequence[Any], rows: Sequence[Sequence[np.ndarray]]
) -> Dict[int, np.ndarray]:
    """Return the mean over samples of what layers of the float model take, by its index."""
    sums: Dict[int, Any] = {}
    for values in run_inputs(source, layers, rows):
        for index, value in values.items():
            sums[index] = sums.get(index, 0.0) + value.astype(np.float64)
    return {index: total / len(rows) for index, total in sums.items()}


class _Averages:
    """The means over samples of what an integer model's layers take, in the order of the graph.

    Each is computed from the last ones that it depends on, as the model is by then.
    """

    def __init__(self, model: Any, names: Sequence[str], rows: Sequence[Any]) -> None:
        self._model, self._names, self._rows = model, list(names), rows
        # The values of every sample, by the tensors that those still to come depend on.
        self._known: Dict[str, List[np.ndarray]] = {}
        for place, index in enumerate(model.inputs):
            if index is not None:
                self._known[model.names[index]] = [row[place] for row in rows]

    def take(self, number: int) -> np.ndarray:
        """Return the mean of a tensor, as floats, by its number among the names."""
        name, known = self._names[number], self._known
        if name not in known:
            reads = self._model.find_cuts([name], set(known))
            cuts = [{read: known[read][sample] for read in reads} for sample in range(self.count)]
            run = self._model.cut([name], cuts[0])
            known[name] = [run(row, given)[0] for row, given in zip(self._rows, cuts)]
        values = known[name]
        needed = self._model.find_cuts(self._names[number:], set(known))
        self._known = {other: known[other] for other in needed}
        levels = read_levels(self._model, self._model.indices[name])
        total = np.zeros(values[0].shape)
        for value in values:
            total += value if levels is None else levels.dequantize(value)
        return total / self.count

    @property
    def count(self) -> int:
        return len(self._rows)


def _move_bias(model: Any, operator: Any, shift: np.ndarray) -> None:
    """Take a shift, by channel, off the bias of a layer of integers."""
    place = int(operator.inputs[2])
    scales = np.array(model.graph.tensors[place].quantization.scale, np.float64)
    moved = read_constant(model, place) - np.round(shift / scales)
    limits = np.iinfo(np.int32)  # of int64 ones too: those have the room, and never need it
    write_constant(model, place, np.clip(moved, limits.min, limits.max))
