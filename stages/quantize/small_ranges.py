"""The fix `weight-ranges`: constants without their minimum and maximum for each channel.

TensorFlow 2.4's quantiser leaves in the file what it has computed scales from. Nothing reads it: in
a model of many narrow channels it is a tenth of the bytes.
"""

from __future__ import annotations

from stages.frameworks.tflite_file import pack_model


def drop_weight_ranges(content: bytes) -> bytes:
    """Return the model with the ranges of its constants left out."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) and tensor.quantization is not None:
                tensor.quantization.min = tensor.quantization.max = None
    return pack_model(model)
