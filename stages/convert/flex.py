"""Flex operators in a .tflite file, written the same each time.

A Flex operator carries TensorFlow's own NodeDef, whose attributes the converter serialises in the
order of a hash table, which differs from run to run. Sorted, equal models are equal bytes.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

# Types of FlexBuffers, the format of custom options: a vector of two strings, the operator's name
# and the NodeDef. The lower two bits of a type byte are the binary logarithm of a width in bytes.
# https://flatbuffers.dev/flatbuffers_internals.html (FlexBuffers)
_STRING = 5
_VECTOR = 10


def sort_attributes(content: bytes) -> bytes:
    """The model with the attributes of its Flex operators sorted; nothing changes its size."""
    from tensorflow.compat.v1 import NodeDef
    from tensorflow.lite.python import schema_py_generated as schema

    changed = bytearray(content)
    model = schema.Model.GetRootAsModel(changed, 0)
    flex = [
        (model.OperatorCodes(i).CustomCode() or b"").startswith(b"Flex")
        for i in range(model.OperatorCodesLength())
    ]
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for number in range(graph.OperatorsLength()):
            operator = graph.Operators(number)
            if not flex[operator.OpcodeIndex()] or not operator.CustomOptionsLength():
                continue
            options = operator.CustomOptionsAsNumpy()  # a view of `changed`
            start, end = _second_string(options.tobytes())
            node = NodeDef.FromString(options[start:end].tobytes())
            # Nothing but the order of equal parts differs, so the length is the same.
            options[start:end] = np.frombuffer(node.SerializeToString(deterministic=True), np.uint8)
    return bytes(changed)


def _second_string(buffer: bytes) -> Tuple[int, int]:
    """Where the second element of a FlexBuffer that is a vector of strings begins and ends."""

    def number(at: int, width: int) -> int:
        return int.from_bytes(buffer[at : at + width], "little")

    kind, width = buffer[-2], buffer[-1]
    root = len(buffer) - 2 - width
    vector, width = root - number(root, width), 1 << (kind & 3)
    count = number(vector - width, width)
    element = buffer[vector + count * width + 1]
    if kind >> 2 != _VECTOR or count != 2 or element >> 2 != _STRING:
        raise ValueError("the custom options of a Flex operator are not a name and a NodeDef")
    place = vector + width
    start = place - number(place, width)
    return start, start + number(start - (1 << (element & 3)), 1 << (element & 3))
