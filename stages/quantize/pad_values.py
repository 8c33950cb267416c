"""The fix `integer-pads`: PADV2 of integers that pads with an integer.

TensorFlow 2.4's quantiser leaves the value in float, and the interpreter refuses the model: so it
goes with each padded max pool, of every ResNet.
"""

from __future__ import annotations

from typing import Any, Tuple

import numpy as np

from stages.frameworks.tflite_file import pack_model
from stages.frameworks.tflite_model import TfliteModel
from stages.quantize.layers.noise import read_levels
from stages.quantize.layers.weighted import read_constant


def mend_pads(content: bytes) -> Tuple[bytes, int]:
    """Return the model with integers to pad integers with, and how many there were to mend.

    A value beyond the levels, such as the least float that a max pool pads with, becomes the end.
    """
    model = TfliteModel(content, ())
    count = 0
    for kind, operator in zip(model.kinds, model.graph.operators):
        if kind == "PADV2" and _mend(model, operator):
            count += 1
    return (pack_model(model.model), count) if count else (content, 0)


def _mend(model: TfliteModel, operator: Any) -> bool:
    given, value = int(operator.inputs[0]), int(operator.inputs[2])
    levels, constant = read_levels(model, given), read_constant(model, value)
    if levels is None or not levels.scale or constant is None or constant.dtype != np.float32:
        return False
    tensor = model.graph.tensors[value]
    added = type(tensor)()
    added.name = tensor.name + b"_quantized"
    added.shape, added.type = tensor.shape, model.graph.tensors[given].type
    added.quantization = model.graph.tensors[given].quantization
    buffer = type(model.model.buffers[0])()
    integers = levels.quantize(constant.astype(np.float64))
    buffer.data = np.frombuffer(integers.tobytes(), np.uint8)
    added.buffer = len(model.model.buffers)
    model.model.buffers.append(buffer)
    operator.inputs = np.array([given, operator.inputs[1], len(model.graph.tensors)], np.int32)
    model.graph.tensors.append(added)
    return True
