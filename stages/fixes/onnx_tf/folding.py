"""What is known at conversion is computed then, by NumPy: constants and arithmetic on shapes."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import onnx

from stages.fixes.onnx_tf.layout import Value

Attrs = Dict[str, Any]

# Results larger than this (elements) stay an operator, or the model would grow.
_LIMIT = 1 << 22
# What processors round differently: BLAS and vectorised functions choose their code, and so the
# order of additions, by what the processor has. In float64, and rounded once, they agree.
_IN_DOUBLE = {
    *("Cos", "Exp", "Log", "MatMul", "Pow", "Sin"),
    *("ReduceL1", "ReduceL2", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
}


def _int_div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    quotient: np.ndarray = np.trunc(a / b).astype(a.dtype)
    return quotient


def _axes(attrs: Attrs, x: np.ndarray) -> Any:
    axes = attrs.get("axes")
    return tuple(axes) if axes is not None else tuple(range(x.ndim))


def _reduce(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def compute(attrs: Attrs, x: np.ndarray) -> np.ndarray:
        return function(x, axis=_axes(attrs, x), keepdims=bool(attrs.get("keepdims", 1)))

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
        # Going backwards, an end before the first element means: including the first.
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


def _constant_of_shape(attrs: Attrs, shape: np.ndarray) -> np.ndarray:
    value = onnx.numpy_helper.to_array(attrs["value"]) if "value" in attrs else np.zeros(1, "f4")
    return np.full([int(d) for d in shape], value.ravel()[0], value.dtype)


def _cast(attrs: Attrs, x: np.ndarray) -> np.ndarray:
    return x.astype(onnx.mapping.TENSOR_TYPE_TO_NP_TYPE[attrs["to"]])


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda attrs, *args: function(*args)


def _onehot(attrs: Attrs, index: np.ndarray, depth: np.ndarray, values: np.ndarray) -> np.ndarray:
    size = int(depth.ravel()[0])
    hot = np.arange(size) == (index % size)[..., None]
    return np.moveaxis(np.where(hot, values[1], values[0]), -1, attrs.get("axis", -1))


_COMPUTE: Dict[str, Callable[..., np.ndarray]] = {
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "And": _plain(np.logical_and),
    "Cast": _cast,
    "Ceil": _plain(np.ceil),
    "Concat": lambda attrs, *xs: np.concatenate(xs, attrs["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Cos": _plain(np.cos),
    "Div": _plain(_int_div),
    "Equal": _plain(np.equal),
    "Exp": _plain(np.exp),
    "Expand": lambda attrs, x, shape: (
        x * np.ones([int(d) for d in shape], x.dtype)
        if x.dtype != bool
        else x & np.ones([int(d) for d in shape], bool)
    ),
    "Flatten": lambda attrs, x: x.reshape(int(np.prod(x.shape[: attrs.get("axis", 1)])), -1),
    "Floor": _plain(np.floor),
    "Gather": lambda attrs, x, i: np.take(x, i, attrs.get("axis", 0)),
    "Greater": _plain(np.greater),
    "Identity": _plain(lambda x: x),
    "Less": _plain(np.less),
    "Log": _plain(np.log),
    "MatMul": lambda attrs, a, b: _matmul(a, b),
    "Max": _plain(lambda *xs: np.maximum.reduce(xs)),
    "Min": _plain(lambda *xs: np.minimum.reduce(xs)),
    "Mod": lambda attrs, a, b: np.fmod(a, b) if attrs.get("fmod") else np.mod(a, b),
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "NonZero": _plain(lambda x: np.array(np.nonzero(x), np.int64)),
    "Not": _plain(np.logical_not),
    "OneHot": _onehot,
    "Or": _plain(np.logical_or),
    "Pow": _plain(np.power),
    "Range": _plain(lambda a, b, c: np.arange(a, b, c, dtype=np.asarray(a).dtype)),
    "Reciprocal": _plain(np.reciprocal),
    "ReduceL1": _reduce(lambda x, **given: np.sum(np.abs(x), **given)),
    "ReduceL2": _reduce(lambda x, **given: np.sqrt(np.sum(np.square(x), **given))),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceSumSquare": _reduce(lambda x, **given: np.sum(np.square(x), **given)),
    "Reshape": _reshape,
    "Round": _plain(np.round),
    "ScatterND": lambda attrs, x, i, u: _scatter_nd(x, i, u),
    "Sin": _plain(np.sin),
    "Slice": _slice,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(np.subtract),
    "Tile": _plain(lambda x, reps: np.tile(x, [int(r) for r in reps])),
    "Transpose": lambda attrs, x: x.transpose(attrs.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(np.where),
}


def _matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As np.matmul, in the order of a plain loop: BLAS has another order for each processor."""
    rows, columns = a if a.ndim > 1 else a[None], b if b.ndim > 1 else b[:, None]
    product = np.einsum("...ij,...jk->...ik", rows, columns)
    product = product if a.ndim > 1 else product[..., 0, :]
    return product if b.ndim > 1 else product[..., 0]


def _scatter_nd(x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    result = x.copy()
    result[tuple(np.moveaxis(indices, -1, 0))] = updates
    return result


def fold(
    op_type: str, attrs: Attrs, inputs: Sequence[Optional[Value]], opset: int
) -> Optional[List[Value]]:
    """The outputs of a node as constants, or None if they are not known."""
    if op_type == "Constant":
        return [Value.of_const(constant(attrs))]
    if op_type == "Shape" and inputs[0] is not None and inputs[0].is_static:
        return [Value.of_const(np.array(inputs[0].shape, np.int64))]
    if op_type == "Size" and inputs[0] is not None and inputs[0].is_static:
        return [Value.of_const(np.array(inputs[0].size, np.int64))]
    if op_type in ("Gather", "Slice", "Reshape") and not inputs:
        return None
    arrays = [None if value is None else value.const for value in inputs]
    known = all(value is None or value.const is not None for value in inputs)
    if op_type == "Split" and known:
        parts = np.cumsum(attrs["split"])[:-1]
        return [Value.of_const(p) for p in np.split(arrays[0], parts, attrs.get("axis", 0))]
    compute = _COMPUTE.get(op_type)
    if compute is None or not known or not inputs:
        return None
    operands = [_doubled(array) if op_type in _IN_DOUBLE else array for array in arrays]
    with np.errstate(all="ignore"):
        result = np.asarray(compute(attrs, *operands))
    largest = max(array.size for array in arrays if array is not None)
    if result.size > _LIMIT and result.size > largest:
        return None
    first = arrays[0]
    if result.dtype == np.float64 and first is not None and first.dtype == np.float32:
        result = result.astype(np.float32)
    return [Value.of_const(result)]


def _doubled(array: Optional[np.ndarray]) -> Optional[np.ndarray]:
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else array


def constant(attrs: Attrs) -> np.ndarray:
    """The value of a Constant node."""
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
