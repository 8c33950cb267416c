"""The rules of `older-opset` by operator: since which operator set each applies, and its function.

A rule changes its node, or puts others in its place; it raises `Refused` where nothing has the same
meaning. Operators without one mean the same up to `older_opset.NEWEST`.
"""

from __future__ import annotations

from typing import Callable, Dict, Tuple

from stages.fixes.onnx_file.rules import attention, composed, forms, sampling
from stages.fixes.onnx_file.rules.rewriter import Rewriter

RULES: Dict[str, Tuple[int, Callable[[Rewriter], None]]] = {
    **forms.RULES,
    **composed.RULES,
    **attention.RULES,
    **sampling.RULES,
}
