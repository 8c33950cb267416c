"""Handlers that emit the operators of a frozen graph on channels-last twins (see `layout`)."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Set, Tuple

import numpy as np

from stages.fixes.graph.folding import make_tensor_name, replace_nodes, shorten_name
from stages.fixes.graph.layout import (
    REDUCTIONS,
    TO_FIRST,
    TO_LAST,
    TWIN_AXIS,
    Handler,
    Rewriting,
    Value,
)

ELEMENTWISE = (
    "Abs", "Add", "AddN", "AddV2", "Cast", "Ceil", "Cos", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Greater", "GreaterEqual", "LeakyRelu", "Less", "LessEqual", "Log", "LogicalAnd",
    "LogicalNot", "LogicalOr", "Maximum", "Minimum", "Mul", "Neg", "NotEqual", "Pow", "RealDiv",
    "Reciprocal", "Relu", "Relu6", "Round", "Rsqrt", "SelectV2", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Sqrt", "Square", "SquaredDifference", "Sub", "Tanh",
)  # fmt: skip


def convert_to_channels_last(
    graph_def: Any, outputs: Sequence[str], io: bool = False
) -> Tuple[Any, List[str], Set[str]]:
    """Rewrite a graph to channels-last layout; fold its constants and fix its shapes before.

    Tensors without a static shape stay as they are. Return the graph and its outputs' names there;
    with `io`, inputs and outputs that are images have their channels last too, and the last result
    holds their names in the given graph.
    """
    rewriting = Rewriting(graph_def, HANDLERS, io)
    rewriting.run()
    names = [rewriting.output(name) for name in outputs]
    rewriting.merge_input_transposes()
    return replace_nodes(graph_def, rewriting.nodes), names, rewriting.turned_io


def _emit_elementwise(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    if not any(value.is_pending for value in values):
        return False
    if not all(value.const is not None or value.is_image or value.shape == () for value in values):
        return False
    inputs = []
    for value in values:
        if value.const is not None:
            assert value.plain is not None
            inputs.append(rewriting.constant(shorten_name(value.plain), _broadcast(value.const)))
        else:
            inputs.append(rewriting.twin(value) if value.is_image else rewriting.plain(value))
    rewriting.emit(node, inputs, twin=True)
    return True


def _broadcast(array: np.ndarray) -> np.ndarray:
    """Turn an operand that broadcasts channels-first into a channels-last one of fewest axes."""
    if array.size == 1:
        return array.reshape(())
    turned = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_LAST)
    while turned.ndim > 1 and turned.shape[0] == 1:
        turned = turned[0]
    return turned


def _concat(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    *parts, axis = values
    if axis.const is None or not any(part.is_pending for part in parts):
        return False
    if not all(part.is_image for part in parts):
        return False
    position = rewriting.constant(f"{node.name}/axis", _map_axes(axis.const))
    rewriting.emit(node, [*(rewriting.twin(part) for part in parts), position], twin=True)
    return True


def _map_axes(axes: np.ndarray) -> np.ndarray:
    """Return the axes of a plain tensor as axes of its twin."""
    turned = [TWIN_AXIS[int(axis) % 4] for axis in axes.ravel()]
    return np.array(turned, axes.dtype).reshape(axes.shape)


def _split(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    at, axis = (1, values[0]) if node.op == "Split" else (0, values[2])
    if not values[at].is_pending or axis.const is None:
        return False
    position = rewriting.constant(f"{node.name}/axis", _map_axes(axis.const))
    twin = rewriting.twin(values[at])
    if node.op == "Split":
        rewriting.emit(node, [position, twin], twin=True)
    else:
        rewriting.emit(node, [twin, rewriting.plain(values[1]), position], twin=True)
    return True


def _pad(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    if not values[0].is_pending or values[1].const is None:
        return False
    amounts = rewriting.constant(f"{node.name}/paddings", values[1].const[list(TO_LAST)])
    rest = [rewriting.plain(value) for value in values[2:]]
    rewriting.emit(node, [rewriting.twin(values[0]), amounts, *rest], twin=True)
    return True


def _reduce(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    image, axes = values
    if not image.is_pending or axes.const is None:
        return False
    reduced = {int(axis) % 4 for axis in axes.const.ravel()}
    left = [axis for axis in range(4) if axis not in reduced]
    keeps = node.attr["keep_dims"].b
    # If the reduced axes are dropped, the others must have the same order in both layouts.
    if not keeps and sorted(left, key=lambda axis: TWIN_AXIS[axis]) != left:
        return False
    position = rewriting.constant(f"{node.name}/axes", np.sort(_map_axes(axes.const.reshape(-1))))
    new = rewriting.emit(node, [rewriting.twin(image), position], twin=True)
    if not keeps:
        # The result is plain; it has a name of its own only because it is made from a twin.
        rewriting.define(f"{node.name}:0", plain=f"{new.name}:0")
    return True


def _reshape(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    """Emit a Reshape or Squeeze of a tensor with the same element order in both layouts."""
    name = f"{node.name}:0"
    shape = rewriting.shapes[name]
    if _emit_shuffle(rewriting, node):
        return True
    if not values[0].is_pending or not values[0].is_flat or shape is None or None in shape:
        return False
    twin = rewriting.twin(values[0])
    new = rewriting.reshape(node.name, twin, shape, values[0].kind)
    rewriting.define(name, plain=f"{new.name}:0")
    return True


def _emit_shuffle(rewriting: Rewriting, node: Any) -> bool:
    """Emit a channel shuffle (Reshape, Transpose, Reshape through groups) on the twin.

    Its plain operators have been emitted already; nothing reads them now, so pruning drops them.
    """
    turn = rewriting.producer(node.input[0])
    first = rewriting.producer(turn.input[0]) if turn.op == "Transpose" else None
    if first is None or first.op != "Reshape":
        return False
    order = rewriting.values[make_tensor_name(turn.input[1])].const
    image = rewriting.values[make_tensor_name(first.input[0])]
    grouped, result = rewriting.shapes[f"{first.name}:0"], rewriting.shapes[f"{node.name}:0"]
    if order is None or tuple(order) != (0, 2, 1, 3, 4) or not image.is_pending:
        return False
    if not image.is_image or result != image.shape or grouped is None or len(grouped) != 5:
        return False
    assert image.shape is not None
    batch, groups, channels, height, width = grouped
    if (batch, height, width) != (image.shape[0], *image.shape[2:]):
        return False
    apart = [batch, height, width, groups, channels]
    split = rewriting.reshape(first.name, rewriting.twin(image), apart, image.kind)
    inner = np.array([0, 1, 2, 4, 3], order.dtype)
    turned = rewriting.emit(turn, [split.name, rewriting.constant(turn.name, inner)], True)
    together = [batch, height, width, image.shape[1]]
    joined = rewriting.reshape(node.name, turned.name, together, image.kind)
    rewriting.define(f"{node.name}:0", twin=f"{joined.name}:0")
    return True


def _transpose(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    image, order = values
    if order.const is None or not image.is_image:
        return False
    axes = tuple(int(axis) for axis in order.const)
    name = f"{node.name}:0"
    if axes == TO_LAST and image.twin is not None:
        rewriting.define(name, plain=image.twin)
    elif axes == TO_FIRST:
        rewriting.define(name, twin=rewriting.plain(image))
    elif image.is_pending:
        turned = np.array([TWIN_AXIS[axis] for axis in axes], order.const.dtype)
        new = rewriting.emit(
            node, [rewriting.twin(image), rewriting.constant(f"{node.name}/order", turned)], True
        )
        rewriting.define(name, plain=f"{new.name}:0")
    else:
        return False
    return True


def _slice(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    image, begin, size = values
    if not image.is_pending or begin.const is None or size.const is None:
        return False
    bounds = [
        rewriting.constant(f"{node.name}/{name}", value[list(TO_LAST)])
        for name, value in (("begin", begin.const), ("size", size.const))
    ]
    rewriting.emit(node, [rewriting.twin(image), *bounds], twin=True)
    return True


def _emit_strided_slice(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    image, *bounds = values
    masks = ("shrink_axis_mask", "new_axis_mask", "ellipsis_mask")
    if not image.is_pending or any(node.attr[mask].i for mask in masks):
        return False
    arrays = [value.const for value in bounds]
    if any(array is None for array in arrays):
        return False
    given = len(arrays[0])  # type: ignore[arg-type]
    turned = [
        np.array([0, 0, 0, 0] if i < 2 else [1, 1, 1, 1], arrays[0].dtype)  # type: ignore
        for i in range(3)
    ]
    opened = {"begin_mask": 0, "end_mask": 0}
    for axis in range(4):
        for array, target in zip(arrays, turned):
            if axis < given:
                target[TWIN_AXIS[axis]] = array[axis]  # type: ignore[index]
        for mask in opened:
            if axis >= given or node.attr[mask].i >> axis & 1:
                opened[mask] |= 1 << TWIN_AXIS[axis]
    names = [
        rewriting.constant(f"{node.name}/{name}", array)
        for name, array in zip(("begin", "end", "strides"), turned)
    ]
    new = rewriting.emit(node, [rewriting.twin(image), *names], twin=True)
    for mask, bits in opened.items():
        new.attr[mask].i = bits
    return True


def _forward_identity(rewriting: Rewriting, node: Any, values: Sequence[Value]) -> bool:
    value = rewriting.define(f"{node.name}:0", values[0].plain, values[0].twin)
    value.const = values[0].const
    return True


HANDLERS: Dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, _emit_elementwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
    "ConcatV2": _concat,
    "Identity": _forward_identity,
    "MirrorPad": _pad,
    "Pad": _pad,
    "PadV2": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "SplitV": _split,
    "Squeeze": _reshape,
    "StridedSlice": _emit_strided_slice,
    "Transpose": _transpose,
}
