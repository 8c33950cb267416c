"""A SignatureDef in a .tflite file: the model's inputs and outputs under the user's own names."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from stages.kit.contract import Option, Tensor, flag

SIGNATURE = Option("signature", flag, False, "name the inputs and outputs in a SignatureDef")
# What interpreters and tools look for without being told a name.
_KEY = "serving_default"

# The schema's force_align of a buffer.
_ALIGNMENT = 16

# A tensor and its number in the model.
Place = Tuple[Tensor, int]


def _make_builder(base: Any) -> Any:
    """Return a builder that aligns weights as the schema says, which Python's does not."""

    class Builder(base):  # type: ignore[misc]
        def CreateNumpyVector(self, values: Any) -> Any:
            self.StartVector(values.itemsize, values.size, max(_ALIGNMENT, values.itemsize))
            data = values.tobytes()
            self.head = self.Head() - len(data)
            self.Bytes[self.Head() : self.Head() + len(data)] = data
            return self.EndVector(values.size)

    return Builder


def add_signature(content: bytes, inputs: Sequence[Place], outputs: Sequence[Place]) -> bytes:
    """Return the model with a SignatureDef that names these tensors; nothing else changes.

    TensorFlow 2.4 reads its key in another field than later releases: both hold it.
    """
    import flatbuffers
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
    builder = _make_builder(flatbuffers.Builder)(len(content) + 1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
