"""What is known of an ONNX graph while its nodes are rewritten: constants, shapes and types."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

# A computed constant with more elements than this is not looked at.
_LIMIT = 1 << 22
_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")
_NOT_COMPUTED = (*_RANDOM, "RandomUniformLike", "If", "Loop", "Scan", "Dropout")

Shape = List[Optional[int]]


class Known:
    """Answers about the tensors of a graph whose nodes so far are of operator set 12 already.

    What the file itself does not tell, ONNX Runtime does: it computes constants, and a run on
    zeros shows shapes and types. `outer` is what is known around a subgraph.
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
        self._seen_at = -1
        for value in [*graph.input, *graph.output, *graph.value_info]:
            kind = value.type.tensor_type
            if not value.type.HasField("tensor_type"):
                continue
            self._types[value.name] = kind.elem_type
            if kind.HasField("shape"):
                self._shapes[value.name] = [d.dim_value or None for d in kind.shape.dim]
        for tensor in graph.initializer:
            self._types[tensor.name] = tensor.data_type
            self._shapes[tensor.name] = list(tensor.dims)

    def add_node(self, node: Any) -> None:
        for name in node.output:
            self._producers[name] = node

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
            inside = any(value.name == name for value in self.graph.input)
            return None if inside or self.outer is None else self.outer.get_constant(name)
        if node.op_type in _NOT_COMPUTED:
            return None
        if node.op_type in ("Shape", "Size"):
            shape = self._shapes.get(node.input[0])
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
        """Run the nodes so far on zeros, and note the shape and type of each tensor."""
        if self.outer is not None or self._seen_at == len(self.graph.node):
            return
        self._seen_at = len(self.graph.node)
        names = [name for node in self.graph.node for name in node.output if name]
        part = type(self.model).FromString(self.model.SerializeToString())
        part.ir_version = min(part.ir_version, onnx.IR_VERSION)
        del part.graph.output[:], part.graph.value_info[:]
        part.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        feeds = {}
        for value in part.graph.input:
            kind = value.type.tensor_type
            if value.name not in self._tensors:
                sizes = [d.dim_value or 1 for d in kind.shape.dim]
                dtype = onnx.mapping.TENSOR_TYPE_TO_NP_TYPE[kind.elem_type]
                feeds[value.name] = np.zeros(sizes, dtype)
        try:
            found = _run(part, feeds, names)
        except Exception as error:  # ONNX Runtime has an exception type for each of its statuses
            print(f"The nodes before {names[-1:]} do not run on zeros: {error}")
            return
        for name, value in zip(names, found):
            if isinstance(value, np.ndarray):
                self._shapes[name] = list(value.shape)
                self._types[name] = helper.mapping.NP_TYPE_TO_TENSOR_TYPE.get(value.dtype, 0)


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
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    return list(session.run(list(names), feeds))
