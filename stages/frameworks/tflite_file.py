"""A .tflite model as a tree of objects (flatbuffers' object API): tidied, and written as a file."""

from __future__ import annotations

import copy
from typing import Any, Dict

import numpy as np

_IDENTIFIER = b"TFL3"
# What schema.fbs demands of a buffer.
_ALIGNMENT = 16


def read_model(content: bytes, schema: Any) -> Any:
    """Read a model as a tree of objects, by a release's generated code.

    An operator that reads nothing, such as VAR_HANDLE, may have no list of inputs: it gets one.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for operator in (operator for graph in model.subgraphs for operator in graph.operators):
        for side in ("inputs", "outputs"):
            if getattr(operator, side) is None:
                setattr(operator, side, np.empty(0, np.int32))
    return model


def get_builtin(code: Any) -> int:
    """Return the number of an operator; files of before 2020 hold it in the older field alone."""
    return max(int(code.builtinCode), int(getattr(code, "deprecatedBuiltinCode", 0)))


def number_code(model: Any, code: Any) -> int:
    """Return the number of an operator code in a model, which gets it if it has none like it."""
    keys = ("builtinCode", "deprecatedBuiltinCode", "customCode", "version")
    for number, known in enumerate(model.operatorCodes):
        if all(getattr(known, key) == getattr(code, key) for key in keys):
            return number
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def pack_model(model: Any) -> bytes:
    """Write a model with its buffers aligned, as the format demands."""
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
        """A builder that aligns the bytes of buffers, which the generated code does not."""

        def CreateNumpyVector(self, x: np.ndarray) -> Any:
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.StartVector(1, x.size, _ALIGNMENT)
            self.head = self.head - x.size
            self.Bytes[self.head : self.head + x.size] = x.tobytes()
            return self.EndVector(x.size)

    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def drop_unread(model: Any) -> Dict[int, int]:
    """Drop the tensors, constants and operator codes that nothing in a model uses.

    Return the new numbers of the first graph's other tensors. Graphs, tensors and operators are
    replaced where they change, not written into.
    """
    graphs = [copy.copy(graph) for graph in model.subgraphs]
    places = [_drop_unread_tensors(graph) for graph in graphs]
    codes = sorted({int(o.opcodeIndex) for graph in graphs for o in graph.operators})
    for operator in (o for graph in graphs for o in graph.operators):
        operator.opcodeIndex = codes.index(int(operator.opcodeIndex))
    model.operatorCodes = [model.operatorCodes[number] for number in codes]
    metadata = [copy.copy(entry) for entry in model.metadata or ()]
    # The first buffer is the empty one.
    used = {int(t.buffer) for graph in graphs for t in graph.tensors}
    buffers = [0, *sorted((used | {int(entry.buffer) for entry in metadata}) - {0})]
    numbers = {old: new for new, old in enumerate(buffers)}
    for holder in (*metadata, *(tensor for graph in graphs for tensor in graph.tensors)):
        holder.buffer = numbers[int(holder.buffer)]
    model.subgraphs, model.metadata = graphs, metadata or None
    model.metadataBuffer = None  # of files before 2020: the numbers of some of the buffers
    model.buffers = [model.buffers[number] for number in buffers]
    for signature in getattr(model, "signatureDefs", None) or ():
        known = places[int(getattr(signature, "subgraphIndex", 0))]
        for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
            entry.tensorIndex = known[int(entry.tensorIndex)]
    return places[0]


def _drop_unread_tensors(graph: Any) -> Dict[int, int]:
    """Drop a graph's tensors that nothing reads; return the others' new numbers by their old."""
    read = [
        t
        for o in graph.operators
        for t in (*o.inputs, *o.outputs, *_list_intermediates(o))
        if t >= 0
    ]
    kept = sorted({int(t) for t in (*read, *graph.inputs, *graph.outputs)})
    places = {old: new for new, old in enumerate(kept)}
    places[-1] = -1  # an optional input that is not there
    graph.tensors = [copy.copy(graph.tensors[old]) for old in kept]
    operators = []
    for operator in graph.operators:
        changed = copy.copy(operator)
        changed.inputs = np.array([places[int(t)] for t in operator.inputs], np.int32)
        changed.outputs = np.array([places[int(t)] for t in operator.outputs], np.int32)
        if len(_list_intermediates(operator)):
            between = [places[int(t)] for t in operator.intermediates]
            changed.intermediates = np.array(between, np.int32)
        operators.append(changed)
    graph.operators = operators
    graph.inputs = np.array([places[int(t)] for t in graph.inputs], np.int32)
    graph.outputs = np.array([places[int(t)] for t in graph.outputs], np.int32)
    return places


def _list_intermediates(operator: Any) -> Any:
    """Return the tensors that a quantised LSTM writes by the way; schemas of 2019 have none."""
    found = getattr(operator, "intermediates", None)
    return () if found is None else found
