"""An ONNX model that takes pixels, of one that takes prepared images.

Scale, mean, deviation and the order of channels are one convolution of 1 x 1: exact in float32 but
for its rounding, and in an int8 model it has a scale for each channel, where a multiplication by
constants would round these to one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np

from stages.kit.contract import Tensor
from stages.kit.pixels import Pixels, Preprocessing


def embed_file(path: Path, inputs: Sequence[Tensor], preprocessing: Preprocessing) -> None:
    """Put the preprocessing into the ONNX model of a file; without any the file stays as it is."""
    import onnx

    if preprocessing:
        model = onnx.load(str(path))
        embed(model, inputs, preprocessing)
        path.write_bytes(model.SerializeToString(deterministic=True))


def embed(model: Any, inputs: Sequence[Tensor], preprocessing: Preprocessing) -> None:
    """Put the preprocessing before the inputs of a model, which keep their names."""
    for tensor, pixels in zip(inputs, preprocessing.inputs):
        if pixels is not None:
            _embed(model, tensor.name, pixels)


def _embed(model: Any, name: str, pixels: Pixels) -> None:
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    prepared = f"{name}_prepared"
    _rename(graph, name, prepared)
    value = next(value for value in graph.input if value.name == name)
    steps = []
    if pixels.dtype == "uint8":
        value.type.tensor_type.elem_type = TensorProto.UINT8
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if pixels.axis == 3:
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    channels = len(pixels.mean)
    factors = np.diag(pixels.scale / np.array(pixels.std))
    if pixels.swapped:
        factors = factors[:, ::-1]
    weights = {
        f"{name}_factors": factors.reshape(channels, channels, 1, 1),
        f"{name}_shift": -np.array(pixels.mean) / np.array(pixels.std),
    }
    for key, array in weights.items():
        constant = numpy_helper.from_array(np.ascontiguousarray(array, np.float32), key)
        graph.initializer.append(constant)
        if model.ir_version < 4:  # in which every constant is an input as well
            graph.input.append(
                helper.make_tensor_value_info(key, TensorProto.FLOAT, list(array.shape))
            )
    steps.append(("Conv", list(weights), {"kernel_shape": [1, 1]}))
    if pixels.axis == 3:
        steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
    given = name
    for number, (kind, constants, settings) in enumerate(steps):
        made = prepared if number == len(steps) - 1 else f"{name}_step_{number}"
        node = helper.make_node(kind, [given, *constants], [made], name=made, **settings)
        graph.node.insert(number, node)
        given = made


def _rename(graph: Any, old: str, new: str) -> None:
    """Let a graph's operators, those of branches and loops too, read another tensor."""
    for node in graph.node:
        for position, read in enumerate(node.input):
            if read == old:
                node.input[position] = new
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, old, new)
