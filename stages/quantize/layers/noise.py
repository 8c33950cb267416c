"""What each layer of a quantised model adds to the noise of its outputs.

The quantised model is compared with the float one of the same graph, tensor by tensor. Plain runs
show how noise grows. To see where it comes from, both models are cut at the tensors that they
share, and every piece runs on the same values, those of the float model rounded to the quantised
one's levels: what the results differ by is noise of the piece's own. What it costs is then seen by
adding this noise, and no other, to the float model's tensor, and running the rest in float.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from stages.kit.tracing import Arrays

# What the converter appends to the integer counterpart of an input or output.
INTEGER_ENDS = ("_int8", "_uint8", "_int16")
# Of the channels of a tensor, those with no signal at all do not count.
_NOTHING = 1e-12
# Half a step of what int8 has for a sigmoid.
_END = 1 / 512


@dataclass(frozen=True)
class Levels:
    """The integers that stand for a tensor's floats; `scale` is 0 for a tensor in float."""

    dtype: str
    scale: float = 0.0
    zero: int = 0

    @property
    def range(self) -> Tuple[float, float]:
        """The least and the largest value that there is an integer for."""
        limits = np.iinfo(self.dtype)
        return (limits.min - self.zero) * self.scale, (limits.max - self.zero) * self.scale

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Round floats to integers, those outside of the range to its ends."""
        if not self.scale:
            return values
        limits = np.iinfo(self.dtype)
        rounded = np.round(values / self.scale) + self.zero
        return np.clip(rounded, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """Return the floats that integers stand for."""
        if not self.scale:
            return integers
        return ((integers.astype(np.float64) - self.zero) * self.scale).astype(np.float32)


@dataclass
class Layer:
    """A tensor of the float model, its counterpart, and what was seen of both; powers are sums.

    `own`, `signal`, `low` and `high` have an element per channel, which is the last axis.
    `output_noise` is the noise of each output, relative to it, that this layer's own costs.
    """

    name: str
    counterpart: str
    levels: Levels
    operators: Tuple[str, ...] = ()
    # The layers that it reads, by their names in the float model.
    inputs: Tuple[str, ...] = ()
    # What a person is told; the user's layer where it is known.
    title: str = ""
    shape: Tuple[int, ...] = ()
    own: np.ndarray = field(default_factory=lambda: np.zeros(1))
    signal: np.ndarray = field(default_factory=lambda: np.zeros(1))
    low: np.ndarray = field(default_factory=lambda: np.zeros(1))
    high: np.ndarray = field(default_factory=lambda: np.zeros(1))
    grown: float = 0.0
    outside: int = 0
    at_ends: int = 0
    values: int = 0
    output_noise: float = 0.0

    def add(self, expected: np.ndarray, own: np.ndarray, plain: Optional[np.ndarray]) -> None:
        """Add a sample: the float model's values, the noise of its own, the plain run's values."""
        first = not self.values
        self.shape = expected.shape
        wide = _to_channels(expected)
        low, high = wide.min(axis=0, initial=np.inf), wide.max(axis=0, initial=-np.inf)
        self.low = low if first else np.minimum(self.low, low)
        self.high = high if first else np.maximum(self.high, high)
        self.own = self.own + np.square(_to_channels(own)).sum(axis=0)
        self.signal = self.signal + np.square(wide).sum(axis=0)
        if plain is not None and plain.shape == expected.shape:
            self.grown += float(np.square(plain.astype(np.float64) - expected).sum())
        self.values += expected.size
        if {"LOGISTIC", "TANH"}.intersection(self.operators):
            least = -1.0 if "TANH" in self.operators else 0.0
            self.at_ends += int(((expected > 1 - _END) | (expected < least + _END)).sum())
        if self.levels.scale:
            # Beyond half a step, rounding cannot account for it.
            least, most = self.levels.range
            half = self.levels.scale / 2
            self.outside += int(((expected < least - half) | (expected > most + half)).sum())

    @property
    def ratio(self) -> float:
        """Signal to noise of the plain run, as powers."""
        return _divide(float(self.signal.sum()), self.grown)

    @property
    def own_ratio(self) -> float:
        """Signal to noise of the layer's own, as powers."""
        return _divide(float(self.signal.sum()), float(self.own.sum()))

    @property
    def quiet_ratio(self) -> float:
        """The same of the channel at the first quartile: a large one hides what small ones lost."""
        alive = self.signal > _NOTHING * max(float(self.signal.max()), 1e-300)
        if not alive.any():
            return np.inf
        own = np.maximum(self.own[alive], 1e-300)
        return float(np.percentile(self.signal[alive] / own, 25))

    @property
    def saturated(self) -> float:
        """The share of the values that lie at the ends of what a sigmoid or tanh gives."""
        return self.at_ends / max(self.values, 1)

    @property
    def sizes(self) -> np.ndarray:
        """The largest absolute value of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def measure(
    source: Any, quantized: Any, samples: Sequence[np.ndarray], outputs: Sequence[str]
) -> List[Layer]:
    """Measure every shared tensor, in order of depth; the inputs come first.

    `source` is the float model, `quantized` the other (both `TfliteModel`), `samples` arrays of
    shape (samples, *shape), one per input, and `outputs` names of the float model's.
    """
    layers = match_layers(source, quantized)
    names = [layer.name for layer in layers]
    plain_source, plain = source.plain(names), quantized.plain([x.counterpart for x in layers])
    inner = [layer for layer in layers if source.indices[layer.name] in source.producers]
    pieces: Optional[Tuple[Any, Any]] = None
    # By sample, each layer's values with the noise of its own.
    noisy: List[Dict[str, np.ndarray]] = []
    for number in range(len(samples[0])):
        values = [np.ascontiguousarray(array[number]) for array in samples]
        known = dict(zip(names, plain_source(values)))
        integers = {x.counterpart: x.levels.quantize(known[x.name]) for x in layers}
        rounded = {x.name: x.levels.dequantize(integers[x.counterpart]) for x in layers}
        ends = encode_inputs(quantized, values)
        if pieces is None:
            pieces = (
                source.cut([x.name for x in inner], rounded),
                quantized.cut([x.counterpart for x in inner], integers),
            )
        expected = dict(zip((x.name for x in inner), pieces[0](values, rounded)))
        found = dict(zip((x.name for x in inner), pieces[1](ends, integers)))
        seen = plain(ends)
        noisy.append({})
        for layer, value in zip(layers, seen):
            if layer.name in found:
                own = layer.levels.dequantize(found[layer.name]) - expected[layer.name]
            else:
                own = rounded[layer.name] - known[layer.name]
            noisy[-1][layer.name] = known[layer.name] + own
            layer.add(known[layer.name], own, layer.levels.dequantize(value))
    _measure_costs(source, layers, samples, outputs, noisy)
    return layers


def match_layers(source: Any, quantized: Any) -> List[Layer]:
    """Pair the float model's tensors with the quantised one's, by their names and shapes."""
    found = []
    cuts: Dict[str, str] = {}
    for name in [*(source.names[i] for i in source.inputs if i is not None), *source.order()]:
        index = source.indices[name]
        if source.dtype(index) != "float32":
            continue
        for counterpart in (*(name + end for end in INTEGER_ENDS), name):
            place = quantized.indices.get(counterpart)
            if place is None or source.shape(index) != quantized.shape(place):
                continue
            levels = read_levels(quantized, place)
            if levels is not None:
                faked = _find_faked(source, index, levels) if levels.scale else name
                if faked:
                    found.append(Layer(faked, counterpart, levels))
                    cuts[counterpart] = faked
                break
    for layer in found:
        piece = quantized.piece(layer.counterpart, set(cuts) - {layer.counterpart})
        layer.operators = piece.operators
        layer.inputs = tuple(cuts[counterpart] for counterpart in piece.inputs)
    return found


def _find_faked(source: Any, index: int, levels: Levels) -> str:
    """Return the name of a tensor of the float model after the fake quantisation that follows it.

    In a model that was trained for integers, that is what the integers stand for; the converter
    writes it as QUANTIZE and DEQUANTIZE. '' if they have another range, as those have that are
    concatenated: the float model comes to it further on.
    """
    readers = source.list_readers(index)
    if [kind for kind, _ in readers] != ["QUANTIZE"]:
        return str(source.names[index])
    place = int(readers[0][1].outputs[0])
    trained = read_levels(source, place)
    back = [operator for kind, operator in source.list_readers(place) if kind == "DEQUANTIZE"]
    if trained is None or not back:
        return str(source.names[index])
    moved = np.abs(np.subtract(levels.range, trained.range)).max()
    return str(source.names[int(back[0].outputs[0])]) if moved < levels.scale else ""


def read_levels(model: Any, index: int) -> Optional[Levels]:
    """Read what a tensor's integers stand for; None if that is not one scale for all of it."""
    dtype = model.dtype(index)
    quantization = model.graph.tensors[index].quantization
    if dtype == "float32":
        return Levels(dtype)
    scales = [] if quantization is None or quantization.scale is None else quantization.scale
    if dtype not in ("int8", "uint8", "int16") or len(scales) != 1 or not scales[0]:
        return None
    return Levels(dtype, float(scales[0]), int(quantization.zeroPoint[0]))


def encode_inputs(model: Any, values: Sequence[np.ndarray]) -> List[np.ndarray]:
    """Return the inputs as the model takes them: as integers, if its ends are of integers."""
    levels = [None if index is None else read_levels(model, index) for index in model.inputs]
    return [v if found is None else found.quantize(v) for v, found in zip(values, levels)]


def _measure_costs(
    source: Any,
    layers: Sequence[Layer],
    samples: Sequence[np.ndarray],
    outputs: Sequence[str],
    noisy: Sequence[Dict[str, np.ndarray]],
) -> None:
    """Measure for each layer what its own noise alone does to the outputs of the float model."""
    plain = source.plain(outputs)
    batches = [
        [np.ascontiguousarray(array[number]) for array in samples] for number in range(len(noisy))
    ]
    right = [plain(values) for values in batches]
    for layer in layers:
        changed = [tensors[layer.name] for tensors in noisy]
        if layer.name in outputs:
            run: Callable[..., Any] = _replace_output(plain, list(outputs).index(layer.name))
        else:
            run = source.cut(outputs, {layer.name: changed[0]})
        error, power = np.zeros(len(outputs)), np.zeros(len(outputs))
        for values, expected, value in zip(batches, right, changed):
            for place, output in enumerate(run(values, {layer.name: value})):
                wide = np.asarray(expected[place], np.float64)
                error[place] += float(np.square(np.asarray(output, np.float64) - wide).sum())
                power[place] += float(np.square(wide).sum())
        layer.output_noise = float((error / np.maximum(power, 1e-300)).max(initial=0.0))


def _replace_output(plain: Callable[..., Any], place: int) -> Callable[..., Any]:
    def run(values: Sequence[np.ndarray], given: Arrays) -> List[np.ndarray]:
        found = list(plain(values))
        found[place] = next(iter(given.values()))
        return found

    return run


def _to_channels(array: np.ndarray) -> np.ndarray:
    """Return the array as float64 of shape (places, channels)."""
    wide = np.asarray(array, np.float64)
    return wide.reshape(-1, wide.shape[-1] if wide.ndim > 1 else 1)


def _divide(signal: float, noise: float) -> float:
    return signal / noise if noise > 0 else np.inf
