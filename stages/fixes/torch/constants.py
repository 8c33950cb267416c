"""What a model computes of its weights alone, computed before the export.

torch 1.5.1 exports every operator, those too that only combine parameters, such as the inverse of
a matrix or a normalised weight, and refuses the ones that ONNX has not.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence

import torch

from stages.fixes.torch.python_values import untraced

_RANDOM = ("rand", "normal", "bernoulli", "multinomial", "dropout", "exponential", "uniform")


class _Unknown(Exception):
    """A value that depends on the model's inputs."""


def fold_constants(
    graph: Any, parameters: Sequence[Any], is_exportable: Callable[[str], bool]
) -> bool:
    """Replace operators that cannot be exported and read constants only by their values.

    `parameters` are the values of the graph's last inputs. Returns whether there were any.
    """
    inputs = list(graph.inputs())
    known: Dict[int, Any] = {}
    if parameters:
        names = inputs[len(inputs) - len(parameters) :]
        known = {value.unique(): tensor for value, tensor in zip(names, parameters)}
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


def evaluate(value: Any) -> Any:
    """Return the tensor that a value is by constants alone; None if it depends on anything else."""
    try:
        found = _evaluate(value, {})
    except _Unknown:
        return None
    return found if isinstance(found, torch.Tensor) else None


def _evaluate(value: Any, known: Dict[int, Any]) -> Any:
    """Return what a value is. Raises `_Unknown` if it depends on an input."""
    number = value.unique()
    if number in known:
        return known[number]
    node = value.node()
    kind = node.kind()
    if kind == "prim::Constant":
        return value.toIValue()
    name = kind.partition("::")[2]
    if kind == "prim::ListConstruct":
        return [_evaluate(item, known) for item in node.inputs()]
    if not kind.startswith("aten::") or name.endswith("_") or any(r in name for r in _RANDOM):
        raise _Unknown
    arguments = [_evaluate(item, known) for item in node.inputs()]
    try:
        with torch.no_grad(), untraced():
            result = getattr(torch.ops.aten, name)(*arguments)
    except Exception as error:  # an operator may refuse what it gets
        raise _Unknown from error
    outputs = list(node.outputs())
    for output, item in zip(outputs, [result] if len(outputs) == 1 else result):
        known[output.unique()] = item
    return known[number]
