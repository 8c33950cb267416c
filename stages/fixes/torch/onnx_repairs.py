"""Repairs of ONNX models that torch 1.5.1 has written."""

from __future__ import annotations

from typing import Any, Sequence

import onnx
from onnx import helper


def restore_input_names(
    model: onnx.ModelProto, names: Sequence[str], inputs: Sequence[Any]
) -> bool:
    """Restore the names of inputs that are outputs too; tell whether it was needed and possible.

    The exporter names inputs first and then outputs, so such an input has the output's name.
    """
    graph = model.graph
    outputs = [value.name for value in graph.output]
    lost = [value for value in graph.input if value.name in outputs]
    present = {value.name for value in graph.input}
    free = [
        (name, list(tensor.shape)) for name, tensor in zip(names, inputs) if name not in present
    ]
    restored = []
    for value in lost:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        match = next((item for item in free if item[1] == shape), None)
        if match is None:
            return False
        free.remove(match)
        restored.append((value, match[0]))
    for value, new in restored:
        old = value.name
        value.name = new
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new
        graph.node.append(helper.make_node("Identity", [new], [old], f"Identity_{old}"))
    return bool(lost)
