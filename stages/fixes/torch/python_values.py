"""What a script computes with Python's values: numbers, strings, lists, tuples, dictionaries."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Sequence

import torch


class Traced:
    """A number whose value depends on the model's inputs: a tensor without axes, in the trace."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


# The types of numbers in a script: how Python and a tensor convert to them.
RESULT_TYPES: Dict[str, Any] = {
    "IntType": (int, torch.int64),
    "FloatType": (float, torch.float32),
    "BoolType": (bool, torch.bool),
    "NumberType": (None, None),
}


@contextmanager
def untraced() -> Iterator[None]:
    """Record nothing in the block, and read sizes as numbers."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


def contains(value: Any, test: Callable[[Any], bool]) -> bool:
    """Tell whether a value, or one inside it, passes a test."""
    if isinstance(value, (list, tuple)):
        return any(contains(item, test) for item in value)
    if isinstance(value, dict):
        return any(contains(item, test) for item in value.values())
    return test(value)


def map_values(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return a value with all those inside its lists, tuples and dictionaries mapped."""
    if isinstance(value, (list, tuple)):
        return type(value)(map_values(item, function) for item in value)
    if isinstance(value, dict):
        return {key: map_values(item, function) for key, item in value.items()}
    return function(value)


def compute_scalars(node: Any, arguments: Sequence[Any]) -> Any:
    """Run an operator on numbers and strings, with exactly the overload that the script names."""
    graph = torch._C.Graph()
    copies: Dict[str, Any] = {}
    given = []
    for value, argument in zip(node.inputs(), arguments):
        if value.debugName() not in copies:
            copies[value.debugName()] = graph.addInput()
            copies[value.debugName()].setType(value.type())
            given.append(argument)
    copy = graph.createClone(node, lambda value: copies[value.debugName()])
    graph.appendNode(copy)
    for output in copy.outputs():
        graph.registerOutput(output)
    function = torch._C._create_function_from_graph("compute", graph)
    with untraced():
        return function(*given)


def _slice(items: Any, *bounds: Any) -> Any:
    start, stop, step = (*bounds, 0, 2**63 - 1, 1)[:3] if len(bounds) < 3 else bounds[:3]
    return items[start:stop:step]


def _set(items: Any, key: Any, value: Any) -> None:
    items[key] = value


def _delete(items: Any, key: Any) -> None:
    del items[key]


def _copy(items: Any) -> Any:
    return type(items)(items)


def _add(one: Any, other: Any) -> Any:
    return one + other


def _extend(items: List[Any], others: Any) -> List[Any]:
    items.extend(others)
    return items


def _append(items: List[Any], item: Any) -> List[Any]:
    items.append(item)
    return items


def _sort(items: List[Any], reverse: bool = False) -> None:
    items.sort(reverse=reverse)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)


# Operators whose first argument is a list, a tuple, a dictionary or a string. They are Python's
# own, since a call of the real ones would work on copies.
CONTAINER_OPERATORS: Dict[str, Callable[..., Any]] = {
    "aten::len": len,
    "aten::__getitem__": lambda items, key: items[key],
    "aten::slice": _slice,
    "aten::add": _add,
    "aten::mul": lambda items, count: items * count,
    "aten::eq": _same,
    "aten::ne": lambda one, other: not _same(one, other),
    "aten::__contains__": lambda items, item: item in items,
    "aten::list": list,
    "aten::copy": _copy,
    "aten::append": _append,
    "aten::extend": _extend,
    "aten::add_": _extend,
    "aten::insert": list.insert,
    "aten::pop": lambda items, *key: items.pop(*key),
    "aten::remove": list.remove,
    "aten::reverse": list.reverse,
    "aten::sort": _sort,
    "aten::sorted": sorted,
    "aten::clear": lambda items: items.clear(),
    "aten::index": list.index,
    "aten::count": list.count,
    "aten::_set_item": _set,
    "aten::Delete": _delete,
    "aten::keys": lambda items: list(items.keys()),
    "aten::values": lambda items: list(items.values()),
    "aten::items": lambda items: list(items.items()),
    "aten::get": lambda items, key, *default: items.get(key, *default),
    "aten::setdefault": lambda items, key, default: items.setdefault(key, default),
    "aten::update": lambda items, others: items.update(others),
    "aten::popitem": lambda items: items.popitem(),
    "aten::format": lambda text, *values: text.format(*values),
    "prim::min": min,
    "prim::max": max,
}
MUTATING = {
    *("aten::append", "aten::extend", "aten::add_", "aten::insert", "aten::pop", "aten::remove"),
    *("aten::reverse", "aten::sort", "aten::clear", "aten::_set_item", "aten::Delete"),
    *("aten::setdefault", "aten::update", "aten::popitem"),
}
