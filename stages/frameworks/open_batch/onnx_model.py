"""One ONNX model with an open batch, from two exports that differ in the batch size alone.

A constant that differs is the same integers on a line (`a * N + b`), or one row that is repeated N
times. It is computed from the size of the input in its place; a Reshape takes -1. What differs
otherwise is refused, by its layer.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Set, Tuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from stages.frameworks.onnx_files import set_shapes
from stages.kit import open_batch
from stages.kit.contract import InputError, StageError, Tensor
from stages.kit.open_batch import Formula, OpenAxis, describe_place

_PREFIX = "open_batch"

# Names the layer and the line that made a tensor, as far as it is known.
Locate = Callable[[str], str]


def open_model(
    first: Any,
    second: Any,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    locate: Locate,
    may_repair: bool = True,
) -> Tuple[Any, bool]:
    """Return the model with an open batch, and whether a constant had to follow it.

    `first` and `second` are ModelProtos at the two trial sizes. Raises `StageError`, naming the
    layer, if they differ in what cannot follow, or at all unless `may_repair`. The shapes of
    outputs that are not given are left out.
    """
    axis = open_batch.find_open_axis(inputs)
    assert axis is not None
    model = type(first)()
    model.CopyFrom(first)
    writer = _Writer(model.graph, axis, inputs)
    _compare_nodes(first.graph, second.graph, locate)
    changed = False
    for name, one, other, readers in _find_differences(first.graph, second.graph):
        place = _describe(name, readers, locate)
        formula = open_batch.fit(one, other)
        if formula is None or not may_repair:
            raise _refuse(place, one, other)
        writer.replace(name, formula, readers)
        changed = True
    writer.finish()
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    set_shapes(model.graph, [*inputs, *outputs])
    return model, changed


def _compare_nodes(first: Any, second: Any, locate: Locate) -> None:
    """Raise `StageError` unless both graphs have the same operators with the same attributes."""
    for one, other in zip(first.node, second.node):
        if one.op_type != other.op_type or len(one.input) != len(other.input):
            raise _refuse_structure(one, other.op_type, locate)
        if one.op_type == "Constant":
            continue
        for a, b in zip(one.attribute, other.attribute):
            if a.SerializeToString() != b.SerializeToString():
                values = [helper.get_attribute_value(attribute) for attribute in (a, b)]
                why = (
                    f"its attribute '{a.name}' is {values[0]!r:.60} at {open_batch.TRIALS[0]} and "
                    f"{values[1]!r:.60} at {open_batch.TRIALS[1]}"
                )
                raise StageError(
                    describe_place(_name(one), locate(one.output[0]), why),
                    open_batch.REMEDY,
                    blame="input",
                )
    if len(first.node) != len(second.node):
        longer = max((first, second), key=lambda graph: len(graph.node))
        rest = longer.node[min(len(first.node), len(second.node))]
        raise _refuse_structure(rest, "nothing", locate)


def _refuse_structure(node: Any, other: str, locate: Locate) -> StageError:
    why = f"another batch size gives other operators ({other} in its place)"
    return StageError(
        describe_place(_name(node), locate(node.output[0]), why), open_batch.REMEDY, blame="input"
    )


def _name(node: Any) -> str:
    return f"ONNX operator {node.op_type}" + (f" '{node.name}'" if node.name else "")


Difference = Tuple[str, np.ndarray, np.ndarray, List[Any]]


def _find_differences(first: Any, second: Any) -> List[Difference]:
    """Return the constants that differ: name, both values, and the nodes that read it."""
    found: List[Difference] = []
    ours, theirs = (
        {
            **{t.name: t for t in graph.initializer},
            **{n.output[0]: n.attribute[0].t for n in graph.node if _is_constant(n)},
        }
        for graph in (first, second)
    )
    for name, tensor in ours.items():
        other = theirs.get(name)
        if other is None or _same(tensor, other):
            continue
        readers = [node for node in first.node if name in node.input]
        found.append((name, numpy_helper.to_array(tensor), numpy_helper.to_array(other), readers))
    return found


def _is_constant(node: Any) -> bool:
    return (
        node.op_type == "Constant"
        and len(node.attribute) == 1
        and node.attribute[0].type == onnx.AttributeProto.TENSOR
    )


def _same(one: Any, other: Any) -> bool:
    if list(one.dims) != list(other.dims) or one.data_type != other.data_type:
        return False
    if one.HasField("raw_data") and other.HasField("raw_data"):
        return bool(one.raw_data == other.raw_data)
    return np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))


def _describe(name: str, readers: Sequence[Any], locate: Locate) -> Tuple[str, str]:
    """Return the operator that a constant is for, and the layer that it belongs to."""
    if not readers:
        return f"constant '{name}'", locate(name)
    return _name(readers[0]), locate(readers[0].output[0]) or locate(name)


def _refuse(place: Tuple[str, str], one: np.ndarray, other: np.ndarray) -> StageError:
    shown = [
        open_batch.as_numbers(value) if value.size <= 8 else f"an array of shape {value.shape}"
        for value in (one, other)
    ]
    why = (
        f"a constant of it is {shown[0]} at {open_batch.TRIALS[0]} and {shown[1]} at "
        f"{open_batch.TRIALS[1]}"
    )
    return InputError(describe_place(*place, why), open_batch.REMEDY)


class _Writer:
    """Writes what takes the constants' place, at the beginning of the graph."""

    def __init__(self, graph: Any, axis: OpenAxis, inputs: Sequence[Tensor]) -> None:
        self.graph = graph
        self.source = inputs[axis.input].name
        self.axis = axis.axis
        self.new: List[Any] = []
        self.gone: Set[str] = set()
        self.constants: Dict[str, np.ndarray] = {}
        self.count = 0
        self.size = ""

    def replace(self, name: str, formula: Formula, readers: Sequence[Any]) -> None:
        reshapes = all(
            node.op_type == "Reshape" and list(node.input).index(name) == 1 for node in readers
        )
        if formula.reshape is not None and readers and reshapes:
            self._store(name, formula.reshape)
        elif formula.line is not None:
            dtype = self._get_dtype(name)
            line = self._compute(formula.line.slope, formula.line.start)
            self._add("Cast", [line], name, to=dtype)
        else:
            assert formula.stack is not None
            row, axis, times = formula.stack
            ones = np.ones(row.ndim, np.int64)
            slope = np.zeros(row.ndim, np.int64)
            slope[axis] = times
            ones[axis] = 0
            self._add("Tile", [self._constant(row), self._compute(slope, ones)], name)
        self.gone.add(name)

    def finish(self) -> None:
        """Put everything into the graph, which must not be used by anything else before."""
        graph = self.graph
        kept = [n for n in graph.node if n.op_type != "Constant" or n.output[0] not in self.gone]
        weights = [t for t in graph.initializer if t.name not in self.gone]
        weights += [numpy_helper.from_array(value, n) for n, value in self.constants.items()]
        inputs = [v for v in graph.input if v.name not in self.gone]
        for field, values in (
            (graph.node, [*self.new, *kept]),
            (graph.initializer, weights),
            (graph.input, inputs),
        ):
            copies = [type(value).FromString(value.SerializeToString()) for value in values]
            del field[:]
            field.extend(copies)

    def _get_dtype(self, name: str) -> int:
        for tensor in self.graph.initializer:
            if tensor.name == name:
                return int(tensor.data_type)
        node = next(n for n in self.graph.node if name in n.output)
        return int(node.attribute[0].t.data_type)

    def _store(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def _constant(self, value: np.ndarray) -> str:
        self.count += 1
        return self._store(f"{_PREFIX}_c{self.count}", value)

    def _add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        self.count += 1
        output = output or f"{_PREFIX}_{self.count}"
        self.new.append(
            helper.make_node(kind, inputs, [output], f"{_PREFIX}_{kind}_{self.count}", **attributes)
        )
        return output

    def _compute(self, slope: np.ndarray, start: np.ndarray) -> str:
        """Return the name of slope * N + start, of 64-bit integers in the arrays' shape."""
        if not self.size:
            shape = self._add("Shape", [self.source])
            index = self._constant(np.array(self.axis, np.int64))
            self.size = self._add("Gather", [shape, index], axis=0)
        product = self._add("Mul", [self.size, self._constant(slope)])
        return self._add("Add", [product, self._constant(start)]) if start.any() else product
