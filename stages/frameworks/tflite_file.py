"""Writing a .tflite file from the tree of objects that TensorFlow's schema code reads it into."""

from __future__ import annotations

from typing import Any

import numpy as np

_IDENTIFIER = b"TFL3"
# What schema.fbs demands of a buffer.
_ALIGNMENT = 16


def pack_model(model: Any) -> bytes:
    """Write a model with its buffers aligned, as the format demands."""
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
        """A builder that aligns the bytes of buffers, which the generated code does not."""

        def CreateNumpyVector(self, x: np.ndarray) -> Any:
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.StartVector(1, x.size, _ALIGNMENT)
            self.head = self.head - x.size
            self.Bytes[self.head : self.head + x.size] = x.tobytes()
            return self.EndVector(x.size)

    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
