"""Constant folding and static shapes of frozen graphs, and helpers for their nodes."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from stages.frameworks.tensorflow import import_tensorflow, make_session_config

Shape = Optional[Tuple[Optional[int], ...]]

# Results with more elements than this stay operators, unless an operand is as large already.
_LIMIT = 1 << 22
# Never folded: random operators, whose value differs by run or machine, and placeholders.
_NEVER = ("Placeholder", "RandomUniform", "RandomStandardNormal", "TruncatedNormal", "Multinomial")


def make_tensor_name(name: str) -> str:
    """Return the full tensor name of a NodeDef's input: `name` stands for `name:0`."""
    return name if ":" in name else f"{name}:0"


def get_node_name(name: str) -> str:
    """Return the name of the node that an input of a NodeDef comes from."""
    return name.lstrip("^").partition(":")[0]


def shorten_name(name: str) -> str:
    """Return a tensor's name as a NodeDef lists it among its inputs: without `:0`."""
    return name[:-2] if name.endswith(":0") else name


def list_data_inputs(node: Any) -> List[str]:
    return [name for name in node.input if not name.startswith("^")]


def make_constant_node(name: str, array: np.ndarray) -> Any:
    """Return a Const node with this value."""
    tf = import_tensorflow()
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
    return node


def read_constants(graph_def: Any) -> Dict[str, np.ndarray]:
    """Return the value of each Const by tensor name."""
    tf = import_tensorflow()
    return {
        f"{node.name}:0": tf.make_ndarray(node.attr["value"].tensor)
        for node in graph_def.node
        if node.op == "Const"
    }


def infer_shapes_and_types(graph_def: Any) -> Tuple[Dict[str, Shape], Dict[str, int]]:
    """Return each tensor's static shape, as far as TensorFlow infers it, and its dtype's number."""
    graph = _import_graph(graph_def)
    found: Dict[str, Shape] = {}
    types: Dict[str, int] = {}
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            rank = tensor.shape.rank
            found[tensor.name] = None if rank is None else tuple(tensor.shape.as_list())
            types[tensor.name] = tensor.dtype.as_datatype_enum
    return found, types


def sort_nodes(graph_def: Any) -> List[Any]:
    """Return the nodes in topological order: each after those that it reads.

    The graph must have no cycle, as one with lowered loops has.
    """
    nodes = {node.name: node for node in graph_def.node}
    done: Set[str] = set()
    ordered: List[Any] = []
    for first in graph_def.node:
        pending = [first.name]
        while pending:
            name = pending[-1]
            missing = [get_node_name(i) for i in nodes[name].input if get_node_name(i) not in done]
            if name in done or not missing:
                pending.pop()
                if name not in done:
                    done.add(name)
                    ordered.append(nodes[name])
            else:
                pending += missing
    return ordered


def prune(graph_def: Any, wanted: Sequence[str]) -> Any:
    """Return the subgraph that these tensors need."""
    tf = import_tensorflow()
    from tensorflow.python.framework import graph_util_impl

    names = list(dict.fromkeys(get_node_name(name) for name in wanted))
    with _quiet(tf):
        return graph_util_impl.extract_sub_graph(graph_def, names)


def fold_constants(graph_def: Any, kept: Sequence[str]) -> Any:
    """Return the graph after constant folding; `kept` are its inputs and outputs."""
    names = {get_node_name(name) for name in kept}
    while True:
        graph = _import_graph(graph_def)
        # A folded shape may make further shapes static: repeat until no more are found.
        shapes = _compute_static_shapes(graph_def, graph, names)
        known = shapes or _compute_constants(graph_def, graph, names)
        if known:
            graph_def = prune(_insert_constants(graph_def, known), kept)
        if not shapes:
            return graph_def


def _insert_constants(graph_def: Any, known: Dict[str, np.ndarray]) -> Any:
    """Return the graph with each of these tensors replaced by a Const."""
    nodes: List[Any] = []
    for node in graph_def.node:
        for index, name in enumerate(node.input):
            if make_tensor_name(name) in known and not name.startswith("^"):
                node.input[index] = _make_constant_name(make_tensor_name(name))
        nodes.append(node)
    nodes += [make_constant_node(_make_constant_name(name), value) for name, value in known.items()]
    return replace_nodes(graph_def, nodes)


def _make_constant_name(tensor: str) -> str:
    return f"{shorten_name(tensor)}/known".replace(":", "/")


def _compute_static_shapes(graph_def: Any, graph: Any, kept: Set[str]) -> Dict[str, np.ndarray]:
    """Return the values of Shape, Size and Rank operators on tensors of static shape."""
    found: Dict[str, np.ndarray] = {}
    for node in graph_def.node:
        if node.op not in ("Shape", "Size", "Rank") or node.name in kept:
            continue
        operation = graph.get_operation_by_name(node.name)
        if operation.inputs[0].shape.is_fully_defined():
            dims = operation.inputs[0].shape.as_list()
            value = {"Shape": dims, "Size": int(np.prod(dims)), "Rank": len(dims)}[node.op]
            found[f"{node.name}:0"] = np.array(value, operation.outputs[0].dtype.as_numpy_dtype)
    return found


def _compute_constants(graph_def: Any, graph: Any, kept: Set[str]) -> Dict[str, np.ndarray]:
    """Compute the tensors that depend on no input and are read by operators that do."""
    tf = import_tensorflow()
    constant: Set[str] = set()
    for node in sort_nodes(graph_def):
        operation = graph.get_operation_by_name(node.name)
        known = bool(node.input) and all(get_node_name(name) in constant for name in node.input)
        if node.op == "Const" or (known and node.op not in _NEVER and not operation._is_stateful):
            constant.add(node.name)
    inner = constant - kept
    wanted = {
        make_tensor_name(name): graph.get_tensor_by_name(make_tensor_name(name))
        for node in graph_def.node
        if node.name not in constant or node.name in kept
        for name in list_data_inputs(node)
        if get_node_name(name) in inner
    }
    wanted = {
        name: tensor
        for name, tensor in wanted.items()
        if tensor.op.type != "Const" and tensor.dtype not in (tf.variant, tf.resource, tf.string)
    }
    if not wanted:
        return {}
    with tf.compat.v1.Session(graph=graph, config=make_session_config(tf, graph_def)) as session:
        values = session.run(wanted)
    found: Dict[str, np.ndarray] = {}
    for name, tensor in wanted.items():
        value = np.asarray(values[name])
        operands = [operand.shape.num_elements() or 0 for operand in tensor.op.inputs]
        small = value.size <= max([_LIMIT, *operands])
        if small and value.dtype.kind in "fiub":
            found[name] = value
    return found


def _import_graph(graph_def: Any) -> Any:
    tf = import_tensorflow()
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    return graph


def replace_nodes(graph_def: Any, nodes: Sequence[Any]) -> Any:
    """Return a graph with other nodes, but the same functions and versions."""
    result = type(graph_def)()
    result.versions.CopyFrom(graph_def.versions)
    result.library.CopyFrom(graph_def.library)
    result.node.extend(nodes)
    return result


class _quiet:
    """A context without the deprecation warnings of GraphDef functions that have no successor."""

    def __init__(self, tf: Any) -> None:
        self._logger = tf.get_logger()

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel("ERROR")

    def __exit__(self, *error: Any) -> None:
        self._logger.setLevel(self._level)
