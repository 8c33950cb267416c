"""Newer operators, composed of those of operator set 12."""

from __future__ import annotations

import math
from typing import Callable, Dict, List, Tuple

import numpy as np

from stages.fixes.onnx_file.refusal import Refused
from stages.fixes.onnx_file.rules.rewriter import BOOL, Rewriter


def _hard_swish(r: Rewriter) -> None:
    x = r.input(0)
    r.result("Mul", x, r.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _mish(r: Rewriter) -> None:
    x = r.input(0)
    r.result("Mul", x, r.add("Tanh", r.add("Softplus", x)))


def _gelu(r: Rewriter) -> None:
    x = r.input(0)
    half = r.add("Mul", x, 0.5)
    if r.get("approximate", "none") == "tanh":
        cube = r.add("Mul", r.add("Mul", x, r.add("Mul", x, x)), 0.044715)
        inner = r.add("Tanh", r.add("Mul", r.add("Add", x, cube), math.sqrt(2 / math.pi)))
    else:
        inner = r.add("Erf", r.add("Mul", x, math.sqrt(0.5)))
    r.result("Mul", half, r.add("Add", inner, 1.0))


def _list_axes(r: Rewriter, axis: int) -> List[int]:
    """Return the axes from `axis` on, counted from the end where it is."""
    if axis < 0:
        return list(range(axis, 0))
    rank = r.require_rank(r.input(0))
    return list(range(axis - rank, 0))


def _layer_norm(r: Rewriter) -> None:
    x = r.input(0)
    axes = _list_axes(r, r.get("axis", -1))
    mean_name = r.node.output[1] if r.has_output(1) else ""
    mean = r.add("ReduceMean", x, output=mean_name, axes=axes, keepdims=1)
    centred = r.add("Sub", x, mean)
    variance = r.add("ReduceMean", r.add("Mul", centred, centred), axes=axes, keepdims=1)
    deviation = r.add("Sqrt", r.add("Add", variance, float(r.get("epsilon", 1e-5))))
    if r.has_output(2):
        r.add("Reciprocal", deviation, output=r.node.output[2])
    _scale(r, r.add("Div", centred, deviation), r.input(1), r.input(2))


def _rms_norm(r: Rewriter) -> None:
    x = r.input(0)
    axes = _list_axes(r, r.get("axis", -1))
    square = r.add("ReduceMean", r.add("Mul", x, x), axes=axes, keepdims=1)
    size = r.add("Sqrt", r.add("Add", square, float(r.get("epsilon", 1e-5))))
    _scale(r, r.add("Div", x, size), r.input(1), "")


def _scale(r: Rewriter, value: str, scale: str, bias: str) -> None:
    """Give the result: a value, scaled and shifted."""
    if bias:
        r.result("Add", r.add("Mul", value, scale), bias)
    else:
        r.result("Mul", value, scale)


def _group_norm(r: Rewriter) -> None:
    """GroupNormalization by InstanceNormalization; of set 18, its scales are of groups."""
    x, scale, bias = r.input(0), r.input(1), r.input(2)
    groups = int(r.get("num_groups"))
    shape = r.require_shape(x)
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    grouped = r.add("Reshape", x, [0, groups, -1])
    normal = r.add(
        "InstanceNormalization", grouped, ones, zeros, epsilon=float(r.get("epsilon", 1e-5))
    )
    normal = r.add("Reshape", normal, [shape[0], *shape[1:]])
    each = shape[1] // groups
    if r.version < 21:
        scale, bias = (_repeat(r, value, each) for value in (scale, bias))
    sizes = [shape[1], *[1] * (len(shape) - 2)]
    _scale(r, normal, r.add("Reshape", scale, sizes), r.add("Reshape", bias, sizes))


def _repeat(r: Rewriter, name: str, times: int) -> str:
    rows = r.add("Unsqueeze", name, axes=[1])
    return r.add("Reshape", r.add("Tile", rows, [1, times]), [-1])


def _trilu(r: Rewriter) -> None:
    """Trilu: a selection by a mask that depends on the shape alone."""
    x = r.input(0)
    k = int(r.require_constant(1, "diagonal").ravel()[0]) if r.input(1) else 0
    cut = np.triu if r.get("upper", 1) else np.tril
    constant = r.known.get_constant(x)
    if constant is not None:
        r.result("Identity", r.add_constant(cut(constant, k)))
        return
    mask = cut(np.ones(r.require_shape(x)[-2:], bool), k)
    kind = r.known.get_type(x)
    if kind == BOOL:
        r.result("And", x, mask)
        return
    r.result("Where", mask, x, r.add("Cast", 0.0, to=kind or 1))


def _resize(r: Rewriter) -> None:
    """Resize: `axes` choose those that sizes and scales are of; no smoothing, no fitting."""
    shape_free = "Resize by plain scales, without antialias and without keeping the aspect ratio."
    if r.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("it keeps the aspect ratio.", shape_free)
    if r.get("coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric":
        raise Refused("its coordinates are of the kind 'half_pixel_symmetric'.", shape_free)
    x, axes = r.input(0), r.get("axes")
    scales = r.require_constant(2, "scales") if r.input(2) else np.zeros(0, np.float32)
    sizes = r.require_constant(3, "sizes") if r.input(3) else np.zeros(0, np.int64)
    if axes is not None:
        shape = r.require_shape(x)
        whole = np.ones(len(shape), np.float32)
        if scales.size:
            whole[[a % len(shape) for a in axes]] = scales.ravel()
            scales = whole
        elif sizes.size:
            all_sizes = np.array(shape, np.int64)
            all_sizes[[a % len(shape) for a in axes]] = sizes.ravel()
            sizes = all_sizes
    if r.get("antialias", 0):
        shape = r.require_shape(x)
        smaller = (scales < 1).any() if scales.size else (sizes < np.array(shape)).any()
        if smaller and r.get("mode", "nearest") != "nearest":
            raise Refused("it smoothes an image that it makes smaller (antialias).", shape_free)
    r.drop("antialias", "axes", "keep_aspect_ratio_policy")
    _emit_resize(r, x, scales.astype(np.float32).ravel(), sizes.astype(np.int64).ravel())


def _emit_resize(r: Rewriter, x: str, scales: np.ndarray, sizes: np.ndarray) -> None:
    """Give the result; ONNX Runtime 1.4 interpolates planes only, so a row becomes one."""
    roi = r.add_constant(np.zeros(0, np.float32)) if not r.input(1) else r.input(1)
    rank = max(scales.size, sizes.size)
    row = rank == 3 and r.get("mode", "nearest") != "nearest"
    if row:
        x = r.add("Unsqueeze", x, axes=[2])
        scales = np.insert(scales, 2, 1) if scales.size else scales
        sizes = np.insert(sizes, 2, 1) if sizes.size else sizes
    inputs = [x, roi, r.add_constant(scales)]
    if sizes.size:
        inputs.append(r.add_constant(sizes))
    del r.node.input[:]
    r.node.input.extend(inputs)
    if row:
        final = str(r.node.output[0])
        name = r.rename_output(0)
        r.keep()
        r.add("Squeeze", name, output=final, axes=[2])


RULES: Dict[str, Tuple[int, Callable[[Rewriter], None]]] = {
    "HardSwish": (14, _hard_swish),
    "Mish": (18, _mish),
    "Gelu": (20, _gelu),
    "LayerNormalization": (17, _layer_norm),
    "RMSNormalization": (23, _rms_norm),
    "GroupNormalization": (18, _group_norm),
    "Trilu": (14, _trilu),
    "Resize": (13, _resize),
}
