"""The entry point of the stage `onnx-tf`: a conversion with fixes."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import tensorflow as tf
from onnx import TensorProto
from onnx_tf.backend import TensorflowBackend
from onnx_tf.backend_rep import TensorflowRep
from onnx_tf.common import data_type

from stages.fixes.onnx_tf import prune
from stages.fixes.onnx_tf.emitter import Emitter
from stages.fixes.onnx_tf.handlers import register_all
from stages.fixes.onnx_tf.layout import Order, Value, channels_last, plain
from stages.fixes.onnx_tf.onnx_graph import Graph, read_opset
from stages.fixes.onnx_tf.rewrites import rewrite
from stages.kit.contract import Tensor

register_all()

# For 64-bit integers, TensorFlow Lite 2.4 has no builtin of these.
_WIDE_ARITHMETIC = {"Add", "AddV2", "Sub", "Mul", "FloorDiv", "FloorMod", "Abs", "Neg", "Pow"}
_WIDE_ARITHMETIC |= {"Square", "Sum", "Prod", "Cumsum", "AddN"}


# Integers that are computed in 32 bits, and given as the model declares them.
_OUTPUT_TYPES = {
    TensorProto.INT64: tf.int64,
    TensorProto.INT8: tf.int8,
    TensorProto.UINT8: tf.uint8,
}


class Representation:
    """A stand-in for TensorflowRep: a graph with its inputs and outputs by ONNX name."""

    # The output tensors have their final names already: export_graph renames nothing.
    keeps_names = True

    def __init__(
        self,
        graph: tf.Graph,
        inputs: List[str],
        outputs: List[str],
        tensors: Dict[str, tf.Tensor],
        axes: Dict[str, Order],
        directly: bool,
        values: Dict[str, Value],
        channels: Dict[str, List[int]],
    ) -> None:
        self.graph = graph
        self.values = values
        self.channels = channels
        self.inputs = inputs
        self.outputs = outputs
        self.tensor_dict = tensors
        self.axes = axes
        self.directly = directly

    def export_graph(self, path: str) -> None:
        """Write all inputs and what the outputs need, in the graph's order."""
        wanted = [self.tensor_dict[name].op.name for name in [*self.inputs, *self.outputs]]
        pruned = prune.prune(self.graph, wanted)
        if self.directly:
            prune.merge_input_transposes(pruned)
            # Prune again: the merged transposes leave operators that nothing reads.
            pruned = tf.compat.v1.graph_util.extract_sub_graph(pruned, wanted)
        Path(path).write_bytes(pruned.SerializeToString(deterministic=True))


def convert_with_fixes(
    model: Any,
    fixes: Iterable[str],
    expected: Sequence[Tensor] = (),
    channels_last_io: bool = False,
    layers: Optional[Mapping[str, str]] = None,
) -> Tuple[Any, List[str], List[str]]:
    """Convert an ONNX model; return it, the names of the fixes that changed something, and notes.

    `expected` are the inputs of the PyTorch model: those that the exporter dropped, since no output
    needs them, become inputs that nothing reads. `layers` maps ONNX tensors to module paths.

    With `channels_last_io`, inputs and outputs that are images keep the graph's own order of axes,
    which the result's `axes` holds.

    Raises `StageError`, naming the layer, if one cannot be converted.
    """
    fixes = set(fixes)
    source = Graph(model.graph, read_opset(model.opset_import))
    # First: rewrites and emission go by shapes.
    has_fixed_batch = "static-batch" in fixes and source.fix_batch()
    used, notes = rewrite(source, fixes)
    if has_fixed_batch:
        used.add("static-batch")

    def convert(integer: tf.DType) -> Tuple[Any, Emitter]:
        emitter = Emitter(TensorflowBackend, model.opset_import, fixes)
        emitter.integer = integer
        emitter.used |= used
        emitter.notes += notes
        emitter.layers = layers or {}
        emitter.reserved |= {_sanitize(name) for name in source.outputs}
        if "outputs" in fixes:
            _number_suffixes()
        return _emit_graph(source, emitter, expected, channels_last_io), emitter

    result, emitter = convert(tf.int64)
    if "narrow-integers" in fixes and _computes_wide_integers(result.graph):
        result, emitter = convert(tf.int32)
        emitter.used.add("narrow-integers")
    return result, sorted(emitter.used & fixes), emitter.notes


def _computes_wide_integers(graph: tf.Graph) -> bool:
    return any(
        operation.type in _WIDE_ARITHMETIC and operation.inputs[0].dtype == tf.int64
        for operation in graph.get_operations()
    )


def _emit_graph(
    source: Graph, emitter: Emitter, expected: Sequence[Tensor], channels_last_io: bool
) -> Any:
    """Emit a graph; return it with its inputs and outputs, as onnx-tf's own TensorflowRep is."""
    fixes = emitter.fixes
    graph = tf.Graph()
    with graph.as_default():
        tensors: Dict[str, tf.Tensor] = {}
        axes: Dict[str, Order] = {}
        for info in source.inputs:
            kind = info.type.tensor_type
            shape = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
            order = plain(len(shape))
            is_image = (
                "layout" in fixes and len(shape) >= 4 and prune.feeds_images(source, info.name)
            )
            if is_image and channels_last_io:
                order = axes[info.name] = channels_last(len(shape))
            tensor = tf.compat.v1.placeholder(
                data_type.onnx2tf(kind.elem_type),
                [shape[axis] for axis in order],
                _sanitize(info.name),
            )
            value = emitter.values[info.name] = Value.from_tensor(tensor, order)
            if is_image:
                value.preferred = channels_last(len(shape))
            emitter.reserved.add(tensor.op.name)
            tensors[info.name] = tensor
        for tensor in expected:
            if tensor.name not in tensors:
                tensors[tensor.name] = tf.compat.v1.placeholder(
                    tensor.dtype, tensor.shape, _sanitize(tensor.name)
                )
        emitter.run(source)
        inputs = list(tensors)
        outputs = {}
        for name in source.outputs:
            value = emitter.values[name]
            if channels_last_io and name not in tensors and _is_image(value):
                axes[name] = value.order
            outputs[name] = value.tensor(axes.get(name))
            wanted = _OUTPUT_TYPES.get(source.output_types.get(name, 0))
            if wanted is not None and outputs[name].dtype == tf.int32:
                outputs[name] = tf.cast(outputs[name], wanted)
        if "outputs" not in fixes:
            known = {name: tensors.get(name, tensor) for name, tensor in outputs.items()}
            result = TensorflowRep(graph, inputs, source.outputs, {**tensors, **known})
            result.axes = axes
            result.values = emitter.values
            result.channels = source.channels
            return result
        for name, tensor in outputs.items():
            # Each output gets an operator of its own, even for an input or an interior tensor;
            # only one that has an input's very name is that input.
            if name not in tensors:
                outputs[name] = tf.identity(tensor, _sanitize(name))
            else:
                outputs[name] = tensors[name]
        emitter.used.add("outputs")
    return Representation(
        graph,
        inputs,
        source.outputs,
        {**tensors, **outputs},
        axes,
        "layout" in fixes,
        emitter.values,
        source.channels,
    )


def _is_image(value: Value) -> bool:
    """Tell whether a value lies channels-last in the graph."""
    return value.const is None and value.rank >= 4 and value.order == channels_last(value.rank)


def _sanitize(name: str) -> str:
    """Turn a name into one that TensorFlow allows."""
    name = re.sub(r"[^A-Za-z0-9_.\-/]", "_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"t{name}"


def _number_suffixes() -> None:
    """Number the names that onnx-tf would make unique by a random suffix."""
    counter = itertools.count()
    for name, module in list(sys.modules.items()):
        if name.startswith("onnx_tf") and callable(getattr(module, "get_unique_suffix", None)):
            module.get_unique_suffix = lambda: f"u{next(counter)}"  # type: ignore[attr-defined]
