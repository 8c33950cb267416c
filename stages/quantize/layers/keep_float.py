"""Leaving layers of an int8 model in float.

TensorFlow 2.4's quantiser takes all of a model or a single operator. So a model that it has
quantised throughout gets the chosen operators back from the float model of the same graph, with
DEQUANTIZE before and QUANTIZE behind them where the neighbours are of integers.
"""

from __future__ import annotations

import copy
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np

from stages.frameworks.tflite_file import get_builtin, number_code, pack_model
from stages.frameworks.tflite_model import TfliteModel
from stages.kit.contract import StageError
from stages.quantize.layers.noise import INTEGER_ENDS


def keep_in_float(source: TfliteModel, quantized: TfliteModel, kept: Set[str]) -> bytes:
    """Return the quantised model with the operators that make these tensors in float.

    `kept` has names of `source`, the float model. Neither model is changed.
    """
    return _Surgery(source, quantized).run(kept)


class _Surgery:
    def __init__(self, source: TfliteModel, quantized: TfliteModel) -> None:
        self.source, self.schema = source, quantized.schema
        self.model = copy.copy(quantized.model)
        self.graph = copy.copy(quantized.graph)
        self.graph.tensors = [copy.copy(tensor) for tensor in quantized.graph.tensors]
        self.model.subgraphs = [self.graph, *quantized.model.subgraphs[1:]]
        self.model.buffers = list(quantized.model.buffers)
        self.model.operatorCodes = list(quantized.model.operatorCodes)
        self.places = dict(quantized.indices)
        # Where a tensor of the float model is, in float.
        self.in_float: Dict[int, int] = {}
        self.operators: List[Any] = []

    def run(self, kept: Set[str]) -> bytes:
        chosen = {self.source.producers[self.source.indices[name]] for name in kept}
        replaced: Dict[int, int] = {}
        for position in chosen:
            first = int(self.source.graph.operators[position].outputs[0])
            place = self._find_integer(first)
            if place is not None:
                replaced[place] = position
        for operator in self.graph.operators:
            own = next((int(t) for t in operator.outputs if int(t) in replaced), None)
            if own is None:
                self.operators.append(copy.copy(operator))
            else:
                self._add_float(self.source.graph.operators[replaced[own]])
        self.graph.operators = self.operators
        self._join_ends()
        self._prune()
        return pack_model(self.model)

    def _find_integer(self, index: int) -> Optional[int]:
        """Return the integer counterpart of a float model's tensor, if it has one."""
        name = self.source.names[index]
        for counterpart in (*(name + end for end in INTEGER_ENDS), name):
            place = self.places.get(counterpart)
            if place is not None and self._is_integer(place):
                return place
        return None

    def _is_integer(self, place: int) -> bool:
        tensor = self.graph.tensors[place]
        quantization = tensor.quantization
        return tensor.type != self.schema.TensorType.FLOAT32 and bool(
            quantization is not None and quantization.scale is not None and len(quantization.scale)
        )

    def _add_float(self, operator: Any) -> None:
        """Add an operator of the float model, and what leads from and to integers."""
        added = copy.copy(operator)
        added.inputs = np.array([self._take(int(t)) for t in operator.inputs], np.int32)
        added.outputs = np.array([self._add_tensor(int(t)) for t in operator.outputs], np.int32)
        code = self.source.model.operatorCodes[operator.opcodeIndex]
        added.opcodeIndex = number_code(self.model, code)
        self.operators.append(added)
        for t, place in zip(operator.outputs, added.outputs):
            self.in_float[int(t)] = int(place)
            integer = self._find_integer(int(t))
            if integer is not None:
                self._add_conversion("QUANTIZE", int(place), integer)

    def _take(self, index: int) -> int:
        """Return the place of an input of the float model's operator, in float."""
        if index < 0:
            return index
        if index not in self.in_float:
            self.in_float[index] = self._bring(index)
        return self.in_float[index]

    def _bring(self, index: int) -> int:
        is_made = index in self.source.producers or index in self.source.inputs
        if not is_made:
            return self._add_tensor(index)
        same = self.places.get(self.source.names[index])
        if same is not None and not self._is_integer(same):
            return same  # an input, or a layer without an integer kernel
        integer = self._find_integer(index)
        if integer is None:
            raise StageError(
                f"'{self.source.names[index]}' has no counterpart in the quantised model, so what "
                "reads it cannot stay in float."
            )
        place = self._add_tensor(index)
        self._add_conversion("DEQUANTIZE", integer, place)
        return place

    def _add_tensor(self, index: int) -> int:
        """Copy a tensor of the float model, with its constant if it is one."""
        tensor = copy.copy(self.source.graph.tensors[index])
        data = self.source.model.buffers[tensor.buffer].data
        tensor.buffer = 0
        if data is not None and len(data):
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(
                self.source.model.buffers[self.source.graph.tensors[index].buffer]
            )
        tensor.name = self.source.names[index].encode() + b"_float"
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _add_conversion(self, kind: str, source: int, target: int) -> None:
        operator = self.schema.OperatorT()
        operator.inputs = np.array([source], np.int32)
        operator.outputs = np.array([target], np.int32)
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, kind)
        integers = self.graph.tensors[target if kind == "QUANTIZE" else source].type
        wide = integers == self.schema.TensorType.INT16
        code.version = {"QUANTIZE": (1, 2), "DEQUANTIZE": (2, 3)}[kind][wide]
        operator.opcodeIndex = number_code(self.model, code)
        self.operators.append(operator)

    def _kind(self, operator: Any) -> int:
        code = self.model.operatorCodes[operator.opcodeIndex]
        return get_builtin(code)

    def _join_ends(self) -> None:
        """Read float values where they are, rather than from integers made of them."""
        operators = self.schema.BuiltinOperator
        from_float = {
            int(o.outputs[0]): int(o.inputs[0])
            for o in self.graph.operators
            if self._kind(o) == operators.QUANTIZE
            and self.graph.tensors[int(o.inputs[0])].type == self.schema.TensorType.FLOAT32
            and int(o.inputs[0]) in self.in_float.values()
        }
        outputs = {int(t) for t in self.graph.outputs}
        moved: Dict[int, int] = {}
        left = []
        for operator in self.graph.operators:
            place = int(operator.inputs[0]) if len(operator.inputs) else -1
            if self._kind(operator) == operators.DEQUANTIZE and place in from_float:
                target, origin = int(operator.outputs[0]), from_float[place]
                if target in outputs:
                    moved[origin] = target
                else:
                    moved[target] = origin
            else:
                left.append(operator)
        for operator in left:
            operator.inputs = _move(operator.inputs, moved)
            operator.outputs = _move(operator.outputs, moved)
        self.graph.operators = left

    def _prune(self) -> None:
        """Remove operators, tensors and buffers that nothing needs any more."""
        needed = {int(t) for t in self.graph.outputs}
        operators = []
        for operator in reversed(self.graph.operators):
            if needed.intersection(int(t) for t in operator.outputs):
                needed.update(int(t) for t in operator.inputs)
                needed.update(int(t) for t in operator.outputs)
                operators.append(operator)
        self.graph.operators = operators[::-1]
        needed.update(int(t) for t in self.graph.inputs)
        kept = sorted(t for t in needed if t >= 0)
        places = {old: new for new, old in enumerate(kept)}
        self.graph.tensors = [self.graph.tensors[t] for t in kept]
        for operator in self.graph.operators:
            operator.inputs = _move(operator.inputs, places)
            operator.outputs = _move(operator.outputs, places)
        self.graph.inputs = _move(self.graph.inputs, places)
        self.graph.outputs = _move(self.graph.outputs, places)
        self._prune_buffers()

    def _prune_buffers(self) -> None:
        used = {0}
        for graph in self.model.subgraphs:
            used.update(int(tensor.buffer) for tensor in graph.tensors)
        used.update(int(m.buffer) for m in self.model.metadata or ())
        kept = sorted(used)
        places = {old: new for new, old in enumerate(kept)}
        self.model.buffers = [self.model.buffers[b] for b in kept]
        for position, graph in enumerate(self.model.subgraphs):
            graph = graph if position == 0 else copy.copy(graph)
            graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
            for tensor in graph.tensors:
                tensor.buffer = places[int(tensor.buffer)]
            self.model.subgraphs[position] = graph
        self.model.metadata = [copy.copy(m) for m in self.model.metadata or ()] or None
        for entry in self.model.metadata or ():
            entry.buffer = places[int(entry.buffer)]


def _move(tensors: Sequence[int], places: Dict[int, int]) -> Any:
    return np.array([places.get(int(t), int(t)) for t in tensors], np.int32)
