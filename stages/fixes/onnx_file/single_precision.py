"""The fix `single-precision`: float16, bfloat16 and float64 in an ONNX file become float32.

TensorFlow Lite's builtins compute in float32, and ONNX Runtime 1.4 has few kernels of the others.
"""

from __future__ import annotations

from typing import Any, Iterator, List

import numpy as np

from stages.fixes.onnx_file.refusal import list_graphs

# TensorProto.DataType.
_FLOAT, _HALF, _DOUBLE, _BFLOAT = 1, 10, 11, 16
_NAMES = {_HALF: "float16", _DOUBLE: "float64", _BFLOAT: "bfloat16"}
# Attributes that hold a type.
_TYPE_ATTRIBUTES = {"to": ("Cast",), "dtype": ()}
_LARGEST = np.finfo(np.float32)


def make_single(model: Any) -> List[str]:
    """Turn every float of a model into float32; return the names of the types that were there."""
    found = {_NAMES[kind] for kind in _turn_graph(model.graph)}
    return sorted(found)


def _turn_graph(graph: Any) -> Iterator[int]:
    """Yield the type of everything that is turned."""
    for tensor in graph.initializer:
        yield from _turn_tensor(tensor)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.elem_type in _NAMES:
            yield kind.elem_type
            kind.elem_type = _FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield from _turn_tensor(attribute.t)
            for inner in list_graphs(attribute):
                yield from _turn_graph(inner)
            takers = _TYPE_ATTRIBUTES.get(attribute.name)
            holds_type = takers is not None and (not takers or node.op_type in takers)
            if holds_type and attribute.i in _NAMES:
                yield attribute.i
                attribute.i = _FLOAT


def _turn_tensor(tensor: Any) -> Iterator[int]:
    if tensor.data_type not in _NAMES or tensor.data_location:
        return
    yield tensor.data_type
    array = _read(tensor)
    name, dims = tensor.name, list(tensor.dims)
    tensor.Clear()
    tensor.name, tensor.data_type = name, _FLOAT
    tensor.dims.extend(dims)
    tensor.raw_data = array.astype("<f4").tobytes()


def _read(tensor: Any) -> np.ndarray:
    """Return the values as float32; those of float64 that are too large, as the largest there."""
    if tensor.data_type == _BFLOAT:
        # The upper half of a float32.
        if tensor.HasField("raw_data"):
            upper = np.frombuffer(tensor.raw_data, "<u2")
        else:
            upper = np.array(tensor.int32_data, np.uint16)
        return (upper.astype(np.uint32) << 16).view(np.float32)
    import onnx

    array = np.array(onnx.numpy_helper.to_array(tensor))
    if tensor.data_type == _DOUBLE:
        with np.errstate(over="ignore"):
            finite = np.isfinite(array)
            array = np.where(finite, np.clip(array, _LARGEST.min, _LARGEST.max), array)
    return array.astype(np.float32)
