"""What a model computes of its weights alone, computed before the export.

torch 1.5.1 exports every operator, those too that only combine parameters, such as the inverse of
a matrix or a normalised weight, and refuses the ones that ONNX has not.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence

import torch

from stages.fixes.torch.python_values import untraced

_RANDOM = ("rand", "normal", "bernoulli", "multinomial", "dropout", "exponential", "uniform")


class _Unknown(Exception):
    """A value that depends on the model's inputs."""


# What is known of such a value.
_NEVER = object()


def fold_constants(
    graph: Any, parameters: Sequence[Any], is_exportable: Callable[[str], bool]
) -> bool:
    """Replace operators that cannot be exported and read constants only by their values.

    `parameters` are the values of the graph's last inputs. Returns whether there were any.
    """
    known = list_known(graph, parameters)
    changed = False
    for node in list(graph.nodes()):
        kind = node.kind()
        if not kind.startswith("aten::") or is_exportable(kind.partition("::")[2]):
            continue
        try:
            results = [_evaluate(output, known) for output in node.outputs()]
        except _Unknown:
            continue
        if not results or not all(isinstance(result, torch.Tensor) for result in results):
            continue
        for output, result in zip(list(node.outputs()), results):
            constant = graph.create("prim::Constant", [], 1)
            constant.t_("value", result.detach().contiguous())
            constant.output().inferTypeFrom(result)
            constant.insertBefore(node)
            output.replaceAllUsesWith(constant.output())
        changed = True
    return changed


def list_known(graph: Any, parameters: Sequence[Any]) -> Dict[int, Any]:
    """List the tensors of a graph's last inputs, by the inputs' numbers."""
    inputs = list(graph.inputs())
    last = inputs[len(inputs) - len(parameters) :] if parameters else []
    return {value.unique(): tensor for value, tensor in zip(last, parameters)}


def evaluate(value: Any, known: Dict[int, Any]) -> Any:
    """Return the tensor that a value is by constants alone; None if it depends on anything else."""
    try:
        found = _evaluate(value, dict(known))
    except _Unknown:
        return None
    return found if isinstance(found, torch.Tensor) else None


def _evaluate(value: Any, known: Dict[int, Any]) -> Any:
    """Return what a value is, and note in `known` what was found on the way.

    Raises `_Unknown` if it depends on an input.
    """
    # A list and no recursion, which the depth of a graph may exceed. It always holds a path: each
    # value is an operand of the one before.
    path = [value]
    while path:
        number = path[-1].unique()
        if known.get(number) is _NEVER:
            known.update((item.unique(), _NEVER) for item in path)
            raise _Unknown
        if number in known:
            path.pop()
            continue
        node = path[-1].node()
        if not _is_computable(node.kind()):
            known[number] = _NEVER
            continue
        missing = next((item for item in node.inputs() if item.unique() not in known), None)
        if missing is not None:
            path.append(missing)
            continue
        arguments = [known[item.unique()] for item in node.inputs()]
        if any(argument is _NEVER for argument in arguments):
            known[number] = _NEVER
            continue
        _compute(path[-1], node, arguments, known)
    return known[value.unique()]


def _is_computable(kind: str) -> bool:
    if kind in ("prim::Constant", "prim::ListConstruct"):
        return True
    name = kind.partition("::")[2]
    random = any(part in name for part in _RANDOM)
    return kind.startswith("aten::") and not name.endswith("_") and not random


def _compute(value: Any, node: Any, arguments: List[Any], known: Dict[int, Any]) -> None:
    """Note what a node's outputs are."""
    kind = node.kind()
    if kind == "prim::Constant":
        known[value.unique()] = value.toIValue()
        return
    if kind == "prim::ListConstruct":
        known[value.unique()] = arguments
        return
    try:
        with torch.no_grad(), untraced():
            result = getattr(torch.ops.aten, kind.partition("::")[2])(*arguments)
    except Exception:  # an operator may refuse what it gets
        known[value.unique()] = _NEVER
        return
    outputs = list(node.outputs())
    for output, item in zip(outputs, [result] if len(outputs) == 1 else result):
        known[output.unique()] = item
