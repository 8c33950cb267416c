"""TorchScript archives of torch 1.5 and 1.6, for the exporters of torch 1.7 to 1.11.

Their rule for `_convolution` wants the argument `allow_tf32`, which the operator got in torch 1.7:
a call without it, in an older archive, ends as 'missing 1 required positional argument'.
torch 1.12 lets the rule do without.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import Any, Iterator

_WITHOUT_TF32 = 12


@contextmanager
def accept_older_convolutions(opset: int) -> Iterator[None]:
    """Let the exporter's rule for convolutions do without `allow_tf32` in the block."""
    try:
        from torch.onnx import symbolic_registry
    except ImportError:  # torch 1.13 and later, which have no need of it
        yield
        return
    symbolic_registry.register_version("", opset)
    rules = symbolic_registry._registry[("", opset)]
    rule = rules.get("_convolution")
    if rule is None or not _needs_tf32(rule):
        yield
        return

    def convolution(g: Any, *arguments: Any) -> Any:
        missing = (None,) if len(arguments) == _WITHOUT_TF32 else ()
        return rule(g, *arguments, *missing)

    rules["_convolution"] = convolution
    try:
        yield
    finally:
        rules["_convolution"] = rule


def _needs_tf32(rule: Any) -> bool:
    known = inspect.signature(rule).parameters
    return "allow_tf32" in known and known["allow_tf32"].default is inspect.Parameter.empty
