"""The emission of an ONNX graph node by node, by a fix's handler or else by onnx-tf's own."""

from __future__ import annotations

import re
import traceback
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np
import onnx
import tensorflow as tf

from stages.fixes.onnx_tf.folding import fold
from stages.fixes.onnx_tf.layout import Order, Value, channels_last, narrow, plain, transpose
from stages.fixes.onnx_tf.onnx_graph import Graph, decode_attributes, read_opset
from stages.kit.contract import StageError


class Decline(Exception):
    """Raised by a handler that cannot emit a node: the next one gets it, finally onnx-tf's own."""


class Node:
    """An ONNX node with its attributes as Python values."""

    def __init__(self, proto: onnx.NodeProto) -> None:
        self.proto = proto
        self.op_type = proto.op_type
        self.name = proto.name or (proto.output[0] if proto.output else proto.op_type)
        self.inputs = list(proto.input)
        self.outputs = list(proto.output)
        self.attrs = decode_attributes(proto)

    def get(self, name: str, default: Any = None) -> Any:
        return self.attrs.get(name, default)


Inputs = List[Optional[Value]]
Handler = Callable[["Emitter", Node, Inputs], List[Value]]

_HANDLERS: Dict[str, List[Tuple[str, Handler]]] = {}


def handles(fix: str, *op_types: str) -> Callable[[Handler], Handler]:
    """Return a decorator that registers a fix's handler for these ONNX operators."""

    def register(handler: Handler) -> Handler:
        for op_type in op_types:
            _HANDLERS.setdefault(op_type, []).append((fix, handler))
        return handler

    return register


class Emitter:
    """The state of one conversion: the values so far, the fixes allowed and those used."""

    def __init__(self, backend: Any, opsets: Any, fixes: Iterable[str]) -> None:
        self.backend = backend
        self.opsets = opsets
        self.opset = read_opset(opsets)
        self.fixes = set(fixes)
        self.used: Set[str] = set()
        # The type of integers, but for what a graph takes and gives.
        self.integer = tf.int64
        self.notes: List[str] = []
        self.values: Dict[str, Value] = {}
        self.reserved: Set[str] = set()
        # Tensors that some node reads, or that are the graph's outputs.
        self.consumed: Set[str] = set()
        # Module paths in the user's model by tensor, where they are known.
        self.layers: Mapping[str, str] = {}
        # The types of the operators that read each tensor.
        self.readers: Dict[str, Set[str]] = {}
        self._upstream = backend._get_handlers(opsets)

    def wrap(self, tensor: tf.Tensor, order: Optional[Order] = None) -> Value:
        """Wrap a tensor of this axis order, transposed to ONNX's unless layout is repaired."""
        if order is None:
            order = plain(tensor.shape.rank)
        if "layout" not in self.fixes and order != plain(len(order)):
            tensor = transpose(tensor, [order.index(axis) for axis in range(len(order))])
            order = plain(len(order))
        return Value.from_tensor(tensor, order)

    def wrap_last(self, tensor: tf.Tensor) -> Value:
        """Wrap a channels-last tensor."""
        if "layout" in self.fixes:
            self.used.add("layout")
        return self.wrap(tensor, channels_last(tensor.shape.rank))

    def run(self, graph: Graph, scope: str = "") -> None:
        """Emit all nodes of a graph and store their results in `values`."""
        self.consumed |= set(graph.uses())
        for proto in graph.nodes:
            for name in proto.input:
                self.readers.setdefault(name, set()).add(proto.op_type)
        for name, array in graph.consts.items():
            self.values[name] = Value.from_const(array)
        for proto in graph.nodes:
            node = Node(proto)
            inputs = [self.values[name] if name else None for name in node.inputs]
            outputs = self._emit(node, inputs, scope)
            for name, value in zip(node.outputs, outputs):
                if name:
                    self.values[name] = value

    def _emit(self, node: Node, inputs: Inputs, scope: str) -> Sequence[Value]:
        if "constants" in self.fixes:
            try:
                folded = fold(node.op_type, node.attrs, inputs)
            except Exception as error:  # a defect of ours must not cost the conversion
                folded = None
                self._note_defect("constants", node, error)
            if folded is not None:
                self.used.add("constants")
                return folded
        name = scope + re.sub(r"[^A-Za-z0-9.\-]", "_", node.name).lstrip("_-.") or "node"
        if name in self.reserved:
            name += "_node"
        with tf.name_scope(name):
            if self.integer == tf.int32:
                inputs = [value and narrow(value) for value in inputs]
            defect: Optional[Exception] = None
            for fix, handler in _HANDLERS.get(node.op_type, []):
                if fix not in self.fixes:
                    continue
                try:
                    outputs = handler(self, node, inputs)
                except Decline:
                    continue
                except StageError:
                    raise
                except Exception as error:  # a defect, or TensorFlow's, about what does not fit
                    self._note_defect(fix, node, error)
                    defect = defect or error
                    continue
                self.used.add(fix)
                return outputs
            try:
                return self._emit_by_onnx_tf(node, inputs)
            except StageError:
                if defect is None:
                    raise
                why = f"{type(defect).__name__}: {defect}"
                raise self._make_refusal(node, inputs, why) from defect

    def _note_defect(self, fix: str, node: Node, error: Exception) -> None:
        """Leave a layer to onnx-tf itself where a fix fails on it; the log has the traceback."""
        traceback.print_exception(type(error), error, error.__traceback__)
        layer = next((self.layers[name] for name in node.outputs if name in self.layers), node.name)
        self.notes.append(
            f"The fix '{fix}' failed on the layer '{layer}' ({node.op_type}), and was left out "
            f"there: {type(error).__name__}: {str(error)[:200]}"
        )

    def _make_refusal(self, node: Node, inputs: Inputs, why: str) -> StageError:
        layer = next((self.layers[name] for name in node.outputs if name in self.layers), "")
        return make_refusal(node, inputs, why, layer)

    def _emit_by_onnx_tf(self, node: Node, inputs: Inputs) -> Sequence[Value]:
        from onnx_tf.pb_wrapper import OnnxNode

        handler = self._upstream.get(node.proto.domain, {}).get(node.op_type)
        if handler is None:
            why = "neither onnx-tf 1.6.0 nor a fix implements the operator"
            raise self._make_refusal(node, inputs, why)
        if node.op_type == "NonMaxSuppression":
            why = "how many boxes it keeps depends on the values, and shapes must be fixed"
            raise self._make_refusal(node, inputs, why)
        if node.op_type in ("If", "Loop", "Scan"):
            tensors = {name: value.tensor() for name, value in self.values.items()}
        else:
            tensors = {
                name: value.tensor()
                for name, value in zip(node.inputs, inputs)
                if value is not None
            }
        try:
            outputs = handler.handle(OnnxNode(node.proto), tensor_dict=tensors, strict=True)
            if isinstance(outputs, tf.Tensor):
                outputs = [outputs]
            if any(tensor.shape.rank is None for tensor in outputs):
                raise ValueError("onnx-tf's own operator loses the rank of its result")
            return [Value.from_tensor(tensor) for tensor in outputs]
        except Exception as error:  # onnx-tf and TensorFlow raise errors of any type
            raise self._make_refusal(node, inputs, f"{type(error).__name__}: {error}") from error


_REMEDIES = {
    "NonZero": "Its output's size depends on the data; use a mask and torch.where instead.",
    "NonMaxSuppression": "Return boxes and scores, and suppress outside the model.",
    "MaxUnpool": "Use interpolate or ConvTranspose2d for the way up.",
    "RandomNormal": "Draw random numbers outside and make them an input.",
    "RandomNormalLike": "Draw random numbers outside and make them an input.",
}


def make_refusal(node: Node, inputs: Inputs, why: str, layer: str = "") -> StageError:
    """Return the error that names the layer, the operator, why it fails and what to change.

    `layer` is the path in the user's model; without one, the ONNX node's name takes its place.
    """
    shapes = ", ".join(
        "none" if v is None else "x".join("?" if d is None else str(d) for d in v.shape) or "scalar"
        for v in inputs
    )
    operator = f"ONNX operator {node.op_type}" + (f", node '{node.name}'" if layer else "")
    return StageError(
        f"The layer '{layer or node.name}' ({operator}, inputs {shapes}) cannot be converted: "
        f"{why.strip()[:500]}",
        _REMEDIES.get(
            node.op_type,
            f"Replace {node.op_type} in the PyTorch model by operators that convert, with shapes "
            "that are fixed.",
        ),
    )


def require_constant(value: Optional[Value]) -> np.ndarray:
    """Return a value's constant; decline if it has none."""
    if value is None or value.const is None:
        raise Decline
    return value.const


def require_static(*values: Optional[Value]) -> None:
    """Decline unless all shapes are static."""
    if any(value is not None and not value.is_static for value in values):
        raise Decline
