"""TensorFlow Lite models: the fields of schema.fbs that describe a model."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from runner.formats.facts import FileFacts
from runner.formats.flatbuffer import Buffer, Table
from runner.formats.protobuf import Budget, Data, Malformed
from runner.schemas.inspection import Size, TensorFacts

# BuiltinOperator of schema.fbs: one name per line, in the order of the codes.
OPERATORS = (Path(__file__).parent / "tflite_operators.txt").read_text().split()
_CUSTOM = OPERATORS.index("CUSTOM")
_TYPE_NAMES = (
    "float32 float16 int32 uint8 int64 string bool int16 complex64 int8 float64 complex128 "
    "uint64 resource variant uint32 uint16 int4 bfloat16 int2 uint4"
)
TYPES = dict(enumerate(_TYPE_NAMES.split()))
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE")
_CONTROL_FLOW = ("IF", "WHILE", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE")
_TO_NHWC = [0, 2, 3, 1]
_MOST_KINDS = 500
_MOST_SIGNATURES = 20
_MOST_TURNED = 20
# Fewer than the fields of a message, since a table can be reached from many places.
_MOST_TABLES = 250_000
# The number of metadata entries to read: no model has more.
_MOST_METADATA = 100

# Fields of schema.fbs, by table.
_VERSION, _CODES, _SUBGRAPHS, _DESCRIPTION, _BUFFERS, _METADATA, _SIGNATURES = 0, 1, 2, 3, 4, 6, 7
_OLD_CODE, _CUSTOM_CODE, _CODE_VERSION, _CODE = 0, 1, 2, 3
_TENSORS, _INPUTS, _OUTPUTS, _OPERATORS = 0, 1, 2, 3
_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTIZATION, _SIGNATURE_SHAPE = 0, 1, 2, 3, 4, 7
_SCALE, _ZERO_POINT = 2, 3
_OPCODE_INDEX, _READS = 0, 1


@dataclass
class _Model:
    """What has been counted so far."""

    codes: list[tuple[str, int]] = field(default_factory=list)
    special: set[str] = field(default_factory=set)
    buffers: list[Table] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    parameters: int = 0
    turned: list[str] = field(default_factory=list)


def read(data: Data, found: FileFacts) -> None:
    """Fill in `found` from a .tflite file, as far as it goes if it is damaged."""
    found.format, found.what = "tflite", "TensorFlow Lite model"
    model = _Model()
    try:
        root = Buffer(data, Budget(_MOST_TABLES)).root()
        found.details["schema version"] = str(root.number(_VERSION, "I"))
        if description := root.text(_DESCRIPTION):
            found.details["description"] = description
        for code in root.tables(_CODES):
            model.codes.append(_read_operator(code))
            if _read_operator_number(code) == _CUSTOM:
                model.special.add(model.codes[-1][0])
        model.buffers = list(root.tables(_BUFFERS))
        for buffer in model.buffers:
            buffer.content(0, 0)  # raises unless it ends within the file
        _read_metadata(root, model, found)
        if signatures := [s.text(2) for s in islice(root.tables(_SIGNATURES), _MOST_SIGNATURES)]:
            found.details["signatures"] = ", ".join(signatures)
        if not root.length(_SUBGRAPHS):
            raise Malformed
        for index, subgraph in enumerate(root.tables(_SUBGRAPHS)):
            _read_subgraph(subgraph, model, found, main=index == 0)
            if index:
                found.details["subgraphs"] = str(index + 1)
    except Malformed:
        found.damaged = True
    versions = ", ".join(f"{name} {version}" for name, version in sorted(model.codes)[:60])
    found.details["operator versions"] = versions
    found.operators = dict(model.operators.most_common(_MOST_KINDS))
    found.parameters, found.parameter_types = model.parameters, dict(model.types.most_common())
    found.control_flow = sorted(kind for kind in model.operators if kind in _CONTROL_FLOW)
    found.flex = sorted(kind for kind in model.special if kind.startswith("Flex"))
    found.custom = sorted(model.special - set(found.flex))
    if found.flex:
        found.notes.append("It needs the Flex delegate (SELECT_TF_OPS) to run.")
    if found.custom:
        found.notes.append("It needs kernels that no TensorFlow Lite has: its own operators.")
    found.written_by = _identify_converter(found)
    if any(kind in model.operators for kind in _CONVOLUTIONS):
        found.layout = "NHWC (as TensorFlow Lite's convolutions have it)"
    else:
        found.layout = "no convolutions"
    if model.turned:
        found.layout += f"; turned from NCHW first: {', '.join(model.turned)}"


def _identify_converter(found: FileFacts) -> str:
    """Identify the converter by what each of them leaves behind."""
    description = found.details.get("description", "")
    converter = {
        "MLIR Converted.": "TensorFlow's converter (MLIR)",
        "TOCO Converted.": "TensorFlow's old converter (TOCO)",
    }.get(description, description)
    if release := found.details.get("converter"):
        converter = f"TensorFlow's converter of release {release}"
    return converter or "not stated"


def _read_operator(code: Table) -> tuple[str, int]:
    """Read an OperatorCode: a name, which a custom operator brings along, and a version."""
    builtin, version = _read_operator_number(code), code.number(_CODE_VERSION, "i", 1)
    if builtin == _CUSTOM:
        return code.text(_CUSTOM_CODE), version
    known = 0 <= builtin < len(OPERATORS)
    return OPERATORS[builtin] if known else f"OPERATOR_{builtin}", version


def _read_operator_number(code: Table) -> int:
    """Return the operator's number; those above 127 have a separate field."""
    return max(code.number(_OLD_CODE, "b"), code.number(_CODE, "i"))


def _read_metadata(root: Table, model: _Model, found: FileFacts) -> None:
    for entry in islice(root.tables(_METADATA), _MOST_METADATA):
        name, index = entry.text(0), entry.number(1, "I")
        content = model.buffers[index].content(0, 1 << 16) if index < len(model.buffers) else b""
        if name == "min_runtime_version":
            text = content.partition(b"\0")[0].decode(errors="replace")
            found.details["oldest runtime"] = text or "not stated"
        elif name == "CONVERSION_METADATA":
            _read_conversion_metadata(content, found)
        elif len(found.details) < 20:
            found.details[f"metadata {name}"] = f"{len(content)} bytes"


def _read_conversion_metadata(content: bytes, found: FileFacts) -> None:
    """Read a conversion_metadata.fbs: an environment (0) with TensorFlow's version (0)."""
    try:
        environment = Buffer(content, Budget(100)).root().table(0)
        if environment is not None:
            found.details["converter"] = environment.text(0)
    except Malformed:
        found.notes.append("Its conversion metadata cannot be read.")


def _read_subgraph(subgraph: Table, model: _Model, found: FileFacts, main: bool) -> None:
    tensors = list(subgraph.tables(_TENSORS))
    for tensor in tensors:
        _count(tensor, model)
    inputs = subgraph.numbers(_INPUTS, "i")
    if main:
        found.inputs = [_describe_tensor(tensors[i]) for i in inputs if 0 <= i < len(tensors)]
        outputs = subgraph.numbers(_OUTPUTS, "i")
        found.outputs = [_describe_tensor(tensors[i]) for i in outputs if 0 <= i < len(tensors)]
    for operator in subgraph.tables(_OPERATORS):
        index = operator.number(_OPCODE_INDEX, "I")
        if index >= len(model.codes):
            raise Malformed
        kind = model.codes[index][0]
        model.operators[kind] += 1
        reads = operator.numbers(_READS, "i", 2)
        few = len(model.turned) < _MOST_TURNED
        turns = main and few and kind == "TRANSPOSE" and len(reads) == 2 and reads[0] in inputs
        turns = turns and 0 <= reads[0] < len(tensors)
        if turns and _read_constant(tensors, reads[1], model) == _TO_NHWC:
            model.turned.append(tensors[reads[0]].text(_NAME))


def _count(tensor: Table, model: _Model) -> None:
    """Count a tensor with contents as parameters, unless it holds integers such as axes or sizes.

    Quantized weights are integers too, but they have a scale.
    """
    index = tensor.number(_BUFFER, "I")
    if not 0 < index < len(model.buffers):
        return
    stored = model.buffers[index].length(0) or model.buffers[index].number(1, "Q")
    kind = TYPES.get(tensor.number(_TYPE, "b"), "?")
    quantized = bool(_count_scales(tensor))
    if stored and (kind.startswith(("float", "bfloat")) or quantized):
        sizes = tensor.numbers(_SHAPE, "i")
        count = math.prod(sizes) if all(size >= 0 for size in sizes) else 0
        model.parameters += count
        model.types[f"{kind} quantized" if quantized else kind] += count


def _count_scales(tensor: Table) -> int:
    quantization = tensor.table(_QUANTIZATION)
    return quantization.length(_SCALE) if quantization is not None else 0


def _read_constant(tensors: list[Table], index: int, model: _Model) -> list[int]:
    """Read the first four numbers of an int32 constant."""
    if not 0 <= index < len(tensors):
        return []
    buffer = tensors[index].number(_BUFFER, "I")
    content = model.buffers[buffer].content(0, 16) if buffer < len(model.buffers) else b""
    return [int.from_bytes(content[i : i + 4], "little") for i in range(0, len(content), 4)]


def _describe_tensor(tensor: Table) -> TensorFacts:
    fixed, signature = tensor.numbers(_SHAPE, "i"), tensor.numbers(_SIGNATURE_SHAPE, "i")
    open_sizes = len(signature) == len(fixed)
    sizes: list[Size] = [
        "?" if open_sizes and signature[axis] < 0 else size for axis, size in enumerate(fixed)
    ]
    quantization = tensor.table(_QUANTIZATION)
    told = ""
    if quantization is not None and quantization.length(_SCALE):
        scale = quantization.buffer.scalar("f", quantization.place(_SCALE) + 4)
        zero = quantization.numbers(_ZERO_POINT, "q", 1)
        told = f"scale {scale:.6g}, zero point {zero[0] if zero else 0}"
    return TensorFacts(
        name=tensor.text(_NAME),
        shape=sizes,
        dtype=TYPES.get(tensor.number(_TYPE, "b"), "?"),
        quantization=told,
    )
