"""ScatterND and ScatterElements, from builtin operators."""

from __future__ import annotations

from typing import List

import numpy as np
import tensorflow as tf

from stages.fixes.onnx_tf.emitter import Decline, Emitter, Inputs, Node, handles, require_static
from stages.fixes.onnx_tf.layout import Value


@handles("selection", "ScatterND")
def scatter_nd(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    data, indices, updates = inputs
    assert data is not None and indices is not None and updates is not None
    require_static(data, indices, updates)
    depth = int(indices.shape[-1] or 0)
    if indices.const is not None:
        sizes = [int(d or 0) for d in data.shape]
        lead = tuple(np.moveaxis(indices.const % np.array(sizes[:depth]), -1, 0))
        grid = np.arange(data.size).reshape(sizes)
        return [_replace(emitter, data, updates, grid[lead])]
    places = tf.cast(indices.tensor(), tf.int32)
    return [_scatter(emitter, data, places, updates.tensor())]


@handles("selection", "Scatter", "ScatterElements")
def scatter_elements(emitter: Emitter, node: Node, inputs: Inputs) -> List[Value]:
    data, indices, updates = inputs
    assert data is not None and indices is not None and updates is not None
    require_static(data, indices, updates)
    axis = node.get("axis", 0) % data.rank
    grid = np.indices([int(d or 0) for d in indices.shape])
    sizes = [int(d or 0) for d in data.shape]
    strides = [int(np.prod(sizes[i + 1 :], dtype=np.int64)) for i in range(data.rank)]
    offset = np.asarray(sum(grid[i] * strides[i] for i in range(data.rank) if i != axis), np.int32)
    if indices.const is not None:
        places = offset + (indices.const % sizes[axis]) * strides[axis]
        return [_replace(emitter, data, updates, places)]
    flat = Value.from_tensor(tf.reshape(data.tensor(), [-1]))
    index = tf.cast(indices.tensor(), tf.int32) * strides[axis] + tf.constant(offset)
    result = _scatter(emitter, flat, tf.reshape(index, [-1, 1]), tf.reshape(updates.tensor(), [-1]))
    return [emitter.wrap(tf.reshape(result.tensor(), sizes))]


def _replace(emitter: Emitter, data: Value, updates: Value, places: np.ndarray) -> Value:
    """Replace elements at constant places by one GATHER from the data followed by the updates.

    `places` are positions in the flattened data, in the updates' order.
    """
    source = np.arange(data.size, dtype=np.int32)
    source[places.ravel()] = data.size + np.arange(updates.size, dtype=np.int32)
    both = tf.concat([tf.reshape(v.tensor(), [-1]) for v in (data, updates)], 0)
    moved = tf.gather(both, tf.constant(source))
    return emitter.wrap(tf.reshape(moved, [int(d or 0) for d in data.shape]))


def _scatter(emitter: Emitter, data: Value, places: tf.Tensor, updates: tf.Tensor) -> Value:
    """Emit SCATTER_ND of the updates, and of ones, which tell where the data remains.

    SCATTER_ND adds up updates to one place, of which PyTorch takes any. Their mean is one of them
    if they are equal, as they are when a single number is scattered.
    """
    if data.dtype != tf.float32:
        raise Decline
    shape = [int(d or 0) for d in data.shape]
    total = tf.scatter_nd(places, updates, shape)
    count = tf.scatter_nd(places, tf.ones_like(updates), shape)
    mean = total / tf.maximum(count, 1.0)
    return emitter.wrap(tf.where(tf.greater(count, 0.5), mean, data.tensor()))
