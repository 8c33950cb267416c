"""Attention of operator set 23, as matrix products and a softmax."""

from __future__ import annotations

import math
from typing import Callable, Dict, Tuple

import numpy as np

from stages.fixes.onnx_file.refusal import Refused
from stages.fixes.onnx_file.rules.rewriter import BOOL, Rewriter

# Added to what a mask hides: its exponential is 0, and it does not overflow as infinity would.
_HIDDEN = np.float32(-1e30)


def _attention(r: Rewriter) -> None:
    if any(r.has_output(i) for i in (1, 2, 3)) or any(r.input(i) for i in (4, 5, 6)):
        raise Refused("it keeps keys and values of earlier steps, or returns them.")
    if r.get("softcap", 0.0):
        raise Refused("it caps its scores (softcap).")
    query, key, value = (r.input(i) for i in range(3))
    flat = r.require_rank(query) == 3
    if flat:
        heads = int(r.get("q_num_heads")), int(r.get("kv_num_heads"))
        query = _split_heads(r, query, heads[0])
        key, value = (_split_heads(r, name, heads[1]) for name in (key, value))
    shape, other = r.require_shape(query), r.require_shape(key)
    if shape[1] != other[1]:
        key, value = (_repeat_heads(r, n, shape[1] // other[1]) for n in (key, value))
    scale = float(r.get("scale", 0.0)) or 1 / math.sqrt(shape[3])
    turned = r.add("Transpose", key, perm=[0, 1, 3, 2])
    scores = r.add("MatMul", r.add("Mul", query, scale), turned)
    mask = r.input(3)
    if mask and r.known.get_type(mask) == BOOL:
        zero = np.zeros((), np.float32)
        mask = r.add("Where", mask, zero, np.array(_HIDDEN))
    if mask:
        scores = r.add("Add", scores, mask)
    if r.get("is_causal", 0):
        later = np.triu(np.ones((shape[2], other[2]), bool), 1)
        scores = r.add("Add", scores, np.where(later, _HIDDEN, np.float32(0)))
    weights = r.add("Softmax", scores, axis=3)
    if not flat:
        r.result("MatMul", weights, value)
        return
    joined = r.add("Transpose", r.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    r.result("Reshape", joined, [0, 0, -1])


def _split_heads(r: Rewriter, name: str, heads: int) -> str:
    batch, steps, size = r.require_shape(name)
    split = r.add("Reshape", name, [batch, steps, heads, size // heads])
    turned = r.add("Transpose", split, perm=[0, 2, 1, 3])
    r.known.set_shape(turned, [batch, heads, steps, size // heads])
    return turned


def _repeat_heads(r: Rewriter, name: str, times: int) -> str:
    batch, heads, steps, size = r.require_shape(name)
    tiled = r.add("Tile", r.add("Unsqueeze", name, axes=[2]), [1, 1, times, 1, 1])
    return r.add("Reshape", tiled, [batch, heads * times, steps, size])


RULES: Dict[str, Tuple[int, Callable[[Rewriter], None]]] = {"Attention": (23, _attention)}
