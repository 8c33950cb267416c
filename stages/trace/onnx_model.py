"""ONNX models in a trace, run by ONNX Runtime as they are or cut at given tensors."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Set

import numpy as np
import onnx
from onnx import helper

from stages.frameworks.onnx_runtime import make_plain_settings, open_session
from stages.kit.tracing import Arrays, Artifact, Piece

# Operators whose results are sums of products, and recurrent ones, which repeat such sums.
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_RECURRENT = ("LSTM", "GRU", "RNN")


class OnnxModel(Artifact):
    """A ModelProto, which stays unchanged; `inputs` are the signature's names, in order."""

    def __init__(self, model: Any, inputs: Sequence[str]) -> None:
        self.model = model
        self.inputs = list(inputs)
        self.shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
        self.producers = {name: n for n in model.graph.node for name in n.output if name}
        self.positions = {id(node): index for index, node in enumerate(model.graph.node)}
        self._order = self._list_dependent_tensors()
        self._moving = set(self._order)

    def _list_dependent_tensors(self) -> List[str]:
        constants = set(self.shapes)
        known = {v.name for v in self.model.graph.input if v.name not in constants}
        order: List[str] = []
        for node in self.model.graph.node:
            if any(name in known for name in list_reads(node)):
                known.update(name for name in node.output if name)
                order += [name for name in node.output if name]
        return order

    def order(self) -> List[str]:
        return self._order

    def piece(self, name: str, cuts: Set[str]) -> Piece:
        nodes: Dict[int, Any] = {}
        inputs: List[str] = []
        pending = [name]
        while pending:
            node = self.producers.get(pending.pop())
            if node is None or self.positions[id(node)] in nodes:
                continue
            nodes[self.positions[id(node)]] = node
            for read in list_reads(node):
                if read in cuts:
                    inputs.append(read)
                else:
                    pending.append(read)
        ordered = [nodes[position] for position in sorted(nodes)]
        moving = [node for node in ordered if self._moving & set(node.output)] or ordered
        return Piece(
            tuple(node.op_type for node in moving),
            tuple(node.name or node.output[0] for node in moving),
            tuple(output for node in moving for output in node.output if output),
            tuple(dict.fromkeys(inputs)),
            sum(self._count_terms(node) for node in moving),
        )

    def _count_terms(self, node: Any) -> int:
        shape = next((self.shapes[n] for n in list(node.input)[1:] if n in self.shapes), None)
        if node.op_type in _PRODUCTS:
            if shape is None:
                return 1024  # both operands are computed, so their sizes are unknown
            if node.op_type == "Conv":
                return int(np.prod(shape[1:]))
            if node.op_type == "ConvTranspose":
                return int(shape[0] * np.prod(shape[2:]))
            return max(shape)
        if node.op_type in _RECURRENT and shape is not None:
            return int(16 * sum(shape))
        gathers = node.op_type.startswith("Reduce") or "Pool" in node.op_type
        gathers |= node.op_type in ("InstanceNormalization", "LpNormalization", "LRN", "Softmax")
        return 1024 if gathers else 1

    def plain(self, names: Sequence[str]) -> Callable[[Sequence[np.ndarray]], List[np.ndarray]]:
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return self._make_runner(model, names)

    def cut(
        self, names: Sequence[str], given: Arrays
    ) -> Callable[[Sequence[np.ndarray], Arrays], List[np.ndarray]]:
        fed = {name: f"given:{name}" for name in given}
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        keep = self._find_needed(names, set(given))
        nodes = [node for node in graph.node if set(node.output) & keep]
        del graph.node[:]
        graph.node.extend(nodes)
        for node in graph.node:
            _rename(node, fed)
        del graph.value_info[:]
        # The pieces are independent, so the model's outputs stay outputs only if requested.
        del graph.output[:]
        used = {name for node in graph.node for name in list_reads(node)}
        feeds = {name: alias for name, alias in fed.items() if alias in used}
        for name, alias in feeds.items():
            array = given[name]
            kind = (
                helper.np_dtype_to_tensor_dtype(array.dtype)
                if hasattr(helper, "np_dtype_to_tensor_dtype")
                else onnx.mapping.NP_TYPE_TO_TENSOR_TYPE[array.dtype]
            )
            graph.input.append(helper.make_tensor_value_info(alias, kind, array.shape))
        run = self._make_runner(model, names)

        def call(values: Sequence[np.ndarray], cuts: Arrays) -> List[np.ndarray]:
            return run(values, {alias: cuts[name] for name, alias in feeds.items()})

        return call

    def _find_needed(self, names: Sequence[str], cuts: Set[str]) -> Set[str]:
        """Return the outputs of the nodes that compute these tensors from the cuts."""
        needed: Set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            node = self.producers.get(name)
            if node is None or name in needed:
                continue
            needed.update(node.output)
            pending += [read for read in list_reads(node) if read not in cuts]
        return needed

    def _make_runner(
        self,
        model: Any,
        names: Sequence[str],
    ) -> Callable[..., List[np.ndarray]]:

        present = {value.name for value in model.graph.output}
        for name in names:
            if name not in present:
                # Only the name: ONNX Runtime infers the type, and a stored one may be stale.
                model.graph.output.add().name = name
        session = open_session(model, make_plain_settings())
        wanted = {value.name for value in session.get_inputs()}

        def run(values: Sequence[np.ndarray], cuts: Optional[Arrays] = None) -> List[np.ndarray]:
            feed = {n: v for n, v in zip(self.inputs, values) if n in wanted}
            feed.update(cuts or {})
            return session.run(list(names), feed)  # type: ignore[no-any-return]

        return run


def list_reads(node: Any) -> List[str]:
    """List the tensors that a node reads, including those that its subgraphs read."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names += [name for inner in attribute.g.node for name in list_reads(inner)]
            names += [value.name for value in attribute.g.output]
    return names


def _rename(node: Any, names: Dict[str, str]) -> None:
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            own = {name for inner in attribute.g.node for name in inner.output}
            own |= {value.name for value in attribute.g.input}
            outer = {old: new for old, new in names.items() if old not in own}
            for inner in attribute.g.node:
                _rename(inner, outer)
