"""Groups of convolutions in a .tflite model, joined into one.

TensorFlow splits the channels, convolves each part by itself, and concatenates what comes of it.
TensorFlow Lite's CONV_2D takes a filter with fewer input channels than the tensor has as a grouped
convolution: version 6 of the operator, since the runtime of 2.9.0
(tensorflow/lite/tools/versioning/op_version.cc and runtime_version.cc).
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np

from stages.frameworks.tflite_file import get_builtin, number_code

_VERSION, _RUNTIME = 6, "2.9.0"
_OPTIONS = ("padding", "strideW", "strideH", "dilationWFactor", "dilationHFactor")
_CHANNELS = 3
_METADATA = b"min_runtime_version"


@dataclass(frozen=True)
class _Group:
    """The operators of one grouped convolution, by their places: parts, convolutions, and the end.

    `source` is the tensor that is split.
    """

    source: int
    parts: Sequence[int]
    convolutions: Sequence[int]
    end: int


def join_groups(model: Any, schema: Any) -> int:
    """Join what can be joined in a model (a tree of flatbuffers' object API); return how many.

    The tensors, operators and buffers that nothing reads any more stay (`drop_unread`).
    """
    joined = 0
    for graph in model.subgraphs:
        joined += _Graph(model, graph, schema).join()
    if joined:
        _raise_runtime_version(model)
    return joined


class _Graph:
    """A subgraph: which operator makes each tensor, and how many read it."""

    def __init__(self, model: Any, graph: Any, schema: Any) -> None:
        self.model, self.graph, self.schema = model, graph, schema
        self.operators = list(graph.operators)
        self.makers = {int(t): i for i, op in enumerate(self.operators) for t in op.outputs}
        self.reads = Counter(int(t) for op in self.operators for t in op.inputs)
        self.reads.update(map(int, graph.outputs))

    def join(self) -> int:
        """Join every group of this graph; return how many there were."""
        found = [self._find(place) for place in range(len(self.operators))]
        groups = [group for group in found if group is not None]
        gone: Set[int] = set()
        for group in groups:
            self._replace(group)
            gone.update(group.convolutions)
        kept = {place: op for place, op in enumerate(self.operators) if place not in gone}
        read = set(map(int, self.graph.outputs))
        read.update(int(t) for op in kept.values() for t in op.inputs)
        parts = {place for group in groups for place in group.parts}
        self.graph.operators = [
            op
            for place, op in kept.items()
            # What made the parts of a tensor that is convolved whole now.
            if place not in parts or any(int(t) in read for t in op.outputs)
        ]
        return len(groups)

    def _find(self, place: int) -> Optional[_Group]:
        """Find the group that ends with the operator at this place, if one does."""
        end = self.operators[place]
        if not self._is(end, "CONCATENATION") or len(end.inputs) < 2:
            return None
        shape = self._shape(int(end.outputs[0]))
        if len(shape) != 4 or end.builtinOptions.axis % 4 != _CHANNELS:
            return None
        places = [self.makers.get(int(t), -1) for t in end.inputs]
        if min(places) < 0 or len(set(places)) < len(places):
            return None
        convolutions = [self.operators[i] for i in places]
        alone = all(self.reads[int(t)] == 1 for t in end.inputs)
        if not alone or not self._are_alike(convolutions, end):
            return None
        inputs = [int(op.inputs[0]) for op in convolutions]
        source = self._find_source(inputs)
        if source is None:
            return None
        return _Group(source, [self.makers[part] for part in inputs], places, place)

    def _are_alike(self, convolutions: Sequence[Any], end: Any) -> bool:
        """Tell whether these are float convolutions that differ by their constants alone."""
        if not all(self._is(op, "CONV_2D") for op in convolutions):
            return False
        first = convolutions[0]
        none = self.schema.ActivationFunctionType.NONE
        activations = {op.builtinOptions.fusedActivationFunction for op in convolutions}
        if len(activations) > 1:
            return False
        if none not in (*activations, end.builtinOptions.fusedActivationFunction):
            return False
        wanted = self._describe(first)
        return wanted is not None and all(self._describe(op) == wanted for op in convolutions)

    def _describe(self, op: Any) -> Optional[Sequence[Any]]:
        """Return what is the same for all convolutions of a group; None for one that is in none."""
        tensors = self.graph.tensors
        known = [int(t) for t in op.inputs]
        filters = self._constant(known[1])
        if filters is None or any(tensors[i].type != 0 for i in (known[0], known[1])):
            return None  # 0 is FLOAT32
        if filters.shape[_CHANNELS] != self._shape(known[0])[_CHANNELS]:
            return None  # it has groups itself, and others than the whole would have
        has_bias = len(known) > 2 and known[2] >= 0
        if has_bias and self._constant(known[2]) is None:
            return None
        options = tuple(getattr(op.builtinOptions, name) for name in _OPTIONS)
        return (*options, filters.shape, has_bias)

    def _find_source(self, parts: Sequence[int]) -> Optional[int]:
        """Find the tensor whose channels these are, all of them in order; None if there is none."""
        places = [self.makers.get(part, -1) for part in parts]
        if min(places) < 0:
            return None
        first = self.operators[places[0]]
        if self._is(first, "SPLIT") or self._is(first, "SPLIT_V"):
            axis, source = self._read_split(first)
            whole = [int(t) for t in first.outputs] == list(parts)
            return source if whole and axis == _CHANNELS else None
        source = int(first.inputs[0])
        begin = 0
        for part, place in zip(parts, places):
            op = self.operators[place]
            if int(op.inputs[0]) != source or self._read_slice(op) != begin:
                return None
            begin += self._shape(part)[_CHANNELS]
        return source if begin == self._shape(source)[_CHANNELS] else None

    def _read_split(self, op: Any) -> Sequence[int]:
        """Return a SPLIT's axis, -1 if it is not known, and the tensor that it splits."""
        is_plain = self._is(op, "SPLIT")
        source, axis = int(op.inputs[1 if is_plain else 0]), int(op.inputs[0 if is_plain else 2])
        value = self._constant(axis)
        sizes = {self._shape(int(t)) for t in op.outputs}
        if value is None or len(self._shape(source)) != 4 or len(sizes) > 1:
            return -1, source
        return int(value.reshape(-1)[0]) % 4, source

    def _read_slice(self, op: Any) -> int:
        """Return at which channel a slice begins that takes all else; -1 for any other operator."""
        source, part = self._shape(int(op.inputs[0])), self._shape(int(op.outputs[0]))
        if len(source) != 4 or source[:_CHANNELS] != part[:_CHANNELS]:
            return -1
        signature = self.graph.tensors[int(op.inputs[0])].shapeSignature
        if signature is not None and any(int(size) < 0 for size in signature):
            return -1  # the sizes here do not tell whether it cuts an open axis
        if self._is(op, "STRIDED_SLICE"):
            steps = self._constant(int(op.inputs[3]))
            if steps is None or any(step != 1 for step in steps):
                return -1
            if op.builtinOptions.ellipsisMask or op.builtinOptions.newAxisMask:
                return -1
            if op.builtinOptions.shrinkAxisMask:
                return -1
        elif not self._is(op, "SLICE"):
            return -1
        begin = self._constant(int(op.inputs[1]))
        if begin is None or begin.size != len(source):
            return -1
        if self._is(op, "STRIDED_SLICE") and op.builtinOptions.beginMask >> _CHANNELS & 1:
            return 0
        return int(begin[_CHANNELS]) % source[_CHANNELS]

    def _replace(self, group: _Group) -> None:
        """Make one convolution of a group, in the place of its concatenation."""
        convolutions = [self.operators[place] for place in group.convolutions]
        end, first = self.operators[group.end], convolutions[0]
        options = first.builtinOptions
        options.fusedActivationFunction = (
            options.fusedActivationFunction or end.builtinOptions.fusedActivationFunction
        )
        inputs = [group.source, self._concatenate([int(op.inputs[1]) for op in convolutions])]
        if len(first.inputs) > 2:
            biases = [int(op.inputs[2]) for op in convolutions]
            inputs.append(self._concatenate(biases) if biases[0] >= 0 else -1)
        end.inputs = np.array(inputs, np.int32)
        end.builtinOptions, end.builtinOptionsType = options, first.builtinOptionsType
        end.opcodeIndex = self._number_code(first.opcodeIndex)

    def _concatenate(self, indices: Sequence[int]) -> int:
        """Add the concatenation of constants along their first axis; return its number."""
        values = [self._constant(index) for index in indices]
        whole = np.concatenate([value for value in values if value is not None])
        tensor, buffer = self.schema.TensorT(), self.schema.BufferT()
        buffer.data = np.frombuffer(whole.tobytes(), np.uint8)
        first = self.graph.tensors[indices[0]]
        tensor.name, tensor.type = first.name + b"/grouped", first.type
        tensor.shape = np.array(whole.shape, np.int32)
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _number_code(self, index: int) -> int:
        """Return the number of CONV_2D's operator code in the version that takes groups."""
        code = copy.copy(self.model.operatorCodes[index])
        code.version = max(code.version, _VERSION)
        return number_code(self.model, code)

    def _is(self, op: Any, kind: str) -> bool:
        number = get_builtin(self.model.operatorCodes[op.opcodeIndex])
        return number == getattr(self.schema.BuiltinOperator, kind)

    def _shape(self, index: int) -> Sequence[int]:
        shape = self.graph.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def _constant(self, index: int) -> Optional[np.ndarray]:
        """Return a constant's value; None for any other tensor."""
        tensor = self.graph.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        if data is None or tensor.type not in _TYPES or not len(data) or tensor.sparsity:
            return None
        return np.frombuffer(bytes(data), _TYPES[tensor.type]).reshape(self._shape(index))


# Those of schema.fbs's TensorType that are read here.
_TYPES: Dict[int, str] = {0: "<f4", 2: "<i4", 4: "<i8"}


def _raise_runtime_version(model: Any) -> None:
    """Say in the metadata, where they name it, that a model needs the runtime that takes groups."""
    for entry in model.metadata or ():
        if entry.name == _METADATA:
            data = model.buffers[entry.buffer].data
            text = bytes(data).rstrip(b"\0").decode("ascii", "replace")
            if _split_version(text) < _split_version(_RUNTIME):
                size = max(len(data), len(_RUNTIME))
                model.buffers[entry.buffer].data = np.frombuffer(
                    _RUNTIME.encode().ljust(size, b"\0"), np.uint8
                )


def _split_version(version: str) -> List[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
