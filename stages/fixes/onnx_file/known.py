"""What is known of an ONNX graph while its nodes are rewritten: constants, shapes and types."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np
from onnx import helper, numpy_helper

from stages.fixes.onnx_file.refusal import list_graphs, walk
from stages.frameworks.onnx_runtime import make_plain_settings, open_session

# A computed constant with more elements than this is not looked at.
_LIMIT = 1 << 22
# Of floats with more elements than this, a run on zeros keeps the shape and not the values.
_KEPT = 1 << 10
_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")
_NOT_COMPUTED = (*_RANDOM, "RandomUniformLike", "If", "Loop", "Scan", "Dropout")

Shape = List[Optional[int]]


class Known:
    """Answers about the tensors of a graph whose nodes so far are of operator set 12 already.

    What the file itself does not tell, ONNX Runtime does: it computes constants, and a run on
    zeros shows shapes and types. A shape that hangs on an open size of an input stays unknown.
    `outer` is what is known around a subgraph.
    """

    def __init__(self, model: Any, graph: Any, outer: Optional[Known] = None) -> None:
        self.model = model
        self.graph = graph
        self.outer = outer
        self._constants: Dict[str, Optional[np.ndarray]] = {}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._producers: Dict[str, Any] = {}
        self._shapes: Dict[str, Shape] = {}
        self._types: Dict[str, int] = {}
        self._inputs = {value.name for value in graph.input}
        # What depends on inputs, by more than their shapes.
        self._computed = self._inputs - set(self._tensors)
        # Of the run on zeros: how many nodes it has had, its values, and what hangs on open sizes.
        self._looked_at = 0
        self._values: Dict[str, np.ndarray] = {}
        self._open: Set[str] = set()
        for value in [*graph.input, *graph.output, *graph.value_info]:
            kind = value.type.tensor_type
            if not value.type.HasField("tensor_type"):
                continue
            self._types[value.name] = kind.elem_type
            if kind.HasField("shape"):
                self._shapes[value.name] = [
                    d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim
                ]
        for tensor in graph.initializer:
            self._types[tensor.name] = tensor.data_type
            self._shapes[tensor.name] = list(tensor.dims)

    def add_node(self, node: Any) -> None:
        depends = node.op_type not in ("Shape", "Size") and any(
            name in self._computed for name in node.input
        )
        for name in node.output:
            self._producers[name] = node
            if depends or node.op_type in _NOT_COMPUTED:
                self._computed.add(name)

    def add_tensor(self, tensor: Any) -> None:
        self._tensors[tensor.name] = tensor
        self._types[tensor.name] = tensor.data_type
        self._shapes[tensor.name] = list(tensor.dims)

    def get_constant(self, name: str) -> Optional[np.ndarray]:
        """Return a tensor's value if it depends on no input; None if it does, or is too large."""
        if name not in self._constants:
            self._constants[name] = None  # also where a node reads itself, in a broken file
            self._constants[name] = self._compute_constant(name)
        return self._constants[name]

    def _compute_constant(self, name: str) -> Optional[np.ndarray]:
        tensor = self._tensors.get(name)
        if tensor is not None:
            return np.array(numpy_helper.to_array(tensor))
        node = self._producers.get(name)
        if node is None:
            inside = name in self._inputs
            return None if inside or self.outer is None else self.outer.get_constant(name)
        if name in self._computed:
            return None
        if node.op_type in ("Shape", "Size"):
            shape = self.get_shape(node.input[0])
            if shape is not None and None not in shape:
                sizes = np.array(shape, np.int64)
                return sizes if node.op_type == "Shape" else np.prod(sizes, dtype=np.int64)
        arrays = {}
        for given in node.input:
            if given:
                array = self.get_constant(given)
                if array is None or array.size > _LIMIT:
                    return None
                arrays[given] = array
        return _run_node(node, arrays, name)

    def get_shape(self, name: str) -> Optional[Shape]:
        """Return a tensor's shape, with None for sizes that stay unknown; None without a rank."""
        found = self._shapes.get(name)
        if found is None or None in found:
            constant = self.get_constant(name)
            if constant is not None:
                return list(constant.shape)
            self._look()
            found = self._shapes.get(name, found)
        if found is None and self.outer is not None and name not in self._producers:
            return self.outer.get_shape(name)
        return found

    def set_shape(self, name: str, shape: Shape) -> None:
        self._shapes[name] = shape

    def get_rank(self, name: str) -> Optional[int]:
        found = self._shapes.get(name)
        if found is None:
            found = self.get_shape(name)
        return None if found is None else len(found)

    def get_type(self, name: str) -> int:
        """Return a tensor's TensorProto.DataType, 0 if it is unknown."""
        if not self._types.get(name):
            constant = self.get_constant(name)
            if constant is not None:
                return int(helper.mapping.NP_TYPE_TO_TENSOR_TYPE[constant.dtype])
            self._look()
        kind = self._types.get(name, 0)
        return kind or (self.outer.get_type(name) if self.outer is not None else 0)

    def _look(self) -> None:
        """Run the nodes since the last look on zeros, and note what they give."""
        if self.outer is None:
            nodes = list(self.graph.node[self._looked_at :])
            self._looked_at += len(nodes)
            self._run_part(nodes)

    def _run_part(self, nodes: Sequence[Any]) -> None:
        """Run nodes at once or, if that fails, the halves: only what cannot run stays unknown."""
        nodes = [node for node in nodes if any(node.output)]
        if not nodes:
            return
        made = {name for node in nodes for name in node.output if name}
        names = [name for node in nodes for name in node.output if name]
        read = {name for node in nodes for name in self._list_read(node)} - made
        feeds = {name: self._make_value(name) for name in read if name not in self._tensors}
        known = {name: value for name, value in feeds.items() if value is not None}
        error: Any = None
        if len(known) == len(feeds):
            try:
                found = self._run_nodes(nodes, known, names)
            except Exception as refused:  # ONNX Runtime has a type for each of its statuses
                error = refused
            else:
                self._note_open(nodes)
                for name, value in zip(names, found):
                    self._note_value(name, value)
                return
        if len(nodes) > 1:
            self._run_part(nodes[: len(nodes) // 2])
            self._run_part(nodes[len(nodes) // 2 :])
        elif error is not None:
            print(f"The node of '{names[0]}' does not run on zeros: {error!s:.200}")

    def _run_nodes(
        self, nodes: Sequence[Any], feeds: Dict[str, np.ndarray], names: Sequence[str]
    ) -> List[Any]:
        types = helper.mapping.NP_TYPE_TO_TENSOR_TYPE
        read = {name for node in nodes for name in self._list_read(node)}
        graph = helper.make_graph(
            nodes,
            "part",
            [helper.make_tensor_value_info(n, types[v.dtype], v.shape) for n, v in feeds.items()],
            [helper.make_empty_tensor_value_info(name) for name in names],
            [self._tensors[name] for name in sorted(read) if name in self._tensors],
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        return _run(model, {n: np.array(v, order="C") for n, v in feeds.items()}, names)

    def _list_read(self, node: Any) -> List[str]:
        """Return the tensors of this graph that a node reads, within its subgraphs too."""
        inner: List[str] = []
        for attribute in node.attribute:
            for graph in list_graphs(attribute):
                inner += [value.name for value in graph.output]
                inner += [name for nested in walk(graph) for name in nested.input]
        known = (self._tensors, self._inputs, self._producers)
        inner = [name for name in inner if any(name in names for names in known)]
        return [name for name in (*node.input, *inner) if name]

    def _make_value(self, name: str) -> Optional[np.ndarray]:
        """Return a tensor's value in the run on zeros; None if it is not known."""
        value = self._values.get(name)
        shape, kind = self._shapes.get(name), self._types.get(name)
        dtype = helper.mapping.TENSOR_TYPE_TO_NP_TYPE.get(kind)
        if value is None and shape is not None and dtype is not None:
            if None in shape:
                self._open.add(name)
            sizes = [1 if size is None else size for size in shape]
            value = self._values[name] = np.broadcast_to(np.zeros((), dtype), sizes)
        return value

    def _note_open(self, nodes: Sequence[Any]) -> None:
        for node in nodes:
            if not self._open.isdisjoint(self._list_read(node)):
                self._open.update(node.output)

    def _note_value(self, name: str, value: Any) -> None:
        if not isinstance(value, np.ndarray):
            return
        if value.dtype.kind == "f" and value.size > _KEPT:
            value = np.broadcast_to(np.zeros((), value.dtype), value.shape)
        self._values[name] = value
        self._types[name] = helper.mapping.NP_TYPE_TO_TENSOR_TYPE.get(value.dtype, 0)
        if name not in self._open:
            self._shapes[name] = list(value.shape)


def _run_node(node: Any, arrays: Dict[str, np.ndarray], name: str) -> Optional[np.ndarray]:
    """Compute one node of constants; None if ONNX Runtime cannot, or if it is too large."""
    tensors = [numpy_helper.from_array(array, given) for given, array in arrays.items()]
    outputs = [helper.make_empty_tensor_value_info(name)]
    graph = helper.make_graph([node], "constant", [], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)])
    try:
        result = _run(model, {}, [name])[0]
    except Exception:  # ONNX Runtime has an exception type for each of its statuses
        return None
    return result if isinstance(result, np.ndarray) and result.size <= _LIMIT else None


def _run(model: Any, feeds: Dict[str, np.ndarray], names: Sequence[str]) -> List[Any]:
    settings = make_plain_settings()
    settings.log_severity_level = 4  # some nodes do not run on zeros, which is no error
    return list(open_session(model, settings).run(list(names), feeds))
