"""TensorFlow graphs: GraphDef, MetaGraphDef and SavedModel."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from runner.formats.facts import FileFacts
from runner.formats.protobuf import BYTES, Malformed, Message, decode_signed
from runner.host.compat import tomllib
from runner.schemas.inspection import Obstacle, Size, TensorFacts

# types.proto; 100 + n is a reference to a variable.
TYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    8: "complex64",
    9: "int64",
    10: "bool",
    11: "qint8",
    12: "quint8",
    13: "qint32",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    20: "resource",
    21: "variant",
    22: "uint32",
    23: "uint64",
}
_VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "ReadVariableOp")
_CONTROL_FLOW = {
    *("Enter", "Exit", "Merge", "NextIteration", "Switch"),
    *("If", "While", "StatelessIf", "StatelessWhile"),
}
_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3D")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_NOT_OUTPUTS = ("Const", "Placeholder", "NoOp", "Assert", "Assign")
_MOST_KINDS = 500
_MOST_ENDS = 64
_FREEZE = (
    "Freeze it: convert_variables_to_constants_v2 of the model's function (TensorFlow 2), or "
    "tf.compat.v1.graph_util.convert_variables_to_constants, written with SerializeToString()."
)

# Field numbers of graph.proto, node_def.proto, attr_value.proto, tensor.proto.
_NODE, _LIBRARY, _VERSIONS = 1, 2, 4
_NAME, _OP, _INPUT, _ATTR = 1, 2, 3, 5
_S, _TYPE, _SHAPE, _TENSOR = 2, 6, 7, 8
_DTYPE, _TENSOR_SHAPE = 1, 2
# Field numbers of saved_model.proto, meta_graph.proto.
_META_GRAPHS, _META_INFO, _GRAPH_DEF, _SIGNATURES, _OBJECT_GRAPH = 2, 1, 2, 5, 7
_TAGS, _TENSORFLOW_VERSION = 4, 5


@dataclass
class _Graph:
    """What has been counted so far, in the graph and in the functions of its library."""

    operators: Counter[str] = field(default_factory=Counter)
    layouts: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    inputs: list[TensorFacts] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    defined: set[str] = field(default_factory=set)
    names: Counter[str] = field(default_factory=Counter)
    parameters: int = 0
    producer: int = 0
    min_consumer: int = 0
    functions: int = 0


def read_graph(message: Message, found: FileFacts) -> None:
    """Fill in `found` from the nodes of a GraphDef."""
    graph = _Graph()
    try:
        _read_graph(message, graph)
    except Malformed:
        found.damaged = True
    if missing := sorted(graph.read - graph.defined):
        # A file that was cut between two nodes still parses as a whole message.
        found.damaged = True
        found.notes.append(f"{len(missing)} nodes that others read are missing: {missing[0]}, ...")
    variables = sorted(kind for kind in graph.operators if kind in _VARIABLES)
    found.format = "graph" if variables else "frozen-graph"
    found.what = "TensorFlow graph with variables" if variables else "frozen TensorFlow graph"
    _describe(graph, found)
    found.inputs = graph.inputs
    ends = [name for name in graph.ends if name not in graph.read][:_MOST_ENDS]
    found.outputs = [TensorFacts(name=name, shape=None, dtype="?") for name in ends]
    if variables:
        found.problems.append(
            Obstacle(reason=f"It is not frozen: it has {', '.join(variables)}.", remedy=_FREEZE)
        )
    _find_problems(graph, found)


def read_saved_model(message: Message, found: FileFacts) -> None:
    """Fill in `found` from the file of a SavedModel, whose weights lie in files beside it."""
    found.format, found.what = "saved-model", "TensorFlow SavedModel"
    graph = _Graph()
    try:
        for meta in message.parts(_META_GRAPHS):
            _read_meta_graph(meta, graph, found)
    except Malformed:
        found.damaged = True
    _describe(graph, found)
    found.parameters, found.parameter_types = None, {}  # they are in variables/
    found.notes.append("The weights lie beside it, in variables/.")
    found.problems.append(
        Obstacle(reason="It is a SavedModel and not a frozen graph.", remedy=_FREEZE)
    )


def read_meta_graph(message: Message, found: FileFacts) -> None:
    """Fill in `found` from a checkpoint's .meta file."""
    found.format, found.what = "meta-graph", "TensorFlow MetaGraph (a checkpoint's .meta file)"
    graph = _Graph()
    try:
        _read_meta_graph(message, graph, found)
    except Malformed:
        found.damaged = True
    _describe(graph, found)
    found.parameters, found.parameter_types = None, {}
    found.inputs = found.inputs or graph.inputs
    found.problems.append(
        Obstacle(
            reason="It has no weights in it.",
            remedy="Freeze the graph with the checkpoint's weights first: "
            "tf.compat.v1.graph_util.convert_variables_to_constants.",
        )
    )


def _read_meta_graph(meta: Message, graph: _Graph, found: FileFacts) -> None:
    info = meta.part(_META_INFO)
    if info is not None:
        version = info.text(_TENSORFLOW_VERSION)
        found.written_by = f"TensorFlow {version}" if version else ""
        found.details["tags"] = ", ".join(tag.as_text() for tag in info.parts(_TAGS))
    signatures = {entry.text(1): entry.part(2) for entry in meta.parts(_SIGNATURES)}
    if signatures:
        found.details["signatures"] = ", ".join(signatures)
    chosen = signatures.get("serving_default") or next(iter(signatures.values()), None)
    if chosen is not None:
        found.inputs = [_read_tensor_info(entry) for entry in _iterate_ends(chosen, 1)]
        found.outputs = [_read_tensor_info(entry) for entry in _iterate_ends(chosen, 2)]
    definition = meta.part(_GRAPH_DEF)
    if definition is not None:
        _read_graph(definition, graph)
    if meta.part(_OBJECT_GRAPH) is not None:
        found.details["saved by"] = "tf.saved_model.save (TensorFlow 2)"


def _iterate_ends(signature: Message, number: int) -> Iterator[Message]:
    for index, entry in enumerate(signature.parts(number)):
        if index < _MOST_ENDS:
            yield entry


def _read_tensor_info(entry: Message) -> TensorFacts:
    """Read an entry of a signature's map: the key, and a TensorInfo."""
    info = entry.part(2)
    if info is None:
        return TensorFacts(name=entry.text(1), shape=None, dtype="?")
    return TensorFacts(
        name=entry.text(1), shape=_read_shape(info.part(3)), dtype=TYPES.get(info.number(2), "?")
    )


def _read_shape(message: Message | None) -> list[Size] | None:
    """Read a TensorShapeProto; return None for an unknown rank."""
    if message is None:
        return None
    sizes: list[Size] = []
    for number, kind, value in message.fields():
        if number == 3 and value:
            return None
        if number == 2 and kind == BYTES and isinstance(value, Message) and len(sizes) < 64:
            size = decode_signed(value.number(1))
            sizes.append(size if size >= 0 else "?")
    return sizes


def _read_graph(message: Message, graph: _Graph) -> None:
    for number, kind, value in message.fields():
        if kind != BYTES or not isinstance(value, Message):
            continue
        if number == _NODE:
            _read_node(value, graph, top=True)
        elif number == _LIBRARY:
            for function in value.parts(1):
                graph.functions += 1
                for node in function.parts(3):
                    _read_node(node, graph, top=False)
        elif number == _VERSIONS:
            graph.producer, graph.min_consumer = value.number(1), value.number(2)


def _read_node(message: Message, graph: _Graph, top: bool) -> None:
    name = operator = ""
    reads: list[str] = []
    attributes: list[Message] = []
    for number, kind, value in message.fields():
        if kind != BYTES or not isinstance(value, Message):
            continue
        if number == _NAME:
            name = value.as_text()
        elif number == _OP:
            operator = value.as_text()
        elif number == _INPUT:
            reads.append(value.as_text())
        elif number == _ATTR:
            attributes.append(value)
    graph.operators[operator] += 1
    for mark in _MARKS:
        graph.names[mark] += mark in name
    if top:
        graph.defined.add(name)
        graph.read.update(read.lstrip("^").partition(":")[0] for read in reads)
        if operator not in _NOT_OUTPUTS:
            graph.ends[name] = operator
        if operator == "Placeholder" and len(graph.inputs) < _MOST_ENDS:
            graph.inputs.append(_read_placeholder(name, attributes))
    if operator == "Const":
        _read_constant(attributes, graph)
    elif operator in _CONVOLUTIONS:
        layout = next((v for k, v in _iterate_attributes(attributes) if k == "data_format"), None)
        graph.layouts[layout.text(_S) if layout is not None else "NHWC"] += 1


def _iterate_attributes(attributes: list[Message]) -> Iterator[tuple[str, Message]]:
    for entry in attributes:
        value = entry.part(2)
        if value is not None:
            yield entry.text(1), value


def _read_placeholder(name: str, attributes: list[Message]) -> TensorFacts:
    values = dict(_iterate_attributes(attributes))
    shape = values["shape"].part(_SHAPE) if "shape" in values else None
    dtype = values["dtype"].number(_TYPE) if "dtype" in values else 0
    return TensorFacts(name=name, shape=_read_shape(shape), dtype=TYPES.get(dtype % 100, "?"))


def _read_constant(attributes: list[Message], graph: _Graph) -> None:
    """Count the numbers in a constant, since a frozen graph's parameters are constants."""
    for key, value in _iterate_attributes(attributes):
        tensor = value.part(_TENSOR) if key == "value" else None
        if tensor is None:
            continue
        dtype = TYPES.get(tensor.number(_DTYPE), "?")
        sizes = _read_shape(tensor.part(_TENSOR_SHAPE))
        if sizes is not None and dtype.startswith(("float", "bfloat", "q")):
            count = math.prod(size for size in sizes if isinstance(size, int))
            graph.parameters += count
            graph.types[dtype] += count


# Parts of node names that only a single tool produces.
_MARKS = {
    "onnx_tf_prefix_": "onnx-tf 1.7 or later",
    "PartitionedCall/onnx_tf": "onnx-tf 1.7 or later",
    "tf2onnx": "tf2onnx",
    "keras_learning_phase": "Keras",
}


def _describe(graph: _Graph, found: FileFacts) -> None:
    found.operators = dict(graph.operators.most_common(_MOST_KINDS))
    found.parameters = graph.parameters
    found.parameter_types = dict(graph.types.most_common())
    found.control_flow = sorted(kind for kind in graph.operators if kind in _CONTROL_FLOW)
    found.custom = sorted(k for k in graph.operators if k in ("PyFunc", "PyFuncStateless"))
    details = {
        "GraphDef version": str(graph.producer),
        "oldest reader": str(graph.min_consumer),
    }
    if graph.functions:
        details["functions"] = str(graph.functions)
    found.details = {**found.details, **details}
    made_by = [tool for mark, tool in _MARKS.items() if graph.names[mark]]
    if not found.written_by:
        era = _name_era(graph.producer)
        found.written_by = f"TensorFlow{era}" if graph.producer else "not stated"
    if made_by:
        found.written_by += f"; names as {made_by[0]} gives them"
    counts = dict(graph.layouts)
    if not counts:
        found.layout = "no convolutions"
    elif len(counts) == 1:
        found.layout = next(iter(counts))
    else:
        found.layout = "mixed: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))


@cache
def _read_producers() -> dict[int, str]:
    """Read which release introduced which version of GraphDef."""
    data = tomllib.loads(Path(__file__).with_name("tensorflow_releases.toml").read_text())
    return {int(version): str(release) for version, release in data["producers"].items()}


def _name_era(producer: int) -> str:
    """Name the release that wrote a graph of this version, as far as the known ones tell."""
    if not producer:
        return ""
    known = _read_producers()
    if producer in known:
        return f" {known[producer]}"
    older = [release for version, release in known.items() if version < producer]
    newer = [release for version, release in known.items() if version > producer]
    if older and newer:
        return f" between {older[-1]} and {newer[0]}"
    return f" after {older[-1]}" if older else f" before {newer[0]}"


def _find_problems(graph: _Graph, found: FileFacts) -> None:
    # Whether a converter accepts these depends on their contents: only trying tells.
    if calls := sorted(kind for kind in graph.operators if kind in _CALLS):
        found.notes.append(
            f"It calls functions ({', '.join(calls)}): freezing with "
            "convert_variables_to_constants_v2 would have inlined them."
        )
    if found.custom:
        found.problems.append(
            Obstacle(
                reason=f"It calls Python ({', '.join(found.custom)}), which no TFLite file can.",
                remedy="Replace the operation in the model; with onnx-tf, pad without ceil_mode.",
            )
        )
    if not found.damaged and not graph.inputs:
        found.problems.append(
            Obstacle(
                reason="It has no placeholder that would be its input.",
                remedy="Name its inputs: --option graph.inputs=NAME,...",
            )
        )


def looks_like_operator(message: Message, number: int) -> bool:
    """Tell whether a message has the name of an operator in the field of this number."""
    part = message.part(number)
    return part is not None and _OPERATOR.fullmatch(part.as_text()) is not None


_OPERATOR = re.compile(r"[A-Za-z_][A-Za-z0-9_.>/-]*")
