"""Frozen graphs: what is known at conversion is computed then, and static shapes are found."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from stages.kit.tensorflow import import_tensorflow

Shape = Optional[Tuple[Optional[int], ...]]

# Results larger than this (elements) stay an operator, unless an operand was as large already.
_LIMIT = 1 << 22
# No inputs, yet another value each time or with each machine; or made to stay.
_NEVER = ("Placeholder", "RandomUniform", "RandomStandardNormal", "TruncatedNormal", "Multinomial")


def key(name: str) -> str:
    """A NodeDef's input as the name of a tensor: `name` is `name:0`."""
    return name if ":" in name else f"{name}:0"


def owner(name: str) -> str:
    """The node that an input of a NodeDef comes from."""
    return name.lstrip("^").partition(":")[0]


def short(name: str) -> str:
    """A tensor's name as a NodeDef has it among its inputs: without `:0`."""
    return name[:-2] if name.endswith(":0") else name


def data_inputs(node: Any) -> List[str]:
    return [name for name in node.input if not name.startswith("^")]


def constant_node(name: str, array: np.ndarray) -> Any:
    """A Const with this value."""
    tf = import_tensorflow()
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
    return node


def constants(graph_def: Any) -> Dict[str, np.ndarray]:
    """The value of each Const, by the tensor's name."""
    tf = import_tensorflow()
    return {
        f"{node.name}:0": tf.make_ndarray(node.attr["value"].tensor)
        for node in graph_def.node
        if node.op == "Const"
    }


def shapes_and_types(graph_def: Any) -> Tuple[Dict[str, Shape], Dict[str, int]]:
    """The static shape of each tensor, as far as TensorFlow infers it, and its type's number."""
    graph = _imported(graph_def)
    found: Dict[str, Shape] = {}
    types: Dict[str, int] = {}
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            rank = tensor.shape.rank
            found[tensor.name] = None if rank is None else tuple(tensor.shape.as_list())
            types[tensor.name] = tensor.dtype.as_datatype_enum
    return found, types


def in_order(graph_def: Any) -> List[Any]:
    """The nodes, each after those that it reads."""
    nodes = {node.name: node for node in graph_def.node}
    done: Set[str] = set()
    ordered: List[Any] = []
    for first in graph_def.node:
        pending = [first.name]
        while pending:
            name = pending[-1]
            missing = [owner(i) for i in nodes[name].input if owner(i) not in done]
            if name in done or not missing:
                pending.pop()
                if name not in done:
                    done.add(name)
                    ordered.append(nodes[name])
            else:
                pending += missing
    return ordered


def pruned(graph_def: Any, wanted: Sequence[str]) -> Any:
    """What these tensors need."""
    tf = import_tensorflow()
    from tensorflow.python.framework import graph_util_impl

    names = list(dict.fromkeys(owner(name) for name in wanted))
    with _quiet(tf):
        return graph_util_impl.extract_sub_graph(graph_def, names)


def folded(graph_def: Any, kept: Sequence[str]) -> Any:
    """The graph with all that needs no input computed. `kept` are inputs and outputs."""
    names = {owner(name) for name in kept}
    while True:
        graph = _imported(graph_def)
        # What shapes are computed from may give more static shapes: until there are none left.
        shapes = _static_shapes(graph_def, graph, names)
        known = shapes or _computed(graph_def, graph, names)
        if known:
            graph_def = pruned(_with_constants(graph_def, known), kept)
        if not shapes:
            return graph_def


def _with_constants(graph_def: Any, known: Dict[str, np.ndarray]) -> Any:
    """The graph with a Const in the place of each of these tensors."""
    nodes: List[Any] = []
    for node in graph_def.node:
        for index, name in enumerate(node.input):
            if key(name) in known and not name.startswith("^"):
                node.input[index] = _constant_name(key(name))
        nodes.append(node)
    nodes += [constant_node(_constant_name(name), value) for name, value in known.items()]
    return with_nodes(graph_def, nodes)


def _constant_name(tensor: str) -> str:
    return f"{short(tensor)}/known".replace(":", "/")


def _static_shapes(graph_def: Any, graph: Any, kept: Set[str]) -> Dict[str, np.ndarray]:
    """The values of operators that ask for a shape that is known."""
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


def _computed(graph_def: Any, graph: Any, kept: Set[str]) -> Dict[str, np.ndarray]:
    """The values of tensors that depend on no input and are read by operators that do."""
    tf = import_tensorflow()
    constant: Set[str] = set()
    for node in in_order(graph_def):
        operation = graph.get_operation_by_name(node.name)
        known = bool(node.input) and all(owner(name) in constant for name in node.input)
        if node.op == "Const" or (known and node.op not in _NEVER and not operation._is_stateful):
            constant.add(node.name)
    inner = constant - kept
    wanted = {
        key(name): graph.get_tensor_by_name(key(name))
        for node in graph_def.node
        if node.name not in constant or node.name in kept
        for name in data_inputs(node)
        if owner(name) in inner
    }
    wanted = {name: tensor for name, tensor in wanted.items() if tensor.op.type != "Const"}
    if not wanted:
        return {}
    with tf.compat.v1.Session(graph=graph, config=_single_threaded(tf)) as session:
        values = session.run(wanted)
    found: Dict[str, np.ndarray] = {}
    for name, tensor in wanted.items():
        value = np.asarray(values[name])
        operands = [operand.shape.num_elements() or 0 for operand in tensor.op.inputs]
        small = value.size <= max([_LIMIT, *operands])
        if small and value.dtype.kind in "fiub":
            found[name] = value
    return found


def _imported(graph_def: Any) -> Any:
    tf = import_tensorflow()
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    return graph


def with_nodes(graph_def: Any, nodes: Sequence[Any]) -> Any:
    """The same graph with other nodes: its functions and versions stay."""
    result = type(graph_def)()
    result.versions.CopyFrom(graph_def.versions)
    result.library.CopyFrom(graph_def.library)
    result.node.extend(nodes)
    return result


def _single_threaded(tf: Any) -> Any:
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1
    )
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


class _quiet:
    """Without the deprecation warnings of what has no successor for a GraphDef."""

    def __init__(self, tf: Any) -> None:
        self._logger = tf.get_logger()

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel("ERROR")

    def __exit__(self, *error: Any) -> None:
        self._logger.setLevel(self._level)
