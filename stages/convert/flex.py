"""Reproducible Flex operators in a .tflite file.

A Flex operator carries TensorFlow's own NodeDef, whose attributes the converter serialises in hash
table order, which differs from run to run. Once they are sorted, equal models have equal bytes.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

# FlexBuffers types. Custom options are in that format, as a vector of two strings: the operator's
# name and the NodeDef. The lower two bits of a type byte are the binary logarithm of a byte width.
# https://flatbuffers.dev/flatbuffers_internals.html (FlexBuffers)
_STRING = 5
_VECTOR = 10


def sort_attributes(content: bytes) -> bytes:
    """Return the model with the attributes of its Flex operators sorted; no size changes."""
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
            start, end = _find_second_string(options.tobytes())
            node = NodeDef.FromString(options[start:end].tobytes())
            # The same attributes in another order serialise to the same length.
            options[start:end] = np.frombuffer(node.SerializeToString(deterministic=True), np.uint8)
    return bytes(changed)


def _find_second_string(buffer: bytes) -> Tuple[int, int]:
    """Return the start and end of the second element of a FlexBuffer that holds two strings.

    Raises ValueError if it holds anything else.
    """

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
