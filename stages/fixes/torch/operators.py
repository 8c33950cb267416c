"""Operators of a traced graph rewritten as others, before torch 1.5.1's exporter sees them.

What an operator is rewritten as is Python (`decompositions`): it is traced on tensors of the same
shapes, and the trace takes the operator's place.
"""

from __future__ import annotations

import traceback
from typing import Any, Dict, List, Optional, Sequence

import torch
from torch import nn

from stages.fixes.torch.constants import evaluate, list_known
from stages.fixes.torch.decompositions import DECOMPOSITIONS, LEAVE
from stages.fixes.torch.graph_values import Writer, get_shape, replace_uses
from stages.fixes.torch.sizes import concrete_sizes
from stages.kit.contract import StageError

_DTYPES = {
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Float": torch.float32,
    "Double": torch.float64,
}
_COLLECTIONS = {"prim::TupleConstruct", "prim::ListConstruct"}
_ELEMENTWISE = {
    *("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::rsub", "aten::neg", "aten::abs"),
    *("aten::exp", "aten::log", "aten::relu", "aten::sigmoid", "aten::tanh", "aten::sqrt"),
    *("aten::pow", "aten::clamp", "aten::to", "aten::leaky_relu", "aten::square", "aten::erf"),
}


def rewrite_operators(graph: Any, parameters: Sequence[Any] = ()) -> bool:
    """Rewrite the operators that have a decomposition; tell whether there was anything.

    `parameters` are the values of the graph's last inputs.
    Raises `StageError`, naming the user's line, for one that has none in ONNX.
    """
    changed = False
    nodes = list(graph.nodes())
    known = list_known(graph, parameters)
    for position, node in enumerate(nodes):
        name = node.kind().partition("::")[2]
        in_place = name.endswith("_") and not name.endswith("__")
        plain = name[:-1] if in_place else name
        if not node.kind().startswith("aten::") or plain not in DECOMPOSITIONS:
            continue
        results = _choose_elements(node, graph) or _reduce_chosen(node, graph)
        if results is None:
            results = _decompose(node, graph, DECOMPOSITIONS[plain], known)
        if results is None:
            continue
        changed = True
        for output, result in zip(_list_outputs(node), results):
            output.replaceAllUsesWith(result)
        if in_place:
            # What reads the tensor from here on reads what was written.
            replace_uses(node.inputsAt(0), results[0], nodes[position + 1 :], graph)
            node.destroy()
            nodes[position] = results[0].node()
    return changed


def _list_outputs(node: Any) -> List[Any]:
    """List a node's outputs; those of the node that unpacks it, if it makes a list."""
    outputs = list(node.outputs())
    if len(outputs) == 1 and outputs[0].type().kind() == "ListType":
        return list(outputs[0].uses()[0].user.outputs())
    return outputs


class _Function(nn.Module):
    """A decomposition as a module of the tensors among its arguments."""

    def __init__(self, function: Any, arguments: Sequence[Any], places: Sequence[Any]) -> None:
        super().__init__()
        self.function, self.arguments, self.places = function, list(arguments), places

    def forward(self, *tensors: Any) -> Any:
        for (place, item), tensor in zip(self.places, tensors):
            if item is None:
                self.arguments[place] = tensor
            else:
                self.arguments[place][item] = tensor
        return self.function(*self.arguments)


def _decompose(
    node: Any, graph: Any, function: Any, constants: Dict[int, Any]
) -> Optional[List[Any]]:
    """Insert what an operator decomposes into; return its outputs, or None to leave it."""
    arguments: List[Any] = []
    places, values = [], []
    for index, value in enumerate(node.inputs()):
        is_list = value.node().kind() == "prim::ListConstruct"
        items = list(value.node().inputs()) if is_list else None
        if items is not None and any(_is_tensor(item) for item in items):
            arguments.append([_make_example(item, constants) for item in items])
            tensors = [(i, item) for i, item in enumerate(items) if _is_tensor(item)]
            places += [(index, i) for i, _ in tensors]
            values += [item for _, item in tensors]
        elif items is not None:
            arguments.append([item.toIValue() for item in items])
        else:
            arguments.append(_make_example(value, constants))
            if _is_tensor(value):
                places.append((index, None))
                values.append(value)
    examples = [
        arguments[place] if item is None else arguments[place][item] for place, item in places
    ]
    if any(example is None for example in examples):
        return None
    with torch.no_grad(), concrete_sizes():
        module = _Function(function, arguments, places)
        try:
            tried = module(*[example.clone() for example in examples])
        except StageError as error:
            raise StageError(f"{error}{_name_line(node)}", error.remedy, error.blame) from None
        except Exception:  # a form that nobody thought of must not cost the conversion
            traceback.print_exc()
            return None
        if tried is LEAVE:
            return None
        module.arguments = list(arguments)
        made = torch.jit._get_trace_graph(module, tuple(examples))[0]
    return _insert(graph, node, made, values)


def _insert(graph: Any, node: Any, made: Any, values: Sequence[Any]) -> List[Any]:
    """Insert a traced graph behind a node, with these values as its inputs; return its outputs."""
    known = {value.unique(): outer for value, outer in zip(made.inputs(), values)}
    writer = Writer(graph, node)
    for inner in made.nodes():
        copy = writer.insert(graph.createClone(inner, lambda value: known[value.unique()]))
        for before, after in zip(inner.outputs(), copy.outputs()):
            known[before.unique()] = after
    outputs = list(made.outputs())
    if len(outputs) == 1 and outputs[0].node().kind() in _COLLECTIONS:
        outputs = list(outputs[0].node().inputs())
    return [known[value.unique()] for value in outputs]


def _is_tensor(value: Any) -> bool:
    return bool(value.type().kind() == "TensorType")


def _make_example(value: Any, constants: Dict[int, Any]) -> Any:
    """Return a constant itself, and for any other tensor one of its shape and type.

    None for a tensor of unknown shape.
    """
    if value.node().kind() == "prim::Constant" or not _is_tensor(value):
        return value.toIValue()
    known = evaluate(value, constants)
    if known is not None:
        return known
    shape, dtype = get_shape(value), _DTYPES.get(str(value.type().scalarType()))
    return None if shape is None or dtype is None else torch.zeros(shape, dtype=dtype)


def _name_line(node: Any) -> str:
    found = str(node).partition("\n")[0].rpartition("# ")[2]
    file, _, rest = found.partition(":")
    return f" (in {file}({rest.partition(':')[0]}))" if rest else ""


def _choose_elements(node: Any, graph: Any) -> Optional[List[Any]]:
    """Write `y[mask] = f(z[mask])` as where(mask, f(z), y), if f is elementwise; else None."""
    if node.kind() not in ("aten::index_put", "aten::index_put_"):
        return None
    target, indices, value = (node.inputsAt(i) for i in range(3))
    items = list(indices.node().inputs())
    flags = len(items) == 1 and _is_tensor(items[0]) and items[0].type().scalarType() == "Bool"
    shape, own, sizes = get_shape(target), get_shape(items[0]) if flags else None, get_shape(value)
    if shape is None or own is None or (sizes is not None and len(sizes) == 0):
        return None
    writer = Writer(graph, node)
    lifted = _lift(writer, value, target, items[0])
    if lifted is None:
        return None
    mask = items[0]
    if len(own) < len(shape):
        wanted = own + [1] * (len(shape) - len(own))
        mask = writer.call("aten::reshape", [mask, writer.make_integers(wanted)], mask)
        mask.inferTypeFrom(torch.zeros(wanted, dtype=torch.bool))
    return [writer.call("aten::where", [mask, lifted, target], target)]


def _reduce_chosen(node: Any, graph: Any) -> Optional[List[Any]]:
    """Write the sum or mean of all `f(z[mask])` as one with zeros elsewhere; None for any other."""
    kind = node.kind()
    if kind not in ("aten::sum", "aten::mean") or len(list(node.inputs())) != 2:
        return None
    index = node.inputsAt(0)
    while index.node().kind() in _ELEMENTWISE:
        index = index.node().inputsAt(0)
    if index.node().kind() != "aten::index":
        return None
    source, chosen = index.node().inputsAt(0), list(index.node().inputsAt(1).node().inputs())
    flags = len(chosen) == 1 and str(chosen[0].type().scalarType()) == "Bool"
    if not flags or get_shape(source) is None or get_shape(chosen[0]) != get_shape(source):
        return None
    writer, mask = Writer(graph, node), chosen[0]
    lifted = _lift(writer, node.inputsAt(0), source, mask)
    if lifted is None:
        return None
    zero = writer.make_tensor(torch.zeros(get_shape(source) or []))
    kept = writer.call("aten::where", [mask, lifted, zero], source)
    total = writer.call("aten::sum", [kept, writer.make_none()], node.output())
    if kind == "aten::sum":
        return [total]
    floats = writer.call("aten::type_as", [mask, source], source)
    count = writer.call("aten::sum", [floats, writer.make_none()], node.output())
    return [writer.call("aten::div", [total, count], node.output())]


def _lift(writer: Writer, value: Any, target: Any, mask: Any) -> Optional[Any]:
    """Compute for every element what `value` is for those that the mask chooses, or None."""
    node = value.node()
    if not _is_tensor(value) or get_shape(value) == [] or node.kind() == "prim::Constant":
        return value
    if node.kind() == "aten::index":
        source, chosen = node.inputsAt(0), list(node.inputsAt(1).node().inputs())
        same = len(chosen) == 1 and _is_same(chosen[0], mask)
        return source if same and get_shape(source) == get_shape(target) else None
    if node.kind() not in _ELEMENTWISE:
        return None
    inputs = [_lift(writer, item, target, mask) for item in node.inputs()]
    if any(item is None for item in inputs):
        return None
    return writer.call(node.kind(), inputs, target)


def _strip_casts(value: Any) -> Any:
    """Return what a value is a cast of that changes nothing."""
    while value.node().kind() == "aten::to":
        source = value.node().inputsAt(0)
        if source.type().scalarType() != value.type().scalarType():
            break
        value = source
    return value


def _is_same(one: Any, other: Any) -> bool:
    """Tell whether two values are one, or computed alike."""
    one, other = _strip_casts(one), _strip_casts(other)
    if one.unique() == other.unique():
        return True
    a, b = one.node(), other.node()
    if a.kind() != b.kind() or a.kind() == "prim::Param":
        return False
    if a.kind() == "prim::Constant":
        x, y = one.toIValue(), other.toIValue()
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else bool(x == y)
    first, second = list(a.inputs()), list(b.inputs())
    return len(first) == len(second) and all(_is_same(x, y) for x, y in zip(first, second))
