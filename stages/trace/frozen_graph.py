"""Frozen graphs in a trace, run by TensorFlow as they are or cut at given tensors."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Set

import numpy as np

from stages.frameworks.tensorflow import import_tensorflow, make_session_config
from stages.kit.tracing import Arrays, Artifact, Piece

# Operators that compute nothing, and are left out of a piece that has others.
_SILENT = ("Const", "Identity", "NoOp", "Placeholder")
_GATHERING = ("AvgPool", "Mean", "Softmax", "Sum", "Prod", "While", "Einsum")


class FrozenGraph(Artifact):
    """A frozen graph, which stays unchanged; `inputs` are the signature's (`input:0`), in order."""

    def __init__(self, graph_def: Any, inputs: Sequence[str]) -> None:
        self.tf = import_tensorflow()
        self.graph_def = graph_def
        self.inputs = list(inputs)
        graph = self.tf.Graph()
        with graph.as_default():
            self.tf.import_graph_def(graph_def, name="")
        self.graph = graph
        self.sessions: List[Any] = []
        self._order = self._list_dependent_tensors()

    def _list_dependent_tensors(self) -> List[str]:
        known = set(self.inputs)
        order: List[str] = []
        for op in _sort_topologically(self.graph):
            if any(tensor.name in known for tensor in op.inputs):
                known.update(tensor.name for tensor in op.outputs)
                order += [tensor.name for tensor in op.outputs]
        return order

    def order(self) -> List[str]:
        return self._order

    def dtype(self, name: str) -> Any:
        """Return the numpy dtype of a tensor."""
        return self.graph.get_tensor_by_name(name).dtype.as_numpy_dtype

    def piece(self, name: str, cuts: Set[str]) -> Piece:
        ops: Dict[str, Any] = {}
        inputs: List[str] = []
        pending = [self.graph.get_tensor_by_name(name).op]
        while pending:
            op = pending.pop()
            if op.name in ops:
                continue
            ops[op.name] = op
            for tensor in op.inputs:
                if tensor.name in cuts:
                    inputs.append(tensor.name)
                else:
                    pending.append(tensor.op)
        ordered = list(reversed(list(ops.values())))
        loud = [op for op in ordered if op.type not in _SILENT] or ordered
        return Piece(
            tuple(op.type for op in loud),
            tuple(op.name for op in loud),
            tuple(tensor.name for op in ordered for tensor in op.outputs),
            tuple(dict.fromkeys(inputs)),
            sum(_count_terms(op) for op in loud),
        )

    def plain(self, names: Sequence[str]) -> Callable[[Sequence[np.ndarray]], List[np.ndarray]]:
        return self._make_runner(self.graph, names, self.inputs)

    def cut(
        self, names: Sequence[str], given: Arrays
    ) -> Callable[[Sequence[np.ndarray], Arrays], List[np.ndarray]]:
        tf = self.tf
        aliases = {name: f"given_{index}" for index, name in enumerate(given)}
        edited = tf.compat.v1.GraphDef()
        edited.CopyFrom(self.graph_def)
        for node in edited.node:
            for index, read in enumerate(node.input):
                full = read if ":" in read else f"{read}:0"
                if not read.startswith("^") and full in aliases:
                    node.input[index] = aliases[full]
        graph = tf.Graph()
        with graph.as_default():
            for name, alias in aliases.items():
                array = given[name]
                tf.compat.v1.placeholder(tf.as_dtype(array.dtype), array.shape, alias)
            placeholders = graph.as_graph_def()
            # Their position does not matter: an import takes nodes in any order.
            for node in placeholders.node:
                edited.node.add().CopyFrom(node)
        for node in edited.node:
            # TensorFlow would trust shapes that were inferred for other values.
            node.attr.pop("_output_shapes", None)
        whole = tf.Graph()
        with whole.as_default():
            tf.import_graph_def(edited, name="")
        run = self._make_runner(
            whole, names, [*self.inputs, *(f"{alias}:0" for alias in aliases.values())]
        )

        def call(values: Sequence[np.ndarray], cuts: Arrays) -> List[np.ndarray]:
            return run([*values, *(cuts[name] for name in aliases)])

        return call

    def _make_runner(
        self, graph: Any, names: Sequence[str], feeds: Sequence[str]
    ) -> Callable[[Sequence[np.ndarray]], List[np.ndarray]]:
        config = make_session_config(self.tf, self.graph_def)
        session = self.tf.compat.v1.Session(graph=graph, config=config)
        self.sessions.append(session)
        call = session.make_callable(list(names), feed_list=list(feeds))

        def run(values: Sequence[np.ndarray]) -> List[np.ndarray]:
            return call(*values)  # type: ignore[no-any-return]

        return run

    def close(self) -> None:
        for session in self.sessions:
            session.close()


def _sort_topologically(graph: Any) -> List[Any]:
    """List operations after those that they read, apart from the back edges of loops."""
    order: List[Any] = []
    done: Set[str] = set()
    for start in graph.get_operations():
        stack = [(start, iter(start.inputs))] if start.name not in done else []
        done.add(start.name)
        while stack:
            op, rest = stack[-1]
            tensor = next(rest, None)
            if tensor is None:
                order.append(op)
                stack.pop()
            elif tensor.op.name not in done:
                done.add(tensor.op.name)
                stack.append((tensor.op, iter(tensor.op.inputs)))
    return order


def _count_terms(op: Any) -> int:
    """Count the products or summands that an element of the result accumulates."""
    shapes = [t.shape.as_list() if t.shape.rank is not None else [] for t in op.inputs]
    shapes = [[d or 1 for d in shape] for shape in shapes]
    if op.type in ("Conv2D", "Conv3D"):
        return int(np.prod(shapes[1][:-1]))
    if op.type == "DepthwiseConv2dNative":
        return int(np.prod(shapes[1][:2]))
    if op.type == "Conv2DBackpropInput":
        return int(np.prod([*shapes[1][:2], shapes[1][3]]))
    if "MatMul" in op.type:
        return int(max(shapes[1] or [1]))
    return 1024 if op.type in _GATHERING else 1
