"""Autograd functions, whose forward() is traced like any other code.

torch 1.5.1 records a call of a `torch.autograd.Function` as one Python operator and refuses it.
What its forward() computes is in the trace too, but thrown away; here it is kept, and takes the
operator's place.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Type
from unittest import mock

import torch

# A node that no pass removes, so that what it reads stays in the graph; some move it.
_KEEPER = "prim::Print"
# The attribute by which a call and its keeper belong together.
_CALL = "call"
_numbers = itertools.count()


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
        state = torch._C._get_tracing_state()
        if state is None:
            return forward(*args)
        number = next(_numbers)
        last = _find_last(state.graph())
        if last is None or last.kind() != "prim::PythonOp":
            return forward(*args)
        last.i_(_CALL, number)
        result = forward(*args)
        outputs = result if isinstance(result, tuple) else (result,)
        values = [torch._C._get_value_trace(o) for o in outputs if isinstance(o, torch.Tensor)]
        graph = state.graph()
        keeper = graph.create(_KEEPER, values, 0)
        keeper.i_(_CALL, number)
        keeper.insertAfter(_find_last(graph))
        return result

    return call


def _find_last(block: Any) -> Any:
    """Return the last node of a block or of the blocks inside, which a traced module may be."""
    found = None
    for node in block.nodes():
        found = node
    inner = [_find_last(each) for each in found.blocks()] if found is not None else []
    return next((node for node in reversed(inner) if node is not None), found)


def inline_functions(graph: Any) -> bool:
    """Replace Python operators by what was kept; tell whether there were any."""
    calls: Dict[int, Any] = {}
    changed = False
    for node in list(graph.nodes()):
        if not node.hasAttribute(_CALL):
            continue
        if node.kind() != _KEEPER:
            calls[node.i(_CALL)] = node
            continue
        call, kept = calls.get(node.i(_CALL)), list(node.inputs())
        outputs = _list_outputs(call) if call is not None else []
        if len(kept) == len(outputs) > 0:
            for output, value in zip(outputs, kept):
                output.replaceAllUsesWith(value)
            for user in [use.user for use in call.output().uses()] if len(kept) > 1 else ():
                user.destroy()
            call.destroy()
            changed = True
        node.destroy()
    return changed


def _list_outputs(call: Any) -> List[Any]:
    """List the values that a call returns; several are a tuple, which is unpacked."""
    outputs = list(call.outputs())
    users = [use.user for output in outputs for use in output.uses()]
    if len(outputs) == len(users) == 1 and users[0].kind() == "prim::TupleUnpack":
        return list(users[0].outputs())
    return outputs
