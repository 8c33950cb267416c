"""Pruning of the finished graph, to a form that TensorFlow 2.4 does not damage."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np
import onnx
import tensorflow as tf

from stages.fixes.onnx_tf.onnx_graph import Graph, list_all_inputs

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")

# ONNX operators for which TensorFlow wants channels last.
_IMAGE_OPERATORS = (
    "AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "InstanceNormalization", "LRN",
    "MaxPool", "Resize", "SpaceToDepth", "Upsample",
)  # fmt: skip

# Operators that work in any order of axes, so that their inputs may as well be channels-last.
_INDIFFERENT = (
    "Abs", "Add", "BatchNormalization", "Clip", "Concat", "Div", "Elu", "Exp", "HardSigmoid",
    "Identity", "LeakyRelu", "Log", "Max", "Min", "Mul", "Neg", "PRelu", "Pad", "Pow", "Relu",
    "Sigmoid", "Slice", "Softplus", "Split", "Sqrt", "Sub", "Tanh",
)  # fmt: skip


def feeds_images(graph: Graph, name: str) -> bool:
    """Tell whether an input reaches an operator on images through layout-agnostic operators."""
    consumers: Dict[str, List[onnx.NodeProto]] = {}
    for node in graph.nodes:
        for tensor in list_all_inputs(node):
            consumers.setdefault(tensor, []).append(node)
    seen, pending = set(), [name]
    while pending:
        tensor = pending.pop()
        for node in consumers.get(tensor, []):
            if node.op_type in _IMAGE_OPERATORS:
                return True
            if node.op_type in _INDIFFERENT:
                pending += [out for out in node.output if out not in seen]
                seen.update(node.output)
    return False


def prune(graph: tf.Graph, wanted: Sequence[str]) -> Any:
    """Return the GraphDef of these operations and what they need, in the graph's order."""
    return tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), list(wanted))


def merge_input_transposes(graph: Any) -> None:
    """Merge Reshape, Transpose, Reshape at an input into one Transpose where that is safe.

    TensorFlow 2.4's layout pass moves a transpose from NCHW to NHWC past its consumers, but never
    past a convolution: one is safe if only convolutions consume it, or a single Pad before them.
    """
    nodes = {node.name: node for node in graph.node}
    consumers: Dict[str, List[Any]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name.split(":")[0].lstrip("^"), []).append(node)
    for last in graph.node:
        turn = nodes.get(last.input[0]) if last.op == "Reshape" else None
        first = nodes.get(turn.input[0]) if turn is not None and turn.op == "Transpose" else None
        source = nodes.get(first.input[0]) if first is not None and first.op == "Reshape" else None
        if source is None or source.op != "Placeholder":
            continue
        shape = [d.size for d in source.attr["shape"].shape.dim]
        target = tf.make_ndarray(nodes[last.input[1]].attr["value"].tensor).tolist()
        merged = tf.make_ndarray(nodes[first.input[1]].attr["value"].tensor).tolist()
        if len(shape) != 4 or target != [shape[0], shape[2], shape[3], shape[1]]:
            continue
        if merged not in (
            [shape[0], shape[1], shape[2] * shape[3]],
            [shape[1], shape[2] * shape[3]],
        ):
            continue
        if not _is_safe(consumers.get(last.name, []), consumers):
            continue
        last.op = "Transpose"
        last.input[0] = source.name
        nodes[last.input[1]].attr["value"].tensor.CopyFrom(
            tf.make_tensor_proto(np.array([0, 2, 3, 1], np.int32))
        )
        last.attr["Tperm"].CopyFrom(last.attr["Tshape"])
        del last.attr["Tshape"]


def _is_safe(readers: Sequence[Any], consumers: Dict[str, List[Any]]) -> bool:
    if all(reader.op in _CONVOLUTIONS for reader in readers):
        return True
    if len(readers) != 1 or readers[0].op != "Pad":
        return False
    return all(reader.op in _CONVOLUTIONS for reader in consumers.get(readers[0].name, []))
