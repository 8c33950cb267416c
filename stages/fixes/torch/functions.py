"""Autograd functions, whose forward() is traced like any other code.

torch 1.5.1 records a call of a `torch.autograd.Function` as one Python operator and refuses it.
What its forward() computes is in the trace too, but thrown away; here it is kept, and takes the
operator's place.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, List, Type
from unittest import mock

import torch

# A node that no pass removes, so that what it reads stays in the graph.
_KEEPER = "prim::Print"


@contextmanager
def keep_functions() -> Iterator[None]:
    """Keep what forward() of every autograd function computes in traces of the block."""
    with ExitStack() as stack:
        for function in _list_functions(torch.autograd.Function):
            forward = function.__dict__.get("forward")
            if isinstance(forward, staticmethod):
                kept = staticmethod(_keep(forward.__func__))
                stack.enter_context(mock.patch.object(function, "forward", kept))
        yield


def _list_functions(base: Type[Any]) -> List[Type[Any]]:
    return [kind for child in base.__subclasses__() for kind in (child, *_list_functions(child))]


def _keep(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        result = forward(*args)
        state = torch._C._get_tracing_state()
        if state is not None:
            outputs = result if isinstance(result, tuple) else (result,)
            values = [torch._C._get_value_trace(o) for o in outputs if isinstance(o, torch.Tensor)]
            graph = state.graph()
            graph.appendNode(graph.create(_KEEPER, values, 0))
        return result

    return call


def inline_functions(graph: Any) -> bool:
    """Replace Python operators by what was kept; tell whether there were any."""
    open_calls: List[Any] = []
    changed = False
    for node in list(graph.nodes()):
        if node.kind() == "prim::PythonOp":
            open_calls.append(node)
        elif node.kind() == _KEEPER and open_calls:
            call = open_calls.pop()
            kept = list(node.inputs())
            if len(kept) == len(list(call.outputs())):
                for output, value in zip(list(call.outputs()), kept):
                    output.replaceAllUsesWith(value)
                changed = True
            node.destroy()
    return changed
