"""Operators that take another form in operator set 12: axes as attributes, other defaults."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Tuple

import numpy as np

from stages.fixes.onnx_file.refusal import Refused
from stages.fixes.onnx_file.rules.rewriter import BOOL, FLOATS, Rewriter

Rule = Callable[[Rewriter], None]

_INT8, _UINT8, _INT32 = 3, 2, 6
# The types that Cast knows in operator set 12.
_NEWEST_TYPE = 13


def _move_axes(r: Rewriter) -> None:
    """Squeeze and Unsqueeze: axes were an attribute."""
    if r.input(1):
        r.set("axes", [int(axis) for axis in r.require_constant(1, "axes").ravel()])
    r.keep_inputs(1)


def _reduce(r: Rewriter) -> None:
    """Reductions: axes were an attribute, and none meant all."""
    op_type, x = r.node.op_type, r.input(0)
    axes: Optional[List[int]] = r.get("axes")
    if r.input(1):
        axes = [int(axis) for axis in r.require_constant(1, "axes").ravel()]
    nothing = not axes and r.get("noop_with_empty_axes", 0)
    r.drop("axes", "noop_with_empty_axes")
    r.keep_inputs(1)
    if nothing:
        alone = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log"}
        if op_type == "ReduceSumSquare":
            r.result("Mul", x, x)
        else:
            r.result(alone.get(op_type, "Identity"), x)
        return
    if axes:
        r.set("axes", axes)
    if op_type in ("ReduceMax", "ReduceMin") and r.known.get_type(x) == BOOL:
        r.node.input[0] = r.add("Cast", x, to=_INT32)
        final = str(r.node.output[0])
        name = r.rename_output(0)
        r.keep()
        r.add("Cast", name, output=final, to=BOOL)


def _softmax(r: Rewriter) -> None:
    """Softmax along one axis: before 13, the axes from `axis` on counted as one."""
    axis = int(r.get("axis", -1))
    x = r.input(0)
    if axis == -1:
        r.set("axis", -1)
        return
    rank = r.require_rank(x)
    axis %= max(rank, 1)
    if axis == rank - 1:
        r.set("axis", axis)
        return
    turned = [a for a in range(rank) if a != axis] + [axis]
    inside = r.add(r.node.op_type, r.add("Transpose", x, perm=turned), axis=rank - 1)
    r.result("Transpose", inside, perm=[turned.index(a) for a in range(rank)])


def _split(r: Rewriter) -> None:
    """Split: sizes were an attribute; `num_outputs` are even parts, the last one smaller."""
    count = r.get("num_outputs")
    r.drop("num_outputs")
    if r.input(1):
        r.set("split", [int(size) for size in r.require_constant(1, "sizes").ravel()])
    elif count:
        shape = r.require_shape(r.input(0))
        length = shape[r.get("axis", 0)]
        part = -(-length // count)
        r.set("split", [max(min(part, length - i * part), 0) for i in range(count)])
    r.keep_inputs(1)


def _shape(r: Rewriter) -> None:
    start, end = r.get("start", 0), r.get("end")
    r.drop("start", "end")
    if start or end is not None:
        whole = r.add("Shape", r.input(0))
        r.result("Slice", whole, [start], [2**31 if end is None else end], [0])


def _pad(r: Rewriter) -> None:
    """Pad: `axes` choose those that `pads` are of; mode 'wrap' takes from the other end."""
    x = r.input(0)
    wraps = r.get("mode", "constant") == "wrap"
    if not r.input(3) and not wraps:
        r.keep_inputs(3)
        return
    given = [int(n) for n in r.require_constant(1, "amounts").ravel()]
    rank = r.require_rank(x)
    axes = list(range(rank))
    if r.input(3):
        axes = [int(axis) % rank for axis in r.require_constant(3, "axes").ravel()]
    pads = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        pads[axis], pads[rank + axis] = given[i], given[len(axes) + i]
    if not wraps:
        r.node.input[1] = r.add_constant(pads)
        r.keep_inputs(3)
        return
    shape = r.require_shape(x)
    if any(n < 0 or n > shape[i % rank] for i, n in enumerate(pads)):
        raise Refused("it wraps around by more than the size of an axis, or by less than nothing.")
    for axis in range(rank):
        begin, end = pads[axis], pads[rank + axis]
        parts = [r.add("Slice", x, [-begin], [2**31], [axis])] if begin else []
        parts += [x]
        parts += [r.add("Slice", x, [0], [end], [axis])] if end else []
        x = r.add("Concat", *parts, axis=axis) if len(parts) > 1 else x
    r.result("Identity", x)


def _reshape(r: Rewriter) -> None:
    """Reshape: with `allowzero`, a 0 is a size of 0 and not the input's own."""
    if r.get("allowzero", 0):
        shape = r.known.get_constant(r.input(1))
        if shape is not None and not shape.all():
            raise Refused("it makes a tensor without elements.")
    r.drop("allowzero")


def _cast(r: Rewriter) -> None:
    kind = r.get("to")
    if kind > _NEWEST_TYPE:
        raise Refused("it casts to a type that TensorFlow Lite does not compute with.")
    r.drop("saturate", "round_mode")


def _cast_like(r: Rewriter) -> None:
    kind = r.known.get_type(r.input(1))
    if not kind or kind > _NEWEST_TYPE:
        raise Refused("the type that it casts to is not known.")
    r.result("Cast", r.input(0), to=kind)


def _batch_norm(r: Rewriter) -> None:
    if r.get("training_mode", 0):
        raise Refused(
            "it normalizes by each batch's own statistics, as in training.",
            "Export the model after model.eval().",
        )
    r.drop("training_mode")
    r.keep_outputs(1)


def _clip(r: Rewriter) -> None:
    """Clip of integers, for which ONNX Runtime 1.4 has no kernel of every type."""
    x, low, high = r.input(0), r.input(1), r.input(2)
    if r.known.get_type(x) in (*FLOATS, 0) or not (low or high):
        return
    if low:
        x = r.add("Max", x, low)
    if high:
        x = r.add("Min", x, high)
    r.result("Identity", x)


def _relu(r: Rewriter) -> None:
    x = r.input(0)
    kind = r.known.get_type(x)
    if kind in (*FLOATS, 0):
        return
    zero = r.add("Cast", np.array(0), to=kind)
    r.result("Max", x, zero)


def _recurrent(r: Rewriter) -> None:
    """LSTM, GRU and RNN: with `layout` 1, the batch comes first."""
    first = r.get("layout", 0)
    r.drop("layout")
    if not first:
        return
    r.node.input[0] = r.add("Transpose", r.input(0), perm=[1, 0, 2])
    for index in (5, 6):
        if r.input(index):
            r.node.input[index] = r.add("Transpose", r.input(index), perm=[1, 0, 2])
    orders = [(0, [2, 0, 1, 3]), (1, [1, 0, 2]), (2, [1, 0, 2])]
    turns = [(str(r.node.output[i]), i, p) for i, p in orders if r.has_output(i)]
    turns_named = [(final, r.rename_output(i), order) for final, i, order in turns]
    r.keep()
    for final, name, order in turns_named:
        r.add("Transpose", name, output=final, perm=order)


def _scatter(r: Rewriter) -> None:
    how = r.get("reduction", "none")
    if how != "none":
        raise Refused(
            f"it combines several updates of one place (reduction '{how}').",
            "Compute it in the model by one-hot matrices and a matrix product.",
        )
    r.drop("reduction")


def _pool(r: Rewriter) -> None:
    if any(step != 1 for step in r.get("dilations") or []):
        raise Refused("it averages over a dilated window.")
    r.drop("dilations")


def _lp_pool(r: Rewriter) -> None:
    if r.get("ceil_mode", 0):
        raise Refused("it rounds its output size up (ceil_mode).")
    r.drop("ceil_mode")
    _pool(r)


def _constant(r: Rewriter) -> None:
    for attribute in r.node.attribute:
        if attribute.name in ("value_string", "value_strings"):
            raise Refused("it is text.")
        if attribute.HasField("t") and attribute.t.data_type > _NEWEST_TYPE:
            raise Refused("it is of a type that TensorFlow Lite does not compute with.")


def _dropout(r: Rewriter) -> None:
    training = r.known.get_constant(r.input(2)) if r.input(2) else None
    if r.input(2) and (training is None or training.any()):
        raise Refused("it drops values, as in training.", "Export the model after model.eval().")
    r.keep_inputs(1)


def _quantize(r: Rewriter) -> None:
    """QuantizeLinear and DequantizeLinear: with a scale for each channel they are arithmetic."""
    x, scale, zero = r.input(0), r.input(1), r.input(2)
    shape = r.require_shape(scale)
    axis = r.get("axis", 1)
    kind = r.known.get_type(zero) if zero else _UINT8
    if r.node.op_type == "QuantizeLinear":
        kind = r.get("output_dtype", 0) or kind
    elif not zero:
        kind = r.known.get_type(x)
    if r.get("block_size", 0) or kind not in (_INT8, _UINT8, _INT32):
        raise Refused("it quantizes in blocks, or to other types than int8 and uint8.")
    r.drop("axis", "saturate", "block_size", "output_dtype", "precision")
    if int(np.prod(shape)) == 1 and (zero or kind == _UINT8):
        return
    rank = r.require_rank(x)
    if shape:
        sizes = [-1 if i == axis % rank else 1 for i in range(rank)]
        scale = r.add("Reshape", scale, sizes)
        zero = r.add("Reshape", zero, sizes) if zero else ""
    zero = r.add("Cast", zero, to=1) if zero else ""
    if r.node.op_type == "DequantizeLinear":
        value = r.add("Cast", x, to=1)
        r.result("Mul", r.add("Sub", value, zero) if zero else value, scale)
        return
    value = r.add("Round", r.add("Div", x, scale))
    value = r.add("Add", value, zero) if zero else value
    low, high = (-128.0, 127.0) if kind == _INT8 else (0.0, 255.0)
    r.result("Cast", r.add("Clip", value, low, high), to=kind)


RULES: Dict[str, Tuple[int, Rule]] = {
    "Squeeze": (13, _move_axes),
    "Unsqueeze": (13, _move_axes),
    "Softmax": (13, _softmax),
    "LogSoftmax": (13, _softmax),
    "Hardmax": (13, _softmax),
    "Split": (13, _split),
    "Shape": (15, _shape),
    "Pad": (18, _pad),
    "Reshape": (14, _reshape),
    "Cast": (13, _cast),
    "CastLike": (15, _cast_like),
    "BatchNormalization": (14, _batch_norm),
    "Clip": (12, _clip),
    "Relu": (14, _relu),
    "LSTM": (14, _recurrent),
    "GRU": (14, _recurrent),
    "RNN": (14, _recurrent),
    "ScatterElements": (16, _scatter),
    "ScatterND": (16, _scatter),
    "AveragePool": (19, _pool),
    "LpPool": (18, _lp_pool),
    "Constant": (13, _constant),
    "Dropout": (13, _dropout),
    "QuantizeLinear": (13, _quantize),
    "DequantizeLinear": (13, _quantize),
    **{
        name: (13 if name == "ReduceSum" else 18, _reduce)
        for name in (
            "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
            "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
        )
    },
}  # fmt: skip
