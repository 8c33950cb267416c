"""A SignatureDef in a .tflite file: the model's inputs and outputs under the user's own names."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from stages.frameworks.tflite_file import pack_model
from stages.kit.contract import Option, Tensor, flag

SIGNATURE = Option("signature", flag, False, "name the inputs and outputs in a SignatureDef")
# What interpreters and tools look for without being told a name.
_KEY = "serving_default"

# A tensor and its number in the model.
Place = Tuple[Tensor, int]


def add_signature(content: bytes, inputs: Sequence[Place], outputs: Sequence[Place]) -> bytes:
    """Return the model with a SignatureDef that names these tensors; nothing else changes.

    TensorFlow 2.4 reads its key in another field than later releases: both hold it.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))

    def name(places: Sequence[Place]) -> List[Any]:
        maps = []
        for tensor, index in places:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = tensor.name, index
            maps.append(entry)
        return maps

    signature = schema.SignatureDefT()
    signature.inputs, signature.outputs = name(inputs), name(outputs)
    signature.methodName = signature.key = _KEY
    model.signatureDefs = [signature]
    return pack_model(model)
