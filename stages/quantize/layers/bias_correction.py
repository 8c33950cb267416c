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

import copy
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from stages.frameworks.tflite_file import pack_model
from stages.kit.contract import report_progress
from stages.quantize.layers.noise import encode_inputs, read_levels

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Means of shifts hardly move beyond so many samples.
_MOST_SAMPLES = 64


def correct_biases(
    source: Any, quantized: Any, samples: Sequence[np.ndarray]
) -> Tuple[Optional[bytes], int]:
    """Return the integer model with corrected biases, and how many layers have one.

    `source` is the float model of the same graph; both are `TfliteModel`s. `samples` are arrays of
    shape (samples, *shape), one per input. None without a layer to correct.
    """
    pairs = _pair_layers(source, quantized)
    if not pairs:
        return None, 0
    rows = [
        [np.ascontiguousarray(array[number]) for array in samples]
        for number in range(min(len(samples[0]), _MOST_SAMPLES))
    ]
    expected = _average(source, [source.names[int(layer.inputs[0])] for _, layer in pairs], rows)
    given = [quantized.names[int(layer.inputs[0])] for layer, _ in pairs]
    averages = _Averages(quantized, given, [encode_inputs(quantized, row) for row in rows])
    for number, (layer, wanted) in enumerate(pairs):
        got = _apply(quantized, layer, averages.take(number))
        shift = got - _apply(source, wanted, expected[int(wanted.inputs[0])])
        _move_bias(quantized, layer, shift.reshape(-1, shift.shape[-1]).mean(axis=0))
        report_progress("bias correction", number + 1, len(pairs))
    return pack_model(quantized.model), len(pairs)


def _average(
    source: Any, names: Sequence[str], rows: Sequence[Sequence[np.ndarray]]
) -> Dict[int, np.ndarray]:
    """Return the mean over samples of tensors of the float model, by their indices."""
    made = [name for name in dict.fromkeys(names) if source.indices[name] in source.producers]
    run = source.plain(made)
    sums: Dict[int, Any] = {}
    for row in rows:
        values = {index: value for index, value in zip(source.inputs, row) if index is not None}
        values.update(zip((source.indices[name] for name in made), run(row)))
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


def _pair_layers(source: Any, quantized: Any) -> List[Tuple[Any, Any]]:
    """Pair the layers of integers that have a bias with the float model's, in order."""
    found, wanted = _list_weighted(quantized), _list_weighted(source)
    if [kind for kind, _ in found] != [kind for kind, _ in wanted]:
        return []
    pairs = []
    for (_, layer), (_, other) in zip(found, wanted):
        shapes = [
            tuple(model.graph.tensors[int(operator.inputs[1])].shape)
            for model, operator in ((quantized, layer), (source, other))
        ]
        levels = read_levels(quantized, int(layer.inputs[0]))
        if shapes[0] == shapes[1] and levels and levels.scale and _has_bias(quantized, layer):
            pairs.append((layer, other))
    return pairs


def _list_weighted(model: Any) -> List[Tuple[str, Any]]:
    """List the operators that multiply by constant weights, with their kinds."""
    found = []
    for kind, operator in zip(model.kinds, model.graph.operators):
        plain = kind.partition("+")[0]
        if plain in _WEIGHTED and _read(model, int(operator.inputs[1])) is not None:
            found.append((plain, operator))
    return found


def _apply(model: Any, operator: Any, inputs: np.ndarray) -> np.ndarray:
    """Return what a layer's weights make of its inputs, without bias and activation.

    The channels are the last axis.
    """
    tf, schema = model.tf, model.schema
    weights = _read_floats(model, int(operator.inputs[1]))
    given = tf.constant(inputs, tf.float64)
    options = operator.builtinOptions
    kind = model.kinds[list(model.graph.operators).index(operator)].partition("+")[0]
    if kind == "FULLY_CONNECTED":
        return np.reshape(inputs, (-1, weights.shape[1])) @ weights.T
    padding = "SAME" if options.padding == schema.Padding.SAME else "VALID"
    strides, dilations = (
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
    )
    if kind == "CONV_2D":
        kernel = tf.constant(weights.transpose(1, 2, 3, 0))
        made = tf.nn.conv2d(given, kernel, strides, padding, dilations=dilations)
    else:
        channels = inputs.shape[-1]
        kernel = weights[0].reshape((*weights.shape[1:3], channels, -1))
        made = tf.nn.depthwise_conv2d(given, kernel, (1, *strides, 1), padding, dilations=dilations)
    return np.asarray(made)


def _read(model: Any, index: int) -> Optional[np.ndarray]:
    """Return a constant tensor; None if it is computed."""
    tensor = model.graph.tensors[index]
    data = model.model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    shape = tuple(int(size) for size in tensor.shape)
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), model.dtype(index)).reshape(shape)


def _read_floats(model: Any, index: int) -> np.ndarray:
    """Return constant weights as the floats that they stand for."""
    values = np.asarray(_read(model, index), np.float64)
    quantization = model.graph.tensors[index].quantization
    if model.dtype(index) == "float32":
        return values
    scales = np.array(quantization.scale, np.float64)
    shape = [1] * values.ndim
    shape[quantization.quantizedDimension if len(scales) > 1 else 0] = len(scales)
    return values * scales.reshape(shape)


def _has_bias(model: Any, operator: Any) -> bool:
    if len(operator.inputs) < 3 or int(operator.inputs[2]) < 0:
        return False
    place = int(operator.inputs[2])
    return model.dtype(place) in ("int32", "int64") and _read(model, place) is not None


def _move_bias(model: Any, operator: Any, shift: np.ndarray) -> None:
    """Take a shift, by channel, off the bias of a layer of integers."""
    place = int(operator.inputs[2])
    tensor = model.graph.tensors[place]
    steps = np.round(shift / np.array(tensor.quantization.scale, np.float64))
    moved = _read(model, place) - steps
    limits = np.iinfo(np.int32)  # of int64 ones too: those have the room, and never need it
    data = np.clip(moved, limits.min, limits.max).astype(model.dtype(place)).tobytes()
    # Others may share the buffer.
    buffer = copy.copy(model.model.buffers[tensor.buffer])
    buffer.data = np.frombuffer(data, np.uint8)
    tensor.buffer = len(model.model.buffers)
    model.model.buffers.append(buffer)
