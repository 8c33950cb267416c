"""Layers that multiply by constant weights, in an integer model and in the float one of its graph.

Weights are seen as an array of shape (channels, terms), whose row makes one channel of the result;
of a depthwise convolution the terms are those of its own input channel.
"""

from __future__ import annotations

import copy
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from stages.quantize.layers.noise import read_levels

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def pair_layers(source: Any, quantized: Any) -> List[Tuple[Any, Any]]:
    """Pair the layers of integers with the float model's, in order.

    Both are `TfliteModel`s; the pairs are of their operators, the integer one first.
    """
    found, wanted = _list_weighted(quantized), _list_weighted(source)
    if [kind for kind, _ in found] != [kind for kind, _ in wanted]:
        return []
    pairs = []
    for (_, layer), (_, other) in zip(found, wanted):
        shapes = [
            model.shape(int(operator.inputs[1]))
            for model, operator in ((quantized, layer), (source, other))
        ]
        levels = read_levels(quantized, int(layer.inputs[0]))
        if shapes[0] == shapes[1] and levels and levels.scale:
            pairs.append((layer, other))
    return pairs


def _list_weighted(model: Any) -> List[Tuple[str, Any]]:
    """List the operators that multiply by constant weights, with their kinds."""
    found = []
    for kind, operator in zip(model.kinds, model.graph.operators):
        plain = kind.partition("+")[0]
        if plain in _WEIGHTED and read_constant(model, int(operator.inputs[1])) is not None:
            found.append((plain, operator))
    return found


def run_inputs(
    source: Any, layers: Sequence[Any], rows: Sequence[Sequence[np.ndarray]]
) -> Iterator[Dict[int, np.ndarray]]:
    """Yield for each sample what layers of the float model take, by the tensors' indices."""
    names = dict.fromkeys(source.names[int(layer.inputs[0])] for layer in layers)
    made = [name for name in names if source.indices[name] in source.producers]
    run = source.plain(made) if made else lambda row: []
    for row in rows:
        values = {index: value for index, value in zip(source.inputs, row) if index is not None}
        values.update(zip((source.indices[name] for name in made), run(row)))
        yield values


def count_products(model: Any) -> int:
    """Count the multiplications by constant weights that one sample takes."""
    total = 0
    for kind, operator in _list_weighted(model):
        shape = model.shape(int(operator.inputs[1]))
        terms = shape[1:3] if kind == "DEPTHWISE_CONV_2D" else shape[1:]
        total += int(np.prod(model.shape(int(operator.outputs[0])))) * int(np.prod(terms))
    return total


def find_kind(model: Any, operator: Any) -> str:
    """Return an operator's kind, without the activation that is fused to it."""
    position = next(p for p, o in enumerate(model.graph.operators) if o is operator)
    return str(model.kinds[position].partition("+")[0])


def has_bias(model: Any, operator: Any) -> bool:
    """Tell whether a layer of integers has a constant bias."""
    if len(operator.inputs) < 3 or int(operator.inputs[2]) < 0:
        return False
    place = int(operator.inputs[2])
    return model.dtype(place) in ("int32", "int64") and read_constant(model, place) is not None


def apply_weights(model: Any, operator: Any, inputs: np.ndarray) -> np.ndarray:
    """Return what a layer's weights make of its inputs, without bias and activation.

    The channels are the last axis.
    """
    tf = model.tf
    weights = read_floats(model, int(operator.inputs[1]))
    given = tf.constant(inputs, tf.float64)
    kind = find_kind(model, operator)
    if kind == "FULLY_CONNECTED":
        return np.reshape(inputs, (-1, weights.shape[1])) @ weights.T
    strides, dilations, padding = _read_geometry(model, operator)
    if kind == "CONV_2D":
        kernel = tf.constant(weights.transpose(1, 2, 3, 0))
        made = tf.nn.conv2d(given, kernel, strides, padding, dilations=dilations)
    else:
        channels = inputs.shape[-1]
        kernel = weights[0].reshape((*weights.shape[1:3], channels, -1))
        made = tf.nn.depthwise_conv2d(given, kernel, (1, *strides, 1), padding, dilations=dilations)
    return np.asarray(made)


def _read_geometry(model: Any, operator: Any) -> Tuple[Tuple[int, int], Tuple[int, int], str]:
    """Return a convolution's strides, its dilations and its padding by TensorFlow's name."""
    options = operator.builtinOptions
    padding = "SAME" if options.padding == model.schema.Padding.SAME else "VALID"
    return (
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
        padding,
    )


def list_terms(model: Any, operator: Any, inputs: np.ndarray) -> np.ndarray:
    """Return what a layer's weights are multiplied by, for inputs of one sample.

    The array has shape (1, places, terms), for depthwise convolutions (channels, places, terms).
    """
    kind = find_kind(model, operator)
    shape = model.shape(int(operator.inputs[1]))
    if kind == "FULLY_CONNECTED":
        return np.reshape(inputs, (1, -1, shape[1]))
    strides, dilations, padding = _read_geometry(model, operator)
    height, width = shape[1:3]
    if (height, width) == (1, 1) and strides == (1, 1):
        patches = np.reshape(inputs, (-1, inputs.shape[-1]))
    else:
        found = model.tf.image.extract_patches(
            inputs, (1, height, width, 1), (1, *strides, 1), (1, *dilations, 1), padding
        )
        patches = np.reshape(found, (-1, height * width * inputs.shape[-1]))
    if kind == "CONV_2D":
        return patches[None]
    split = patches.reshape((-1, height * width, inputs.shape[-1]))
    repeated = np.repeat(split, shape[3] // inputs.shape[-1], axis=2)
    return np.ascontiguousarray(repeated.transpose(2, 0, 1))


def to_rows(kind: str, weights: np.ndarray) -> np.ndarray:
    """Return a layer's weights as an array of shape (channels, terms)."""
    if kind == "DEPTHWISE_CONV_2D":
        return weights[0].reshape(-1, weights.shape[3]).T
    return weights.reshape(len(weights), -1)


def from_rows(kind: str, rows: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
    """Return the array of shape `shape` whose weights as (channels, terms) are `rows`."""
    return rows.T.reshape(shape) if kind == "DEPTHWISE_CONV_2D" else rows.reshape(shape)


def read_constant(model: Any, index: int) -> Optional[np.ndarray]:
    """Return a constant tensor; None if it is computed."""
    tensor = model.graph.tensors[index]
    data = model.model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), model.dtype(index))
    return values.reshape(model.shape(index))


def read_scales(model: Any, index: int) -> np.ndarray:
    """Return the scales of a constant of integers, in a shape that multiplies it."""
    tensor = model.graph.tensors[index]
    scales = np.array(tensor.quantization.scale, np.float64)
    shape = [1] * len(model.shape(index))
    shape[tensor.quantization.quantizedDimension if len(scales) > 1 else 0] = len(scales)
    return scales.reshape(shape)


def read_floats(model: Any, index: int) -> np.ndarray:
    """Return constant weights as the floats that they stand for."""
    values = np.asarray(read_constant(model, index), np.float64)
    return values if model.dtype(index) == "float32" else values * read_scales(model, index)


def write_constant(model: Any, index: int, values: np.ndarray) -> None:
    """Give a constant tensor other values, in a buffer of its own if others share the old one."""
    tensor = model.graph.tensors[index]
    buffers = model.model.buffers
    buffer = copy.copy(buffers[tensor.buffer])
    data = np.ascontiguousarray(values, model.dtype(index)).tobytes()
    buffer.data = np.frombuffer(data, np.uint8)
    if shares_buffer(model, index):
        tensor.buffer = len(buffers)
        buffers.append(buffer)
    else:
        buffers[tensor.buffer] = buffer


def shares_buffer(model: Any, index: int) -> bool:
    """Tell whether another tensor has the same bytes for its values."""
    own = model.graph.tensors[index].buffer
    return sum(t.buffer == own for graph in model.model.subgraphs for t in graph.tensors) > 1
