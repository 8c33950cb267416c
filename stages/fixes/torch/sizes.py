"""Sizes that stay numbers while a model is traced.

torch 1.5.1's tracer makes a tensor of each size that forward() reads, so that the graph would hold
for other shapes too. Its exporter then refuses what needs a number: a pool over `x.size()[2:]`, a
`layer_norm` over `x.shape[-2:]`, arithmetic on sizes. Here every shape is known and stays.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, Sequence
from unittest import mock

import torch

from stages.fixes.torch.python_values import untraced

_RESHAPES = {"aten::view", "aten::reshape"}
_PASSED_ON = {"prim::NumToTensor", "aten::Int", "prim::ListConstruct"}
_METHODS = ("size", "numel", "nelement")


class Size(int):
    """A size with those methods of a tensor that code written for a tracer calls on it."""

    def float(self) -> float:
        return float(self)

    def item(self) -> int:
        return int(self)

    def int(self) -> Any:
        return self

    def long(self) -> Any:
        return self

    def to(self, *_: Any, **__: Any) -> Any:
        return self


def needs_concrete_sizes(model: Any, inputs: Sequence[Any]) -> bool:
    """Tell whether a model does more with sizes than to reshape by them.

    Those reshapes are exported rightly, and the files of models that have no others stay the same.
    """
    try:
        with torch.no_grad():
            graph = torch.jit._get_trace_graph(copy.deepcopy(model), tuple(inputs))[0]
    except Exception:  # a model that needs a number for a size may fail in any way
        return True
    sizes = [node for node in graph.nodes() if node.kind() == "aten::size"]
    return not all(_only_reshapes(node.output()) for node in sizes)


def _only_reshapes(value: Any) -> bool:
    return all(
        use.user.kind() in _RESHAPES
        or (use.user.kind() in _PASSED_ON and _only_reshapes(use.user.output()))
        for use in value.uses()
    )


@contextmanager
def concrete_sizes() -> Iterator[None]:
    """Let the sizes that a trace in the block reads be numbers."""

    def keep(read: Callable[..., Any]) -> Callable[..., Any]:
        def size(self: Any, *args: Any, **kwargs: Any) -> Any:
            if torch._C._get_tracing_state() is None:
                return read(self, *args, **kwargs)
            with untraced():
                found = read(self, *args, **kwargs)
            return torch.Size(map(Size, found)) if isinstance(found, tuple) else Size(found)

        return size

    shape = torch._C._TensorBase.shape
    with ExitStack() as stack:
        for name in _METHODS:
            method = keep(getattr(torch._C._TensorBase, name))
            stack.enter_context(mock.patch.object(torch.Tensor, name, method, create=True))
        read_shape = property(keep(shape.__get__))
        stack.enter_context(mock.patch.object(torch.Tensor, "shape", read_shape, create=True))
        stack.enter_context(mock.patch.object(torch, "numel", keep(torch.numel)))
        interpolated = torch.nn.functional._interp_output_size
        stack.enter_context(
            mock.patch.object(torch.nn.functional, "_interp_output_size", _untrace(interpolated))
        )
        yield


def _untrace(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with untraced():
            return function(*args)

    return call
