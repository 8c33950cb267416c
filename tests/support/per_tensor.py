"""`python per_tensor.py FILE`: give a depthwise convolution of an int8 model one scale for all.

Runs under TensorFlow 2.4. The weights are those that the file has, rounded to the coarser scale.
"""

import sys
from pathlib import Path

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from stages.frameworks.tflite_file import pack_model


def coarsen(content):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    graph = model.subgraphs[0]
    kinds = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    depthwise = schema.BuiltinOperator.DEPTHWISE_CONV_2D
    operator = next(o for o in graph.operators if kinds[o.opcodeIndex] == depthwise)
    given, weights, bias = (graph.tensors[i] for i in operator.inputs)
    scales = np.asarray(weights.quantization.scale, np.float64)
    buffer = model.buffers[weights.buffer]
    floats = np.frombuffer(bytes(bytearray(buffer.data)), np.int8).reshape(weights.shape) * scales
    # One channel is far larger than the others, as after a BatchNorm that was folded.
    floats[..., 0] *= 40
    scale = np.abs(floats).max() / 127
    buffer.data = np.frombuffer(np.round(floats / scale).astype(np.int8).tobytes(), np.uint8)
    weights.quantization.scale, weights.quantization.zeroPoint = [float(scale)], [0]
    old = np.asarray(bias.quantization.scale, np.float64)
    values = np.frombuffer(bytes(bytearray(model.buffers[bias.buffer].data)), np.int32) * old
    new = float(given.quantization.scale[0] * scale)
    stored = np.round(values / new).astype(np.int32).tobytes()
    model.buffers[bias.buffer].data = np.frombuffer(stored, np.uint8)
    bias.quantization.scale, bias.quantization.zeroPoint = [new], [0]
    return pack_model(model)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_bytes(coarsen(path.read_bytes()))
