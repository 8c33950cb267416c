"""One frozen graph with an open batch, from two that differ in the batch size alone.

As with ONNX models, a constant that differs is computed from the size of the input, a Reshape takes
-1, and what differs otherwise is refused, by its layer.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import tensorflow as tf

from stages.kit import open_batch
from stages.kit.contract import StageError, Tensor
from stages.kit.open_batch import Formula, describe_place

_PREFIX = "open_batch"
# Attributes that only repeat what the graph says anyway.
_DERIVED = {"_output_shapes", "_class"}


def open_graph(first: Any, second: Any, inputs: Sequence[Tensor], locate: Any) -> Tuple[Any, bool]:
    """Return the GraphDef with an open batch, and whether a constant had to follow it.

    `first` and `second` are GraphDefs at the two trial sizes; `inputs` have the names of their
    placeholders as `node`. `locate` names the layer of a node. Raises `StageError`, naming the
    layer, if the graphs differ in what cannot follow.
    """
    axis = open_batch.find_open_axis(inputs)
    assert axis is not None
    source = inputs[axis.input]
    place = source.axes.index(axis.axis) if source.axes else axis.axis
    opened = {tensor.node.partition(":")[0]: tensor for tensor in inputs}
    start = source.node.partition(":")[0]
    dtype = next(node.attr["dtype"].type for node in first.node if node.name == start)
    writer = _Writer(start, tf.as_dtype(dtype), place)
    readers = _map_readers(first)
    changed = False
    nodes: List[Any] = []
    _compare_names(first, second, locate)
    for one, other in zip(first.node, second.node):
        node = tf.compat.v1.NodeDef()
        node.CopyFrom(one)
        if one.op == "Placeholder":
            shape = opened[one.name].open_shape if one.name in opened else None
            if shape is not None:
                node.attr["shape"].shape.CopyFrom(
                    tf.TensorShape([None if d < 0 else d for d in shape]).as_proto()
                )
        elif one.op == "Const":
            formula = _fit_constant(one, other, readers, locate)
            if formula is not None:
                changed = True
                if writer.replace(node, formula, readers.get(one.name, [])):
                    continue
        else:
            _compare_attributes(one, other, locate)
        for name in _DERIVED & set(node.attr):
            del node.attr[name]
        nodes.append(node)
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(first)
    del graph.node[:]
    graph.node.extend(_sort([*nodes, *writer.new]))
    return graph, changed


def _map_readers(graph: Any) -> Dict[str, List[Tuple[Any, int]]]:
    """Map each node to those that read it, and as which of their inputs."""
    readers: Dict[str, List[Tuple[Any, int]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name.partition(":")[0].lstrip("^"), []).append((node, place))
    return readers


def _compare_names(first: Any, second: Any, locate: Any) -> None:
    for one, other in zip(first.node, second.node):
        if (one.name, one.op, list(one.input)) != (other.name, other.op, list(other.input)):
            raise _refuse(one, f"another batch size gives other operators ({other.op})", locate)
    if len(first.node) != len(second.node):
        longer = max((first, second), key=lambda graph: len(graph.node))
        node = longer.node[min(len(first.node), len(second.node))]
        raise _refuse(node, "another batch size gives another number of operators", locate)


def _compare_attributes(one: Any, other: Any, locate: Any) -> None:
    for name in set(one.attr) | set(other.attr):
        if name in _DERIVED:
            continue
        if one.attr[name].SerializeToString() != other.attr[name].SerializeToString():
            raise _refuse(one, f"its attribute '{name}' depends on the batch size", locate)


def _fit_constant(
    one: Any, other: Any, readers: Dict[str, List[Tuple[Any, int]]], locate: Any
) -> Any:
    """Return what a constant is at any batch size; None if it does not depend on it."""
    if one.attr["value"].SerializeToString() == other.attr["value"].SerializeToString():
        return None
    values = [tf.make_ndarray(node.attr["value"].tensor) for node in (one, other)]
    formula = open_batch.fit(*values)
    if formula is None:
        reader = readers[one.name][0][0] if readers.get(one.name) else one
        shown = " and ".join(
            open_batch.as_numbers(v) if v.size <= 8 else f"an array of shape {v.shape}"
            for v in values
        )
        raise _refuse(reader, f"a constant of it is {shown}, at {open_batch.TRIALS}", locate)
    return formula


def _refuse(node: Any, why: str, locate: Any) -> StageError:
    return StageError(
        describe_place(f"TensorFlow operator {node.op} '{node.name}'", locate(node.name), why),
        open_batch.REMEDY,
        blame="input",
    )


def _sort(nodes: Sequence[Any]) -> List[Any]:
    """Sort nodes so that each comes after what it reads, and otherwise in their order."""
    by_name = {node.name: node for node in nodes}
    done: Dict[str, None] = {}
    for node in nodes:
        pending = [node.name]
        while pending:
            name = pending[-1]
            wanted = [i.partition(":")[0].lstrip("^") for i in by_name[name].input]
            missing = [i for i in wanted if i not in done and i in by_name and i not in pending]
            if missing:
                pending += missing[::-1]
            else:
                done[pending.pop()] = None
    return [by_name[name] for name in done]


class _Writer:
    """Writes the nodes that take the constants' place; `source` is the input with the batch."""

    def __init__(self, source: str, dtype: tf.DType, axis: int) -> None:
        self.source, self.dtype, self.axis = source, dtype, axis
        self.new: List[Any] = []
        self.size = ""

    def replace(self, node: Any, formula: Formula, readers: Sequence[Tuple[Any, int]]) -> bool:
        """Replace a constant; tell whether its node is gone, in favour of others of its name."""
        reshapes = bool(readers) and all(r.op == "Reshape" and place == 1 for r, place in readers)
        if formula.reshape is not None and reshapes:
            _set_value(node, formula.reshape)
            return False
        dtype = tf.as_dtype(node.attr["dtype"].type)
        if formula.line is not None:
            line = self._compute(formula.line.slope, formula.line.start, node.name)
            self._add("Cast", [line], node.name, SrcT=tf.int32, DstT=dtype, Truncate=False)
            return True
        assert formula.stack is not None
        row, axis, times = formula.stack
        start = np.ones(row.ndim, np.int64)
        slope = np.zeros(row.ndim, np.int64)
        start[axis], slope[axis] = 0, times
        held = self._constant(row.astype(dtype.as_numpy_dtype), f"{node.name}/row")
        repeats = self._compute(slope, start, node.name)
        self._add("Tile", [held, repeats], node.name, T=dtype, Tmultiples=tf.int32)
        return True

    def _compute(self, slope: np.ndarray, start: np.ndarray, name: str) -> str:
        """Return the name of slope * N + start: 32-bit integers, in the arrays' shape."""
        size = self._get_size()
        factor = self._constant(slope.astype(np.int32), f"{name}/slope")
        found = self._add("Mul", [size, factor], f"{name}/times", T=tf.int32)
        if start.any():
            held = self._constant(start.astype(np.int32), f"{name}/start")
            found = self._add("AddV2", [found, held], f"{name}/plus", T=tf.int32)
        return found

    def _get_size(self) -> str:
        """Return the name of N, a scalar."""
        if not self.size:
            shape = self._add(
                "Shape", [self.source], f"{_PREFIX}/shape", T=self.dtype, out_type=tf.int32
            )
            ends = [
                self._constant(np.array(value, np.int32), f"{_PREFIX}/{what}")
                for what, value in (
                    ("begin", [self.axis]),
                    ("end", [self.axis + 1]),
                    ("stride", [1]),
                )
            ]
            self.size = self._add(
                "StridedSlice",
                [shape, *ends],
                f"{_PREFIX}/size",
                T=tf.int32,
                Index=tf.int32,
                shrink_axis_mask=1,
                begin_mask=0,
                end_mask=0,
                ellipsis_mask=0,
                new_axis_mask=0,
            )
        return self.size

    def _constant(self, value: np.ndarray, name: str) -> str:
        node = tf.compat.v1.NodeDef(name=name, op="Const")
        node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
        _set_value(node, value)
        self.new.append(node)
        return name

    def _add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        node = tf.compat.v1.NodeDef(name=name, op=kind, input=list(inputs))
        for key, value in attributes.items():
            if isinstance(value, tf.DType):
                node.attr[key].type = value.as_datatype_enum
            elif isinstance(value, bool):
                node.attr[key].b = value
            elif value is not None:
                node.attr[key].i = value
        self.new.append(node)
        return name


def _set_value(node: Any, value: np.ndarray) -> None:
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
