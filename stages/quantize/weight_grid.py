"""Weights that were trained on a grid of 8 bits keep it in the int8 model.

TensorFlow 2.4's converter spans the grid of each channel by its largest weight. Weights of another
grid are rounded once more, which moves one in two by up to half a step. Here each channel's own
grid is found from its weights: the largest step of which all are multiples. If there is one, the
weights are written as these multiples, without any error.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, List, Optional, Tuple

import numpy as np

from stages.frameworks.tflite_file import get_builtin, pack_model

# The specification of 8-bit quantisation leaves out -128 for weights: kernels rely on it.
_LARGEST = 127
# Of a step; float32 leaves 1e-5 of it.
_TOLERANCE = 2e-3


def keep_weight_grids(content: bytes, floats: bytes) -> Tuple[bytes, str]:
    """Return an int8 model with the weights of its float model where these lie on a grid.

    Both come from one graph by one converter. Also return a note on what could not be kept, or ''.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model, source = (
        schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
        for data in (content, floats)
    )
    wanted, given = _list_weighted(schema, model), _list_weighted(schema, source)
    if [kind for kind, _ in wanted] != [kind for kind, _ in given]:
        return content, "The layers' trained weights were rounded anew: the layers do not pair up."
    kept, cut, lost = 0, 0, Counter()
    done = set()
    for (kind, operator), (_, other) in zip(wanted, given):
        tensors = model.subgraphs[0].tensors
        weights = tensors[operator.inputs[1]]
        if weights.type != schema.TensorType.INT8 or operator.inputs[1] in done:
            continue
        done.add(operator.inputs[1])
        exact = _read(source, source.subgraphs[0].tensors[other.inputs[1]], np.float32)
        rounded = _read(model, weights, np.int8)
        if exact is None or rounded is None or exact.shape != rounded.shape:
            lost[kind] += 1
            continue
        old = np.array(weights.quantization.scale, np.float64)
        # A row for each scale.
        axis = weights.quantization.quantizedDimension if len(old) > 1 else 0
        moved = np.moveaxis(exact, axis, 0)
        rows = moved.reshape(len(old), -1)
        steps = [find_step(row) for row in rows]
        if None in steps:
            lost[kind] += 1
            continue
        new = np.array(steps, np.float32)
        multiples = np.round(rows / new[:, None].astype(np.float64))
        cut += int(np.count_nonzero(multiples < -_LARGEST))
        multiples = np.maximum(multiples, -_LARGEST).astype(np.int8)
        data = np.moveaxis(multiples.reshape(moved.shape), 0, axis).tobytes()
        model.buffers[weights.buffer].data = np.frombuffer(data, np.uint8)
        weights.quantization.scale = new
        _scale_bias(schema, model, operator, old, new)
        kept += 1
    notes = []
    if lost:
        layers = ", ".join(f"{count} {kind}" for kind, count in sorted(lost.items()))
        notes.append(
            "The weights of these layers lie on no grid that int8 has for them, and were rounded "
            f"anew: {layers}."
        )
    if cut:
        notes.append(
            f"{cut} weights of -128 steps became -127, the least that TensorFlow Lite allows."
        )
    return (pack_model(model) if kept else content), " ".join(notes)


def find_step(values: np.ndarray) -> Optional[float]:
    """Return the largest step of which all values are multiples of at most 128; None without one.

    A step of 1 for values that are all zero.
    """
    sizes = np.unique(np.abs(values.astype(np.float64)))
    largest = float(sizes[-1])
    if not largest:
        return 1.0
    sizes = sizes[sizes > largest * 1e-3]
    for count in range(1, _LARGEST + 2):
        step = largest / count
        if np.abs(sizes / step - np.round(sizes / step)).max() < _TOLERANCE:
            # The mean over all is nearer to the trained step than one value alone.
            return float(np.sum(sizes) / np.sum(np.round(sizes / step)))
    return None


def _list_weighted(schema: Any, model: Any) -> List[Tuple[str, Any]]:
    """List the operators that multiply by weights, in their order, with their names."""
    names = {
        getattr(schema.BuiltinOperator, name): name
        for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    }
    found = []
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = names.get(get_builtin(code))
        if kind:
            found.append((kind, operator))
    return found


def _read(model: Any, tensor: Any, kind: Any) -> Optional[np.ndarray]:
    """Return a constant tensor; None if it is computed, or of another type."""
    data = model.buffers[tensor.buffer].data
    shape = tuple(tensor.shape)
    if data is None or len(data) != int(np.prod(shape)) * np.dtype(kind).itemsize:
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), kind).reshape(shape)


def _scale_bias(schema: Any, model: Any, operator: Any, old: np.ndarray, new: np.ndarray) -> None:
    """Write an operator's bias in its new steps, each the input's step times the weights'."""
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return
    bias = model.subgraphs[0].tensors[operator.inputs[2]]
    known = _read(model, bias, np.int32)
    if known is None or bias.type != schema.TensorType.INT32:
        raise ValueError(f"the bias '{bias.name}' of an int8 layer is no constant")
    ratio = old / new.astype(np.float64)
    limits = np.iinfo(np.int32)
    scaled = np.clip(np.round(known * ratio), limits.min, limits.max).astype(np.int32)
    model.buffers[bias.buffer].data = np.frombuffer(scaled.tobytes(), np.uint8)
    scale = np.array(bias.quantization.scale, np.float64) / ratio
    bias.quantization.scale = scale.astype(np.float32)
