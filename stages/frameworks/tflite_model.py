"""TensorFlow Lite models in a trace, run by the interpreter as they are or cut at given tensors.

The interpreter of TensorFlow 2.4 reuses buffers, so only outputs survive a run. Inner tensors are
therefore made outputs in a copy of the file; where it is cut, the copy has an input as well.
"""

from __future__ import annotations

import copy
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import flatbuffers
import numpy as np

from stages.frameworks.tensorflow import import_tensorflow
from stages.frameworks.tflite_file import drop_unread, get_builtin
from stages.kit.tracing import Arrays, Artifact, Piece

_GATHERING = ("MEAN", "SUM", "AVERAGE_POOL_2D", "SOFTMAX", "L2_NORMALIZATION", "LOG_SOFTMAX")


class TfliteModel(Artifact):
    """A .tflite file; `inputs` are the indices of the input tensors, None for those it lacks."""

    def __init__(self, content: bytes, inputs: Sequence[Optional[int]]) -> None:
        self.tf = import_tensorflow()
        from tensorflow.lite.python import schema_py_generated as schema

        self.schema = schema
        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        self.graph = self.model.subgraphs[0]
        self.inputs = list(inputs)
        self.kinds = [self._get_kind(operator) for operator in self.graph.operators]
        self.names = make_unique_names(self.graph)
        self.indices = {name: index for index, name in enumerate(self.names)}
        self.producers = {
            int(t): position
            for position, operator in enumerate(self.graph.operators)
            for t in operator.outputs
        }
        self._order = self._list_dependent_tensors()

    def _get_kind(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        number = get_builtin(code)
        names = vars(self.schema.BuiltinOperator).items()
        kind = next((name for name, value in names if value == number), str(number))
        if kind == "CUSTOM" and code.customCode:
            kind = code.customCode.decode(errors="replace")
        activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        kinds = vars(self.schema.ActivationFunctionType).items()
        fused = next((name for name, value in kinds if value == activation), "")
        return f"{kind}+{fused}" if activation and fused else kind

    def place(self, index: int) -> Tuple[int, int]:
        """Return which output of its operator a tensor is, and how many outputs there are."""
        outputs = [int(t) for t in self.graph.operators[self.producers[index]].outputs]
        return outputs.index(index), len(outputs)

    def dtype(self, index: int) -> str:
        """Return the tensor's type by numpy's name: float32, int64, bool ..."""
        number = self.graph.tensors[index].type
        names = vars(self.schema.TensorType).items()
        return next((name.lower() for name, value in names if value == number), "")

    def shape(self, index: int) -> Tuple[int, ...]:
        """Return the tensor's shape; a scalar's need not be in the file."""
        shape = self.graph.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def list_readers(self, index: int) -> List[Tuple[str, Any]]:
        """List the operators that read a tensor, with their kinds."""
        return [
            (kind, operator)
            for kind, operator in zip(self.kinds, self.graph.operators)
            if index in [int(t) for t in operator.inputs]
        ]

    def _list_dependent_tensors(self) -> List[str]:
        known = {int(index) for index in self.graph.inputs}
        order = []
        for operator in self.graph.operators:
            if any(int(t) in known for t in operator.inputs):
                for t in operator.outputs:
                    known.add(int(t))
                    order.append(self.names[int(t)])
        return order

    def order(self) -> List[str]:
        return self._order

    def piece(self, name: str, cuts: Set[str]) -> Piece:
        chosen, inputs = self._find_needed([name], cuts)
        ordered = [self.graph.operators[position] for position in chosen]
        outputs = [self.names[int(t)] for operator in ordered for t in operator.outputs]
        return Piece(
            tuple(self.kinds[position] for position in chosen),
            tuple(outputs),
            tuple(outputs),
            tuple(inputs),
            sum(self._count_terms(position) for position in chosen),
        )

    def find_cuts(self, names: Sequence[str], cuts: Set[str]) -> List[str]:
        """Return which of the cuts these tensors are computed from; a cut needs itself alone."""
        return [
            *dict.fromkeys(name for name in names if name in cuts),
            *self._find_needed([name for name in names if name not in cuts], cuts)[1],
        ]

    def _find_needed(self, names: Sequence[str], cuts: Set[str]) -> Tuple[List[int], List[str]]:
        """Return the positions of the operators behind these tensors, and the cuts they read."""
        positions: Set[int] = set()
        inputs: List[str] = []
        pending = [self.indices[name] for name in names]
        while pending:
            position = self.producers.get(pending.pop())
            if position is None or position in positions:
                continue
            positions.add(position)
            for t in self.graph.operators[position].inputs:
                if int(t) >= 0 and self.names[int(t)] in cuts:
                    inputs.append(self.names[int(t)])
                else:
                    pending.append(int(t))
        return sorted(positions), list(dict.fromkeys(inputs))

    def _count_terms(self, position: int) -> int:
        kind = self.kinds[position].partition("+")[0]
        operator = self.graph.operators[position]
        shapes = [self.shape(int(t)) if int(t) >= 0 else () for t in operator.inputs]
        if kind in ("CONV_2D", "TRANSPOSE_CONV", "CONV_3D"):
            return int(np.prod(shapes[1][1:]))
        if kind == "DEPTHWISE_CONV_2D":
            return int(np.prod(shapes[1][1:3]))
        if kind in ("FULLY_CONNECTED", "BATCH_MATMUL"):
            return int(max(shapes[1] or (1,)))
        return 1024 if kind in _GATHERING or "LSTM" in kind else 1

    def plain(self, names: Sequence[str]) -> Callable[[Sequence[np.ndarray]], List[np.ndarray]]:
        model = self._copy()
        run = self._make_runner(model, names, {})
        return lambda values: run(values, {})

    def cut(
        self, names: Sequence[str], given: Arrays
    ) -> Callable[[Sequence[np.ndarray], Arrays], List[np.ndarray]]:
        positions, reads = self._find_needed(names, set(given))
        model = self._copy()
        graph = model.subgraphs[0]
        aliases: Dict[str, int] = {}
        for name in reads:
            tensor = copy.copy(self.graph.tensors[self.indices[name]])
            tensor.name = f"given_{len(aliases)}".encode()
            tensor.shape = np.array(given[name].shape, np.int32)
            tensor.shapeSignature = None
            tensor.buffer = 0
            aliases[name] = len(graph.tensors)
            graph.tensors.append(tensor)
        places = {self.indices[name]: alias for name, alias in aliases.items()}
        graph.operators = []
        for position in positions:
            operator = copy.copy(self.graph.operators[position])
            operator.inputs = np.array([places.get(int(t), int(t)) for t in operator.inputs], "i4")
            graph.operators.append(operator)
        return self._make_runner(model, names, aliases)

    def _copy(self) -> Any:
        """Copy the model so that it can be changed; weights are shared, the lists in it are not."""
        model = copy.copy(self.model)
        graph = copy.copy(self.graph)
        graph.tensors = list(self.graph.tensors)
        model.subgraphs = [graph, *self.model.subgraphs[1:]]
        # They may name outputs that the copy does not have.
        model.metadata = model.metadataBuffer = model.signatureDefs = None
        return model

    def _make_runner(
        self, model: Any, names: Sequence[str], aliases: Dict[str, int]
    ) -> Callable[[Sequence[np.ndarray], Arrays], List[np.ndarray]]:
        graph = model.subgraphs[0]
        own = [index for index in self.inputs if index is not None]
        read = {int(t) for operator in graph.operators for t in operator.inputs}
        used = [index for index in own if index in read] if aliases else own
        graph.inputs = np.array([*used, *aliases.values()], np.int32)
        wanted = [self.indices[name] for name in names]
        graph.outputs = np.array(list(dict.fromkeys(wanted)), np.int32)
        # Their tensors would be written and read again for every piece that a model is cut into.
        places = drop_unread(model)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        interpreter = self.tf.lite.Interpreter(model_content=bytes(builder.Output()), num_threads=1)
        interpreter.allocate_tensors()

        def run(values: Sequence[np.ndarray], cuts: Arrays) -> List[np.ndarray]:
            for index, value in zip(self.inputs, values):
                if index is not None and index in used:
                    interpreter.set_tensor(places[index], value)
            for name, alias in aliases.items():
                interpreter.set_tensor(places[alias], cuts[name])
            interpreter.invoke()
            return [interpreter.get_tensor(places[index]) for index in wanted]

        return run


def make_unique_names(graph: Any) -> List[str]:
    """Return the tensors' names; `#` and the index are appended to empty and repeated ones."""
    names = [tensor.name.decode(errors="replace") for tensor in graph.tensors]
    return [
        name if name and names.count(name) == 1 else f"{name}#{index}"
        for index, name in enumerate(names)
    ]
