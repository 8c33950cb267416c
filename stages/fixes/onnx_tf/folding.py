"""Constant folding of ONNX nodes by NumPy, including arithmetic on shapes."""

from __future__ import annotations

from functools import reduce
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import onnx

from stages.fixes.onnx_tf.layout import Value

Attrs = Dict[str, Any]

# Results with more elements than this stay operators, or the model would grow.
_LIMIT = 1 << 22
# Operators that processors round differently: BLAS and vectorised functions choose their code, and
# so the order of additions, by the processor's features. In float64, rounded once, they agree.
_IN_DOUBLE = {
    *("Cos", "Exp", "Log", "MatMul", "Pow", "Sin"),
    *("ReduceL1", "ReduceL2", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
}


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    quotient: np.ndarray = np.trunc(a / b).astype(a.dtype)
    return quotient


def _get_axes(attrs: Attrs, x: np.ndarray) -> Any:
    axes = attrs.get("axes")
    return tuple(axes) if axes is not None else tuple(range(x.ndim))


def _make_reduction(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def compute(attrs: Attrs, x: np.ndarray) -> np.ndarray:
        return function(x, axis=_get_axes(attrs, x), keepdims=bool(attrs.get("keepdims", 1)))

    return compute


def _slice(attrs: Attrs, x: np.ndarray, *args: Optional[np.ndarray]) -> np.ndarray:
    if args:
        starts, ends, axes, steps = (*args, None, None)[:4]
    else:
        starts, ends, axes, steps = attrs["starts"], attrs["ends"], attrs.get("axes"), None
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps):
        start, end, step = int(start), int(end), int(step)
        # With a negative step, an end before the first element includes the first.
        stop = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return x[tuple(index)]


def _reshape(attrs: Attrs, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return x.reshape([x.shape[i] if d == 0 else int(d) for i, d in enumerate(shape)])


def _unsqueeze(attrs: Attrs, x: np.ndarray) -> np.ndarray:
    rank = x.ndim + len(attrs["axes"])
    for axis in sorted(axis % rank for axis in attrs["axes"]):
        x = np.expand_dims(x, axis)
    return x


def _squeeze(attrs: Attrs, x: np.ndarray) -> np.ndarray:
    return np.squeeze(x, tuple(attrs["axes"]) if "axes" in attrs else None)


def _fill_constant(attrs: Attrs, shape: np.ndarray) -> np.ndarray:
    value = onnx.numpy_helper.to_array(attrs["value"]) if "value" in attrs else np.zeros(1, "f4")
    return np.full([int(d) for d in shape], value.ravel()[0], value.dtype)


def _cast(attrs: Attrs, x: np.ndarray) -> np.ndarray:
    return x.astype(onnx.mapping.TENSOR_TYPE_TO_NP_TYPE[attrs["to"]])


def _ignore_attrs(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda attrs, *args: function(*args)


def _encode_one_hot(
    attrs: Attrs, index: np.ndarray, depth: np.ndarray, values: np.ndarray
) -> np.ndarray:
    size = int(depth.ravel()[0])
    hot = np.arange(size) == np.where(index < 0, index + size, index)[..., None]
    return np.moveaxis(np.where(hot, values[1], values[0]), -1, attrs.get("axis", -1))


def _dequantize(
    attrs: Attrs, x: np.ndarray, scale: np.ndarray, zero: Optional[np.ndarray] = None
) -> np.ndarray:
    shift = np.float32(0) if zero is None else zero.astype(np.float32).ravel()
    return (x.astype(np.float32) - shift) * scale.ravel()


_COMPUTE: Dict[str, Callable[..., np.ndarray]] = {
    "Abs": _ignore_attrs(np.abs),
    "Add": _ignore_attrs(np.add),
    "And": _ignore_attrs(np.logical_and),
    "Cast": _cast,
    "Ceil": _ignore_attrs(np.ceil),
    "Concat": lambda attrs, *xs: np.concatenate(xs, attrs["axis"]),
    "ConstantOfShape": _fill_constant,
    "Cos": _ignore_attrs(np.cos),
    "DequantizeLinear": _dequantize,
    "Div": _ignore_attrs(_divide),
    "Equal": _ignore_attrs(np.equal),
    "Exp": _ignore_attrs(np.exp),
    "Expand": lambda attrs, x, shape: (
        x * np.ones([int(d) for d in shape], x.dtype)
        if x.dtype != bool
        else x & np.ones([int(d) for d in shape], bool)
    ),
    "Flatten": lambda attrs, x: x.reshape(int(np.prod(x.shape[: attrs.get("axis", 1)])), -1),
    "Floor": _ignore_attrs(np.floor),
    "Gather": lambda attrs, x, i: np.take(x, i, attrs.get("axis", 0)),
    "Greater": _ignore_attrs(np.greater),
    "Identity": _ignore_attrs(lambda x: x),
    "Less": _ignore_attrs(np.less),
    "Log": _ignore_attrs(np.log),
    "MatMul": lambda attrs, a, b: _matmul(a, b),
    "Max": _ignore_attrs(lambda *xs: reduce(np.maximum, xs)),
    "Min": _ignore_attrs(lambda *xs: reduce(np.minimum, xs)),
    "Mod": lambda attrs, a, b: np.fmod(a, b) if attrs.get("fmod") else np.mod(a, b),
    "Mul": _ignore_attrs(np.multiply),
    "Neg": _ignore_attrs(np.negative),
    "NonZero": _ignore_attrs(lambda x: np.array(np.nonzero(x), np.int64)),
    "Not": _ignore_attrs(np.logical_not),
    "OneHot": _encode_one_hot,
    "Or": _ignore_attrs(np.logical_or),
    "Pow": _ignore_attrs(np.power),
    "Range": _ignore_attrs(lambda a, b, c: np.arange(a, b, c, dtype=np.asarray(a).dtype)),
    "Reciprocal": _ignore_attrs(np.reciprocal),
    "ReduceL1": _make_reduction(lambda x, **given: np.sum(np.abs(x), **given)),
    "ReduceL2": _make_reduction(lambda x, **given: np.sqrt(np.sum(np.square(x), **given))),
    "ReduceMax": _make_reduction(np.max),
    "ReduceMean": _make_reduction(np.mean),
    "ReduceMin": _make_reduction(np.min),
    "ReduceProd": _make_reduction(np.prod),
    "ReduceSum": _make_reduction(np.sum),
    "ReduceSumSquare": _make_reduction(lambda x, **given: np.sum(np.square(x), **given)),
    "Reshape": _reshape,
    "Round": _ignore_attrs(np.round),
    "ScatterND": lambda attrs, x, i, u: _scatter_nd(x, i, u),
    "Sin": _ignore_attrs(np.sin),
    "Slice": _slice,
    "Sqrt": _ignore_attrs(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _ignore_attrs(np.subtract),
    "Tile": _ignore_attrs(lambda x, reps: np.tile(x, [int(r) for r in reps])),
    "Transpose": lambda attrs, x: x.transpose(attrs.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _ignore_attrs(np.where),
}


def _matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply like np.matmul, in a plain loop's order: BLAS's order depends on the processor."""
    rows, columns = a if a.ndim > 1 else a[None], b if b.ndim > 1 else b[:, None]
    product = np.einsum("...ij,...jk->...ik", rows, columns)
    product = product if a.ndim > 1 else product[..., 0, :]
    return product if b.ndim > 1 else product[..., 0]


def _scatter_nd(x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    result = x.copy()
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return result


def fold(
    op_type: str, attrs: Attrs, inputs: Sequence[Optional[Value]], limit: int = _LIMIT
) -> Optional[List[Value]]:
    """Return a node's outputs as constants; None if they are not known, or of so many elements."""
    if op_type == "Constant":
        return [Value.from_const(read_constant(attrs))]
    if op_type == "Shape" and inputs[0] is not None and inputs[0].is_static:
        return [Value.from_const(np.array(inputs[0].shape, np.int64))]
    if op_type == "Size" and inputs[0] is not None and inputs[0].is_static:
        return [Value.from_const(np.array(inputs[0].size, np.int64))]
    if op_type in ("Gather", "Slice", "Reshape") and not inputs:
        return None
    arrays = [None if value is None else value.const for value in inputs]
    known = all(value is None or value.const is not None for value in inputs)
    if op_type == "Split" and known:
        if "split" not in attrs:
            return None
        parts = np.cumsum(attrs["split"])[:-1]
        return [Value.from_const(p) for p in np.split(arrays[0], parts, attrs.get("axis", 0))]
    compute = _COMPUTE.get(op_type)
    if compute is None or not known or not inputs:
        return None
    operands = [_widen(array) if op_type in _IN_DOUBLE else array for array in arrays]
    with np.errstate(all="ignore"):
        result = np.asarray(compute(attrs, *operands))
    largest = max(array.size for array in arrays if array is not None)
    if result.size > limit and result.size > largest:
        return None
    first = arrays[0]
    if result.dtype == np.float64 and first is not None and first.dtype == np.float32:
        result = result.astype(np.float32)
    return [Value.from_const(result)]


def _widen(array: Optional[np.ndarray]) -> Optional[np.ndarray]:
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else array


def read_constant(attrs: Attrs) -> np.ndarray:
    """Return the value of a Constant node."""
    if "value" in attrs:
        return np.array(onnx.numpy_helper.to_array(attrs["value"]))
    for name, dtype in (
        ("value_float", "f4"),
        ("value_floats", "f4"),
        ("value_int", "i8"),
        ("value_ints", "i8"),
    ):
        if name in attrs:
            return np.array(attrs[name], dtype)
    raise ValueError("a Constant of a kind that opset 11 does not know")
