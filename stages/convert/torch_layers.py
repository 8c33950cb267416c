"""What torch 1.5.1's exporter knows but does not write: the module behind each ONNX tensor.

`record_export` listens to an export without changing a byte of the file: the exporter renames all
values at the end anyway, and leaves scopes out.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from torch.onnx import utils

_ROOT = "__module"
# Keeps a report readable: of a larger graph only the layers of the first tensors are listed.
_MOST_LAYERS = 20_000


@dataclass
class Recording:
    """What one export revealed.

    `layers` maps an ONNX tensor to its module path (tensors of the model itself are left out), and
    `values` maps it to the same tensor's value in `graph`. `graph` is PyTorch's own graph of the
    model, or None: its inputs are the model's inputs and `parameters`, and every value has a name.
    """

    layers: Dict[str, str] = field(default_factory=dict)
    values: Dict[str, str] = field(default_factory=dict)
    graph: Optional[Any] = None
    parameters: List[Any] = field(default_factory=list)


def find_lines(recording: Recording) -> Dict[str, str]:
    """Return the line of the user's code behind each ONNX tensor, as far as the trace knows it.

    An operator that is written as a sign (`x / 2`) has no line of its own: it has that of the
    operator before.
    """
    if recording.graph is None:
        return {}
    lines, last = {}, ""
    for node in _iterate_nodes(recording.graph):
        # The stack of the call, the innermost frame first.
        for frame in (node.sourceRange() or "").splitlines():
            place = re.match(r"(.+)\((\d+)\): \w+$", frame)
            if place is not None and "/site-packages/" not in place[1]:
                last = f"{os.path.basename(place[1])}, line {place[2]}"
                said = last
                break
        else:
            said = last and f"at or after {last}"
        for output in node.outputs():
            lines[output.debugName()] = said
    found = {name: lines.get(value, "") for name, value in recording.values.items()}
    return {name: line for name, line in found.items() if line}


@contextmanager
def record_export() -> Iterator[Recording]:
    """Record the `torch.onnx.export` in the block; not thread-safe, since it patches torch."""
    recording = Recording()
    listener = _Listener(recording)
    places = [
        (utils, "_trace_and_get_graph_from_model", listener.trace),
        (utils, "_propagate_and_assign_input_shapes", listener.wrap_shape_pass),
        (utils, "_run_symbolic_function", listener.wrap_symbolic_call),
        (utils, "_model_to_graph", listener.finish),
        (torch._C, "_jit_pass_prepare_division_for_onnx", listener.prepare),
        (torch._C, "_jit_pass_canonicalize", listener.canonicalize),
    ]
    saved = [getattr(place, name) for place, name, _ in places]
    try:
        for (place, name, wrap), function in zip(places, saved):
            setattr(place, name, wrap(function))
        yield recording
    finally:
        for (place, name, _), function in zip(places, saved):
            setattr(place, name, function)


class _Listener:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        # Name of an ONNX value before the last renaming -> PyTorch's value and its scope.
        self.origins: Dict[str, Tuple[str, str]] = {}
        # Name of a value in PyTorch's graph -> its name in the copy of the graph that is kept.
        self.names: Dict[str, str] = {}
        self.final: Dict[str, Tuple[str, str]] = {}
        self.outputs: List[str] = []
        # Name of a value in a scripted model's graph -> path of its module.
        self.script_paths: Dict[str, str] = {}
        self.script_order: Optional[List[Tuple[str, str]]] = None

    def trace(self, function: Any) -> Any:
        def wrapper(model: Any, *args: Any) -> Any:
            before = torch.jit._trace_module_map
            torch.jit._trace_module_map = {
                module: name or _ROOT for name, module in model.named_modules()
            }
            try:
                return function(model, *args)
            finally:
                torch.jit._trace_module_map = before

        return wrapper

    def wrap_shape_pass(self, function: Any) -> Any:
        def wrapper(graph: Any, *args: Any) -> Any:
            graph = function(graph, *args)
            if self.script_order is not None:
                nodes = [node for node in _iterate_nodes(graph) if node.kind().startswith("aten::")]
                if [node.kind() for node in nodes] == [kind for kind, _ in self.script_order]:
                    for node, (_, path) in zip(nodes, self.script_order):
                        for output in node.outputs():
                            self.script_paths[output.debugName()] = path
            return graph

        return wrapper

    def prepare(self, function: Any) -> Any:
        def wrapper(graph: Any) -> Any:
            # Names set in the original could reach the file, so only the copy's values get names.
            copy = graph.copy()
            for index, (node, copied) in enumerate(zip(graph.nodes(), copy.nodes())):
                for place, (output, value) in enumerate(zip(node.outputs(), copied.outputs())):
                    value.setDebugName(f"v{index}_{place}")
                    self.names[output.debugName()] = value.debugName()
            self.recording.graph = copy
            return function(graph)

        return wrapper

    def wrap_symbolic_call(self, function: Any) -> Any:
        def wrapper(graph: Any, node: Any, *args: Any, **kwargs: Any) -> Any:
            result = function(graph, node, *args, **kwargs)
            values = [result] if isinstance(result, torch._C.Value) else result
            for output, value in zip(node.outputs(), values or ()):
                if isinstance(value, torch._C.Value):
                    name = output.debugName()
                    scope = node.scopeName() or self.script_paths.get(name, "")
                    self.origins.setdefault(value.debugName(), (name, scope))
            return result

        return wrapper

    def canonicalize(self, function: Any) -> Any:
        def wrapper(graph: Any) -> Any:
            before = [[output.debugName() for output in n.outputs()] for n in graph.nodes()]
            graph = function(graph)
            for names, node in zip(before, graph.nodes()):
                for name, output in zip(names, node.outputs()):
                    if name in self.origins:
                        self.final[output.debugName()] = self.origins[name]
            self.outputs = [output.debugName() for output in graph.outputs()]
            return graph

        return wrapper

    def finish(self, function: Any) -> Any:
        def wrapper(model: Any, *args: Any, **kwargs: Any) -> Any:
            script = isinstance(model, torch.jit.ScriptModule)
            self.script_order = _list_script_operators(model._c) if script else None
            result = function(model, *args, **kwargs)
            graph = result[0]
            renamed = {n: o.debugName() for n, o in zip(self.outputs, graph.outputs())}
            origins = {renamed.get(name, name): origin for name, origin in self.final.items()}
            recording = self.recording
            recording.values = {
                name: self.names[value]
                for name, (value, _) in origins.items()
                if value in self.names
            }
            recording.layers = _collect_layers(graph, origins)
            if script:
                recording.parameters = list(
                    torch._C._jit_pass_lower_graph(model.forward.graph, model._c)[1]
                )
            else:
                recording.parameters = list(utils._unique_state_dict(model).values())
            return result

        return wrapper


def _collect_layers(graph: Any, origins: Dict[str, Tuple[str, str]]) -> Dict[str, str]:
    """Map each tensor to its module path; a node that has none takes the next node's."""
    layers: Dict[str, str] = {}
    following = ""
    for node in reversed(list(graph.nodes())):
        names = [output.debugName() for output in node.outputs()]
        own = [origins[name][1] for name in names if name in origins and origins[name][1]]
        scope = node.scopeName() or (own[0] if own else "")
        following = scope or following
        path = following.rpartition("/")[2]
        if path and path != _ROOT and node.kind() != "onnx::Constant":
            layers.update(dict.fromkeys(names, path))
    return dict(list(layers.items())[::-1][:_MOST_LAYERS])


def _iterate_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of its blocks, in order."""
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _iterate_nodes(block)


def _list_script_operators(module: Any) -> Optional[List[Tuple[str, str]]]:
    """List a scripted model's operators in the order that inlining gives them, with paths."""
    order: List[Tuple[str, str]] = []
    try:
        _walk(module, "forward", "", order)
    except Exception:  # TorchScript may hold anything, and only names are lost
        return None
    return order


def _walk(module: Any, method: str, path: str, order: List[Tuple[str, str]]) -> None:
    graph = module._get_method(method).graph
    modules = {next(iter(graph.inputs())).debugName(): (module, path)}
    _walk_nodes(graph, modules, path, order)


def _walk_nodes(
    block: Any, modules: Dict[str, Tuple[Any, str]], path: str, order: List[Tuple[str, str]]
) -> None:
    for node in block.nodes():
        first = next(iter(node.inputs()), None)
        owner = modules.get(first.debugName()) if first is not None else None
        if node.kind() == "prim::GetAttr" and owner is not None:
            name = node.s("name")
            if node.output().type().kind() == "ClassType":
                child = dict(torch._C.ModuleDict(owner[0]).items()).get(name)
                if child is not None:
                    where = f"{owner[1]}.{name}" if owner[1] else name
                    modules[node.output().debugName()] = (child, where)
        elif node.kind() == "prim::CallMethod" and owner is not None:
            _walk(owner[0], node.s("name"), owner[1], order)
        else:
            if node.kind().startswith("aten::"):
                order.append((node.kind(), path or _ROOT))
            for inner in node.blocks():
                _walk_nodes(inner, modules, path, order)
