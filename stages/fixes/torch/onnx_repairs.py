"""Repairs of ONNX models that torch 1.5.1 has written."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import onnx
from onnx import TensorProto, helper

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_SAME_TYPES = ("Add", "Sub", "Mul", "Div", "Greater", "Less", "Equal", "Max", "Min")
_TO_BOOL = ("Greater", "Less", "Equal", "And", "Or", "Not", "Xor", "IsNaN")
_TO_INT = ("Shape", "Size", "ArgMax", "ArgMin", "NonZero")


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


def unify_types(model: onnx.ModelProto) -> bool:
    """Cast the integer operands of mixed operators to float; tell whether there were any.

    The exporter writes Python's numbers in scripted code as integers, which ONNX does not promote.
    """
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    types.update((t.name, t.data_type) for t in model.graph.initializer)
    return _unify(model.graph, types)


def _unify(graph: onnx.GraphProto, types: Dict[str, int]) -> bool:
    changed = False
    nodes: List[onnx.NodeProto] = []
    for node in graph.node:
        known = [types.get(name, 0) for name in node.input]
        floats = [t for t in known if t in _FLOATS]
        if node.op_type in _SAME_TYPES and floats:
            for i, kind in enumerate(known):
                if kind in (TensorProto.INT64, TensorProto.INT32):
                    cast = f"{node.output[0]}_{i}_float"
                    nodes.append(
                        helper.make_node("Cast", [node.input[i]], [cast], cast, to=floats[0])
                    )
                    node.input[i] = cast
                    changed = True
            known = [floats[0]] * len(known)
        nodes.append(node)
        changed |= _infer(node, known, types)
    if changed:
        del graph.node[:]
        graph.node.extend(nodes)
    return changed


def _infer(node: onnx.NodeProto, known: Sequence[int], types: Dict[str, int]) -> bool:
    """Record the output types that this repair needs; tell whether a subgraph was changed."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    changed = False
    kinds = [known[0] if known else 0] * len(node.output)
    if node.op_type == "Constant" and "value" in given:
        kinds = [given["value"].data_type]
    elif node.op_type == "Cast":
        kinds = [given["to"]]
    elif node.op_type in _TO_BOOL:
        kinds = [TensorProto.BOOL]
    elif node.op_type in _TO_INT:
        kinds = [TensorProto.INT64]
    elif node.op_type == "ConstantOfShape":
        kinds = [given["value"].data_type if "value" in given else TensorProto.FLOAT]
    elif node.op_type == "Where":
        kinds = [known[1]]
    elif node.op_type == "TopK":
        kinds = [known[0], TensorProto.INT64]
    elif node.op_type in ("If", "Loop"):
        for attribute in node.attribute:
            if not attribute.HasField("g"):
                continue
            body = attribute.g
            inner = dict(types)
            inner.update((v.name, v.type.tensor_type.elem_type) for v in body.input)
            if node.op_type == "Loop":
                inner.update((v.name, known[2 + i]) for i, v in enumerate(body.input[2:]))
            changed |= _unify(body, inner)
            results = [inner.get(v.name, 0) for v in body.output]
            kinds = results if node.op_type == "If" else results[1:]
    types.update(zip(node.output, kinds))
    return changed
