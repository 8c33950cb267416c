"""Groups of operators in frozen graphs that become one operator of TensorFlow Lite."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Set, Tuple

import numpy as np

from stages.fixes.graph.folding import (
    get_node_name,
    infer_shapes_and_types,
    list_data_inputs,
    make_constant_node,
    make_tensor_name,
    read_constants,
    replace_nodes,
    shorten_name,
)
from stages.frameworks.tensorflow import import_tensorflow

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


def merge_depthwise(graph_def: Any) -> Tuple[Any, bool]:
    """Merge a Conv2D per channel, between Split and Concat, into one DepthwiseConv2dNative.

    onnx-tf 1.6.0 writes depthwise convolutions this way. Return the graph and whether it changed.
    """
    nodes = {node.name: node for node in graph_def.node}
    arrays = read_constants(graph_def)
    merged: Dict[str, List[Any]] = {}
    for concat in graph_def.node:
        found = _match_channelwise(concat, nodes, arrays) if concat.op == "ConcatV2" else None
        if found is None:
            continue
        image, convolutions = found
        weights = [arrays[make_tensor_name(node.input[1])] for node in convolutions]
        filters = make_constant_node(f"{concat.name}/filters", np.concatenate(weights, axis=2))
        new = import_tensorflow().compat.v1.NodeDef()
        new.CopyFrom(convolutions[0])
        new.name, new.op = concat.name, "DepthwiseConv2dNative"
        del new.input[:]
        new.input.extend([image, filters.name])
        for attribute in ("use_cudnn_on_gpu", "explicit_paddings"):
            if attribute in new.attr:
                del new.attr[attribute]
        merged[concat.name] = [filters, new]
    if not merged:
        return graph_def, False
    result = [new for node in graph_def.node for new in merged.get(node.name, [node])]
    return replace_nodes(graph_def, result), True


def _match_channelwise(
    concat: Any, nodes: Dict[str, Any], arrays: Dict[str, np.ndarray]
) -> Optional[Tuple[str, List[Any]]]:
    """Return the tensor that is split into channels and the convolution of each, or None."""
    *parts, axis = list_data_inputs(concat)
    convolutions = [nodes[get_node_name(part)] for part in parts]
    first = convolutions[0]
    if any(node.op != "Conv2D" or _read_attrs(node) != _read_attrs(first) for node in convolutions):
        return None
    channels = 1 if first.attr["data_format"].s == b"NCHW" else 3
    split = nodes[get_node_name(first.input[0])]
    if split.op != "Split" or split.attr["num_split"].i != len(parts):
        return None
    weights = [arrays.get(make_tensor_name(node.input[1])) for node in convolutions]
    shape = None if weights[0] is None else weights[0].shape
    if shape is None or shape[2] != 1 or any(w is None or w.shape != shape for w in weights):
        return None
    axes = [arrays.get(make_tensor_name(name)) for name in (axis, split.input[0])]
    if any(found is None or int(found) % 4 != channels for found in axes):
        return None
    wanted = [f"{split.name}:{index}" for index in range(len(parts))]
    if [make_tensor_name(node.input[0]) for node in convolutions] != wanted:
        return None
    if first.attr["padding"].s == b"EXPLICIT":
        return None
    return split.input[1], convolutions


def _read_attrs(node: Any) -> Dict[str, bytes]:
    return {name: value.SerializeToString() for name, value in node.attr.items() if name[0] != "_"}


def merge_batchnorm(graph_def: Any, kept: Set[str]) -> Tuple[Any, bool]:
    """Merge factors and summands per channel after a convolution into its weights and one BiasAdd.

    Computed in float64: TensorFlow Lite's converter does the same in float32. `kept` are outputs.
    Return the graph and whether it changed.
    """
    arrays, (known, _) = read_constants(graph_def), infer_shapes_and_types(graph_def)
    readers: Dict[str, List[Any]] = {}
    for node in graph_def.node:
        for name in list_data_inputs(node):
            readers.setdefault(get_node_name(name), []).append(node)
    made: Dict[str, List[Any]] = {}
    for node in graph_def.node:
        if node.op not in _CONVOLUTIONS or node.attr["data_format"].s == b"NCHW":
            continue
        shape, weights = known[f"{node.name}:0"], arrays.get(make_tensor_name(node.input[1]))
        if weights is None or shape is None or shape[-1] is None:
            continue
        factor = np.ones(shape[-1])
        bias = np.zeros(shape[-1])
        end = node
        while end.name not in kept and len(readers.get(end.name, [])) == 1:
            step = _match_per_channel(readers[end.name][0], end.name, arrays, shape[-1])
            if step is None:
                break
            factor, bias, end = factor * step[0], bias * step[0] + step[1], readers[end.name][0]
        if end is node:
            continue
        # A depthwise filter has its channels in the last two axes, in the order of the result.
        axes = 1 if node.op == "Conv2D" else 2
        scaled = weights * factor.reshape(weights.shape[-axes:])
        filters = make_constant_node(f"{end.name}/weights", scaled.astype(weights.dtype))
        summand = make_constant_node(f"{end.name}/bias", bias.astype(weights.dtype))
        made[node.name] = [filters, node]
        node.input[1] = filters.name
        add = import_tensorflow().compat.v1.NodeDef(name=end.name, op="BiasAdd")
        add.input.extend([node.name, summand.name])
        add.attr["T"].CopyFrom(node.attr["T"])
        add.attr["data_format"].s = b"NHWC"
        made[end.name] = [summand, add]
    if not made:
        return graph_def, False
    result = [new for node in graph_def.node for new in made.get(node.name, [node])]
    return replace_nodes(graph_def, result), True


def _match_per_channel(
    node: Any, image: str, arrays: Dict[str, np.ndarray], channels: int
) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """Return an operator's factor and summand per channel in float64, or None if it does more."""
    names = [get_node_name(name) for name in list_data_inputs(node)]
    if node.op not in ("Add", "AddV2", "BiasAdd", "Mul", "Sub") or names.count(image) != 1:
        return None
    at = names.index(image)
    array = arrays.get(make_tensor_name(node.input[1 - at]))
    if array is None or array.size not in (1, channels) or (node.op == "Sub" and at == 1):
        return None
    if array.size == channels and array.shape[-1:] != (channels,):
        return None
    value = np.broadcast_to(array.astype(np.float64).ravel(), (channels,))
    if node.op == "Mul":
        return value, np.zeros(channels)
    return np.ones(channels), -value if node.op == "Sub" else value


def merge_clips(graph_def: Any, kept: Set[str]) -> Tuple[Any, bool]:
    """Merge a minimum with 6 and a maximum with 0 into Relu6, which a convolution fuses."""
    nodes = {node.name: node for node in graph_def.node}
    arrays = read_constants(graph_def)
    changed = False
    for node in graph_def.node:
        outer = _match_bound(node, arrays)
        inner = nodes.get(get_node_name(outer[0])) if outer is not None else None
        bound = _match_bound(inner, arrays) if inner is not None else None
        if outer is None or bound is None or inner is None:
            continue
        if {(node.op, outer[1]), (inner.op, bound[1])} == {("Minimum", 6.0), ("Maximum", 0.0)}:
            node.op = "Relu6"
            del node.input[:]
            node.input.append(bound[0])
            changed = True
    return graph_def, changed


def _match_bound(node: Any, arrays: Dict[str, np.ndarray]) -> Optional[Tuple[str, float]]:
    """Return the operand of a Minimum or Maximum and the number that bounds it, or None."""
    if node.op not in ("Minimum", "Maximum"):
        return None
    for image, bound in (node.input[:2], list(node.input[:2])[::-1]):
        array = arrays.get(make_tensor_name(bound))
        if array is not None and array.size == 1 and array.dtype.kind == "f":
            return str(image), float(array.ravel()[0])
    return None


def merge_padding(graph_def: Any, kept: Set[str]) -> Tuple[Any, bool]:
    """Replace a Pad with zeros before a convolution by padding SAME where the two are equal."""
    nodes = {node.name: node for node in graph_def.node}
    arrays, (known, _) = read_constants(graph_def), infer_shapes_and_types(graph_def)
    changed = False
    for node in graph_def.node:
        pad = nodes[get_node_name(node.input[0])] if node.op in _CONVOLUTIONS else None
        if pad is None or pad.op != "Pad" or node.attr["padding"].s != b"VALID":
            continue
        amounts, shape = (
            arrays.get(make_tensor_name(pad.input[1])),
            known[make_tensor_name(pad.input[0])],
        )
        kernel = known[make_tensor_name(node.input[1])]
        if amounts is None or shape is None or kernel is None or None in shape + kernel:
            continue
        last = node.attr["data_format"].s != b"NCHW"
        axes = (1, 2) if last else (2, 3)
        dilations = list(node.attr["dilations"].list.i) if "dilations" in node.attr else [1] * 4
        same = np.zeros((4, 2), int)
        for axis, size in zip(axes, kernel[:2]):
            stride = node.attr["strides"].list.i[axis]
            extent = (size - 1) * dilations[axis] + 1
            total = max((-(-shape[axis] // stride) - 1) * stride + extent - shape[axis], 0)
            same[axis] = total // 2, total - total // 2
        if np.array_equal(same, amounts):
            node.input[0] = pad.input[0]
            node.attr["padding"].s = b"SAME"
            changed = True
    return graph_def, changed


def drop_neutral(graph_def: Any, kept: Set[str]) -> Any:
    """Bypass operators that change nothing: readers of `x * 1`, `x + 0` and Concat(x) read x."""
    arrays, (known, _) = read_constants(graph_def), infer_shapes_and_types(graph_def)
    alias: Dict[str, str] = {}
    for node in graph_def.node:
        for index, name in enumerate(node.input):
            node.input[index] = alias.get(name, name)
        if node.name in kept:
            continue
        if node.op == "Split" and node.attr["num_split"].i == 1:
            alias[node.name] = node.input[1]
        elif node.op == "ConcatV2" and node.attr["N"].i == 1 or node.op == "Identity":
            alias[node.name] = node.input[0]
        neutral = {"Mul": 1, "Add": 0, "AddV2": 0}.get(node.op)
        if neutral is None:
            continue
        for image, other in (node.input[:2], list(node.input[:2])[::-1]):
            array = arrays.get(make_tensor_name(other))
            same = known[make_tensor_name(image)] == known[f"{node.name}:0"] is not None
            if array is not None and same and (array == neutral).all():
                alias[node.name] = shorten_name(make_tensor_name(image))
                break
    return graph_def
