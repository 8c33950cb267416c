"""ONNX models: the fields of onnx.proto that describe a model."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from runner.formats.facts import FileFacts
from runner.formats.protobuf import BYTES, Malformed, Message, decode_signed
from runner.schemas.inspection import Obstacle, Size, TensorFacts

_ONE_FILE = (
    "Put them into one file, where the other files lie: "
    "python -c \"import onnx; onnx.save(onnx.load('FILE.onnx'), 'ONE.onnx')\"."
)
_CONTROL_FLOW = ("If", "Loop", "Scan")
_CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv")
_DEEPEST_SUBGRAPH = 8
_MOST_KINDS = 500

# TensorProto.DataType.
_TYPE_NAMES = (
    "undefined float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 "
    "uint64 complex64 complex128 bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 "
    "float8e5m2fnuz uint4 int4 float4e2m1"
)
TYPES = dict(enumerate(_TYPE_NAMES.split()))

# Field numbers of onnx.proto.
_IR_VERSION, _PRODUCER, _PRODUCER_VERSION, _DOMAIN, _GRAPH, _OPSETS, _METADATA = (
    1,
    2,
    3,
    4,
    7,
    8,
    14,
)
_FUNCTIONS = 25
_NODE, _NAME, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE_INITIALIZER = 1, 2, 5, 11, 12, 15
_OP_TYPE, _ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_DIMS, _DATA_TYPE, _TENSOR_NAME, _DATA_LOCATION = 1, 2, 8, 14


@dataclass
class _Graph:
    """What has been counted so far."""

    operators: Counter[str] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    parameters: int = 0
    external: int = 0
    initializers: set[str] = field(default_factory=set)
    inputs: list[TensorFacts] = field(default_factory=list)
    outputs: list[TensorFacts] = field(default_factory=list)


def read(message: Message, found: FileFacts) -> None:
    """Fill in `found` from an ONNX model's fields, as far as they go if the file is truncated."""
    found.format, found.what = "onnx", "ONNX model"
    graph = _Graph()
    opsets: dict[str, int] = {}
    functions = 0
    texts = {_PRODUCER: "", _PRODUCER_VERSION: "", _DOMAIN: ""}
    ir_version, metadata = 0, 0
    try:
        for number, kind, value in message.fields():
            if number == _IR_VERSION and isinstance(value, int):
                ir_version = value
            if kind != BYTES or not isinstance(value, Message):
                continue
            if number in texts:
                texts[number] = value.as_text()
            elif number == _GRAPH:
                _read_graph(value, graph, 0)
            elif number == _OPSETS:
                opsets[value.text(1) or "ai.onnx"] = value.number(2)
            elif number == _METADATA and metadata < 8:
                metadata += 1
                found.details[f"metadata {value.text(1)}"] = value.text(2)
            elif number == _FUNCTIONS:
                functions += 1
    except Malformed:
        found.damaged = True
    found.written_by = " ".join(filter(None, (texts[_PRODUCER], texts[_PRODUCER_VERSION])))
    listed = [f"{version} ({domain})" for domain, version in opsets.items() if domain != "ai.onnx"]
    own = opsets.get("ai.onnx", 0)
    found.details = {
        "ONNX IR version": str(ir_version),
        "operator set": ", ".join([*([str(own)] if own else []), *listed]) or "not stated",
        **({"domain": texts[_DOMAIN]} if texts[_DOMAIN] else {}),
        **({"local functions": str(functions)} if functions else {}),
        **found.details,
    }
    found.inputs = [t for t in graph.inputs if t.name not in graph.initializers]
    found.outputs = graph.outputs
    found.operators = dict(graph.operators.most_common(_MOST_KINDS))
    found.parameters = graph.parameters
    found.parameter_types = dict(graph.types.most_common())
    found.control_flow = sorted(k for k in graph.operators if k in _CONTROL_FLOW)
    found.custom = sorted(k for k in graph.operators if "::" in k)
    convolutions = sum(n for kind, n in graph.operators.items() if kind in _CONVOLUTIONS)
    found.layout = "NCHW (as ONNX always has it)" if convolutions else "no convolutions"
    found.version, found.ir_version = own, ir_version
    _find_problems(found, functions, graph)


def _find_problems(found: FileFacts, functions: int, graph: _Graph) -> None:
    if found.custom or functions:
        shown = ", ".join(found.custom[:5]) or "local functions"
        found.problems.append(
            Obstacle(
                reason=f"It has operators from outside ONNX: {shown}.",
                remedy="Export the model without custom operators or local functions, and before "
                "any optimizer of ONNX Runtime has rewritten it.",
            )
        )
    if graph.external:
        found.problems.append(
            Obstacle(
                reason=f"It keeps {graph.external} of its tensors in other files.",
                remedy=_ONE_FILE,
                runs=False,
            )
        )
    if not found.inputs and not found.damaged:
        found.problems.append(
            Obstacle(
                reason="It has no input: there is nothing to convert.",
                remedy="Export the model with its inputs.",
            )
        )


def _read_graph(message: Message, graph: _Graph, depth: int) -> None:
    for number, kind, value in message.fields():
        if kind != BYTES or not isinstance(value, Message):
            continue
        if number == _NODE:
            _read_node(value, graph, depth)
        elif number == _INITIALIZER:
            _read_initializer(value, graph)
        elif number == _INPUT and not depth:
            graph.inputs.append(_read_value_info(value))
        elif number == _OUTPUT and not depth:
            graph.outputs.append(_read_value_info(value))


def _read_node(message: Message, graph: _Graph, depth: int) -> None:
    operator = domain = ""
    for number, kind, value in message.fields():
        if kind != BYTES or not isinstance(value, Message):
            continue
        if number == _OP_TYPE:
            operator = value.as_text()
        elif number == _NODE_DOMAIN:
            domain = value.as_text()
        elif number == _ATTRIBUTE and depth < _DEEPEST_SUBGRAPH:
            for sub, sub_kind, inner in value.fields():
                is_graph = sub in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and sub_kind == BYTES
                if is_graph and isinstance(inner, Message):
                    _read_graph(inner, graph, depth + 1)
    known = domain in ("", "ai.onnx")
    graph.operators[operator if known else f"{domain}::{operator}"] += 1


def _read_initializer(message: Message, graph: _Graph) -> None:
    dims = [decode_signed(size) for size in message.numbers(_DIMS)]
    count = math.prod(dims) if all(size >= 0 for size in dims) else 0
    graph.parameters += count
    graph.types[TYPES.get(message.number(_DATA_TYPE), "unknown")] += count
    graph.initializers.add(message.text(_TENSOR_NAME))
    graph.external += message.number(_DATA_LOCATION) == 1


def _read_value_info(message: Message) -> TensorFacts:
    """Read a ValueInfoProto: a name and a type, a tensor's unless a sequence's or map's."""
    name, kind = message.text(1), message.part(2)
    tensor = kind.part(1) if kind is not None else None
    if tensor is None:
        other = next((n for n, _, _ in kind.fields()), 0) if kind is not None else 0
        return TensorFacts(
            name=name, shape=None, dtype={4: "sequence", 5: "map", 9: "optional"}.get(other, "?")
        )
    shape = tensor.part(2)
    sizes: list[Size] | None = None if shape is None else []
    for dim in shape.parts(1) if shape is not None else ():
        fixed, named = decode_signed(dim.number(1)), dim.text(2)
        assert sizes is not None
        sizes.append(fixed if fixed > 0 else named or "?")
    return TensorFacts(name=name, shape=sizes, dtype=TYPES.get(tensor.number(1), "unknown"))
