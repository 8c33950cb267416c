"""Rewrites of the ONNX graph before anything is emitted."""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from typing import Dict, List, Optional, Set, Tuple

import numpy as np
import onnx
from onnx import helper

from stages.fixes.onnx_tf.channel_order import fold_shuffles
from stages.fixes.onnx_tf.folding import fold, read_constant
from stages.fixes.onnx_tf.layout import Value
from stages.fixes.onnx_tf.onnx_graph import (
    Graph,
    decode_attributes,
    list_all_inputs,
    read_attributes,
)


def rewrite(graph: Graph, fixes: Set[str]) -> Tuple[Set[str], List[str]]:
    """Apply the rewrites of these fixes; return the fixes that changed something, and notes."""
    used: Set[str] = set()
    notes: List[str] = []
    for fix, function in _REWRITES:
        if fix not in fixes:
            continue
        nodes, consts = copy.deepcopy(graph.nodes), dict(graph.consts)
        channels = dict(graph.channels)
        try:
            if function(graph):
                used.add(fix)
        except Exception as error:  # a defect of ours must not cost the conversion
            traceback.print_exc()
            graph.nodes, graph.consts, graph.channels = nodes, consts, channels
            notes.append(
                f"The fix '{fix}' failed, and was left out in part: {type(error).__name__}: "
                f"{str(error)[:200]}"
            )
    return used, notes


def _lift_constants(graph: Graph) -> None:
    lifted = [node for node in graph.nodes if node.op_type == "Constant"]
    for node in lifted:
        graph.consts[node.output[0]] = read_constant(read_attributes(node))
    # Of an open batch, the shapes that reshapes take are computed from the input's: known ones make
    # constants of them, which the rewrites below look for.
    for node in graph.nodes:
        shape = graph.get_input_shape(node.input[0]) if node.op_type == "Shape" else None
        if shape is not None and node.output[0] not in graph.outputs:
            graph.consts[node.output[0]] = np.array(shape, np.int64)
            lifted.append(node)
    graph.remove(lifted)
    computed = []
    for node in graph.nodes:
        known = node.input and all(not name or name in graph.consts for name in node.input)
        if not known or len(node.output) != 1 or node.output[0] in graph.outputs:
            continue
        values = [Value.from_const(graph.consts[name]) if name else None for name in node.input]
        result = fold(node.op_type, decode_attributes(node), values)
        if result is not None and result[0].const is not None:
            graph.consts[node.output[0]] = result[0].const
            computed.append(node)
    graph.remove(computed)


def _drop_identities(graph: Graph) -> None:
    """Drop Identity and, as this is inference, Dropout: their readers read their input instead."""
    alias: Dict[str, str] = {}
    dropped = []
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = alias.get(name, name)
        if node.op_type in ("Identity", "Dropout") and not set(node.output) & set(graph.outputs):
            alias[node.output[0]] = node.input[0]
            dropped.append(node)
    if any(a.HasField("g") for node in graph.nodes for a in node.attribute):
        # Keep those whose output a subgraph reads by name.
        dropped = [node for node in dropped if not _is_read_by_subgraph(graph, node.output[0])]
    graph.remove(dropped)


def _is_read_by_subgraph(graph: Graph, name: str) -> bool:
    return any(
        name in list_all_inputs(node)[len(node.input) :] for node in graph.nodes if node.attribute
    )


def _find_sole_producer(
    producers: Dict[str, onnx.NodeProto], uses: Counter, name: str, *kinds: str
) -> Optional[onnx.NodeProto]:
    node = producers.get(name)
    if node is None or node.op_type not in kinds or uses[name] != 1:
        return None
    return node


def _fold_batchnorm(graph: Graph) -> bool:
    """Fold a BatchNormalization, in float64, into the weights of the operator before it."""
    folded = []
    uses = graph.uses()
    producers = graph.map_producers()
    for norm in graph.nodes:
        if norm.op_type != "BatchNormalization":
            continue
        before = _find_sole_producer(
            producers, uses, norm.input[0], "Conv", "ConvTranspose", "Gemm"
        )
        names = list(norm.input[1:5])
        if before is None or any(name not in graph.consts for name in names):
            continue
        given = read_attributes(before)
        if any(name and name not in graph.consts for name in before.input[1:]):
            continue
        if before.op_type == "Gemm" and (given.get("alpha", 1) != 1 or given.get("beta", 1) != 1):
            continue
        scale, bias, mean, variance = (graph.consts[n].astype(np.float64) for n in names)
        factor = scale / np.sqrt(variance + read_attributes(norm).get("epsilon", 1e-5))
        weight = graph.consts[before.input[1]].astype(np.float64)
        if before.op_type == "Conv":
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        elif before.op_type == "Gemm":
            weight = weight * (factor[:, None] if given.get("transB") else factor)
        else:
            group = given.get("group", 1)
            split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
            shape = (group, 1, -1, *[1] * (weight.ndim - 2))
            weight = (split * factor.reshape(shape)).reshape(weight.shape)
        old = 0.0
        if len(before.input) > 2 and before.input[2]:
            old = graph.consts[before.input[2]].astype(np.float64)
        name = graph.make_fresh_name(f"{norm.output[0]}_weight")
        graph.consts[name] = weight.astype(np.float32)
        shift = graph.make_fresh_name(f"{norm.output[0]}_bias")
        graph.consts[shift] = ((old - mean) * factor + bias).astype(np.float32)
        del before.input[1:]
        before.input.extend([name, shift])
        before.output[0] = norm.output[0]
        producers[norm.output[0]] = before
        folded.append(norm)
    graph.remove(folded)
    return bool(folded)


def _merge_pads(graph: Graph) -> bool:
    """Merge a Pad of zeros before a convolution into the convolution's own padding."""
    merged = []
    uses = graph.uses()
    producers = graph.map_producers()
    for node in graph.nodes:
        if node.op_type != "Conv":
            continue
        pad = _find_sole_producer(producers, uses, node.input[0], "Pad")
        if pad is None or len(pad.input) < 2 or node.input[1] not in graph.consts:
            continue
        given, own = read_attributes(pad), read_attributes(node)
        amounts = graph.consts.get(pad.input[1])
        value = np.zeros(1)
        if len(pad.input) > 2 and pad.input[2]:
            value = graph.consts.get(pad.input[2], np.ones(1))
        auto = own.get("auto_pad", b"NOTSET")
        if amounts is None or given.get("mode", b"constant") != b"constant" or value.any():
            continue
        if auto != b"NOTSET" or (amounts < 0).any():
            continue
        rank = len(amounts) // 2
        begin, end = amounts[:rank], amounts[rank:]
        if begin[:2].any() or end[:2].any():
            continue
        old = own.get("pads", [0] * (2 * (rank - 2)))
        total = [int(a) + int(b) for a, b in zip([*begin[2:], *end[2:]], old)]
        kept = [a for a in node.attribute if a.name != "pads"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("pads", total)])
        node.input[0] = pad.input[0]
        merged.append(pad)
    graph.remove(merged)
    return bool(merged)


def _add_to_bias(graph: Graph) -> bool:
    """Merge a constant per channel, or one for all, that is added to a convolution into its bias.

    Hard sigmoids begin like this, and so do normalizations that scripts spell out.
    """
    done = []
    uses = graph.uses()
    producers = graph.map_producers()
    for add in graph.nodes:
        if add.op_type != "Add":
            continue
        for data, amount in (list(add.input), list(add.input)[::-1]):
            conv = _find_sole_producer(producers, uses, data, "Conv", "ConvTranspose")
            added = graph.consts.get(amount)
            if conv is None or added is None or any(n not in graph.consts for n in conv.input[1:]):
                continue
            weight = graph.consts[conv.input[1]]
            channels = weight.shape[0]
            if conv.op_type == "ConvTranspose":
                channels = weight.shape[1] * read_attributes(conv).get("group", 1)
            # (channels, 1, 1) after any axes of size 1, or a single number of no higher rank.
            shape = (1,) * max(0, weight.ndim - added.ndim) + added.shape
            if added.ndim > weight.ndim or shape not in (
                (1,) * weight.ndim,
                (1, channels, *(1,) * (weight.ndim - 2)),
            ):
                continue
            bias = graph.consts[conv.input[2]] if len(conv.input) > 2 else np.float32(0)
            name = graph.make_fresh_name(f"{add.output[0]}_bias")
            graph.consts[name] = np.broadcast_to(bias + added.reshape(-1), (channels,))
            del conv.input[2:]
            conv.input.append(name)
            conv.output[0] = add.output[0]
            producers[add.output[0]] = conv
            done.append(add)
            break
    graph.remove(done)
    return bool(done)


def _merge_pixel_shuffles(graph: Graph) -> bool:
    """Merge Reshape, Transpose, Reshape, as PixelShuffle is exported, into DepthToSpace.

    The output channels of a convolution before it are put into the order that TensorFlow's operator
    wants (DCR), so that no transpose is left at all.
    """
    found = False
    uses = graph.uses()
    producers = graph.map_producers()
    for last in list(graph.nodes):
        block = 0
        source = last
        chain: List[onnx.NodeProto] = []
        if last.op_type == "Reshape":
            turn = _find_sole_producer(producers, uses, last.input[0], "Transpose")
            if turn is None or read_attributes(turn).get("perm") != [0, 1, 4, 2, 5, 3]:
                continue
            first = _find_sole_producer(producers, uses, turn.input[0], "Reshape")
            shape = graph.consts.get(first.input[1]) if first is not None else None
            if shape is None or len(shape) != 6 or shape[2] != shape[3]:
                continue
            source, block = first, int(shape[2])
            chain = [first, turn]
        elif last.op_type == "DepthToSpace" and read_attributes(last).get("mode") == b"CRD":
            block = read_attributes(last)["blocksize"]
        name = source.input[0]
        if not block or _infer_rank(graph, producers, name) != 4:
            continue
        mode = "CRD"
        conv = _find_sole_producer(producers, uses, name, "Conv")
        plain = conv is not None and read_attributes(conv).get("group", 1) == 1
        if plain and all(n in graph.consts for n in conv.input[1:]):
            mode = "DCR"
            # Its channels are not in ONNX's order now, so it needs a name of its own.
            name = conv.output[0] = graph.make_fresh_name(f"{name}_dcr")
            for i in range(1, len(conv.input)):
                array = graph.consts[conv.input[i]]
                split = array.reshape(-1, block * block, *array.shape[1:])
                fresh = graph.make_fresh_name(f"{last.output[0]}_weight{i}")
                graph.consts[fresh] = np.ascontiguousarray(
                    split.swapaxes(0, 1).reshape(array.shape)
                )
                conv.input[i] = fresh
        shuffle = helper.make_node(
            "DepthToSpace", [name], list(last.output), last.name, blocksize=block, mode=mode
        )
        graph.nodes[[id(node) for node in graph.nodes].index(id(last))] = shuffle
        graph.remove(chain)
        found = True
    return found


_OF_ITS_INPUT = (
    "Add", "AveragePool", "BatchNormalization", "Clip", "Elu", "Identity", "LeakyRelu", "MaxPool",
    "Mul", "PRelu", "Pad", "Relu", "Sigmoid", "Tanh",
)  # fmt: skip


def _infer_rank(graph: Graph, producers: Dict[str, onnx.NodeProto], name: str) -> int:
    """Return a tensor's rank as a convolution or an input of the graph gives it; 0 if unknown."""
    while name in producers:
        node = producers[name]
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in graph.consts:
            return int(graph.consts[node.input[1]].ndim)
        if node.op_type == "DepthToSpace":
            return 4
        if node.op_type not in _OF_ITS_INPUT or (
            node.op_type in ("Add", "Mul") and node.input[0] in graph.consts
        ):
            return 0
        name = node.input[0]
    for value in graph.inputs:
        if value.name == name:
            return len(value.type.tensor_type.shape.dim)
    return 0


def _add_bias_to_matmul(graph: Graph) -> bool:
    """Merge MatMul by a constant and Add of a constant vector into a MatMul with a third input."""
    done = []
    uses = graph.uses()
    producers = graph.map_producers()
    for add in list(graph.nodes):
        if add.op_type != "Add":
            continue
        for data, bias in (list(add.input), list(add.input)[::-1]):
            product = _find_sole_producer(producers, uses, data, "MatMul")
            weight = graph.consts.get(product.input[1]) if product is not None else None
            vector = graph.consts.get(bias)
            if weight is None or vector is None or len(product.input) != 2:
                continue
            if weight.ndim != 2 or vector.ndim != 1 or vector.shape[0] != weight.shape[1]:
                continue
            # The product takes over the sum's name: only the sum read the product.
            product.input.append(bias)
            product.output[0] = add.output[0]
            done.append(add)
            break
    graph.remove(done)
    return bool(done)


_REWRITES = (
    ("constants", _lift_constants),
    ("constants", _drop_identities),
    ("batchnorm", _fold_batchnorm),
    ("convolution", _merge_pads),
    ("convolution", _add_to_bias),
    ("depth-to-space", _merge_pixel_shuffles),
    ("matmul", _add_bias_to_matmul),
    ("channel-shuffle", fold_shuffles),
)
