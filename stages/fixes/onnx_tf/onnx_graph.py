"""An ONNX graph as the rewrites change it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, Dict, Iterable, List, Optional

import numpy as np
import onnx
from onnx import helper, numpy_helper


def read_opset(opsets: Iterable[Any]) -> int:
    """Return the version of ONNX's own operators among a model's operator sets; 11 if unsaid."""
    return max((o.version for o in opsets if o.domain in ("", "ai.onnx")), default=11)


class Graph:
    """The nodes in order and constants by name of a GraphProto, which itself stays unchanged."""

    def __init__(self, proto: onnx.GraphProto, opset: int = 11) -> None:
        self.opset = opset
        self.consts: Dict[str, np.ndarray] = {
            # A copy, as to_array may return a view of the message.
            tensor.name: np.array(numpy_helper.to_array(tensor))
            for tensor in proto.initializer
        }
        self.inputs = [
            copy.deepcopy(value) for value in proto.input if value.name not in self.consts
        ]
        self.outputs = [value.name for value in proto.output]
        self.output_types = {v.name: v.type.tensor_type.elem_type for v in proto.output}
        self.nodes = [copy.deepcopy(node) for node in proto.node]
        # The ONNX channel at each place of the tensors whose channels lie in another order.
        self.channels: Dict[str, List[int]] = {}
        self._taken = {*self.consts, *(value.name for value in self.inputs)}
        for node in self.nodes:
            self._taken.update((*list_all_inputs(node), *node.output))

    def uses(self) -> Counter:
        """Count the consumers of each tensor; being an output of the graph counts as one."""
        names = Counter(name for node in self.nodes for name in list_all_inputs(node))
        names.update(self.outputs)
        return names

    def map_producers(self) -> Dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output}

    def fix_batch(self) -> bool:
        """Let an unknown batch size be one, where it is all that is unknown of an input's shape.

        Return whether there was one.
        """
        found = False
        for value in self.inputs:
            dims = value.type.tensor_type.shape.dim
            known = [dim.dim_value > 0 for dim in dims]
            if known and not known[0] and all(known[1:]):
                dims[0].dim_value = 1
                found = True
        return found

    def get_input_shape(self, name: str) -> Optional[List[int]]:
        """Return the shape of an input of the graph; None if it is none, or has unknown sizes."""
        kinds = [value.type.tensor_type for value in self.inputs if value.name == name]
        if not kinds or not kinds[0].HasField("shape"):
            return None
        sizes = [dim.dim_value for dim in kinds[0].shape.dim]
        return sizes if all(size > 0 for size in sizes) else None

    def remove(self, nodes: Iterable[onnx.NodeProto]) -> None:
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def make_fresh_name(self, name: str) -> str:
        """Return a name that no tensor has or had, and take it."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def list_all_inputs(node: onnx.NodeProto) -> List[str]:
    """Return the tensors that a node reads, including those that its subgraphs read."""
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names += [name for inner in attribute.g.node for name in list_all_inputs(inner)]
            names += [value.name for value in attribute.g.output]
    return names


def read_attributes(node: onnx.NodeProto) -> Dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def decode_attributes(node: onnx.NodeProto) -> Dict[str, Any]:
    """Return a node's attributes by name, texts as str."""
    return {name: _decode(value) for name, value in read_attributes(node).items()}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
