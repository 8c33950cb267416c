"""The stage `onnx-tf`: an ONNX model to a frozen TensorFlow graph, by onnx-tensorflow 1.6.0."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any, Dict, List, Sequence, Tuple

from stages.convert.io_layout import IO_LAYOUT, note_layout, wants_channels_last_io
from stages.fixes.catalogue import resolve
from stages.frameworks.onnx_files import fix_input_shapes
from stages.frameworks.onnx_tf import draw_same_names
from stages.frameworks.tensorflow import check_graph, import_tensorflow
from stages.kit import open_batch
from stages.kit.contract import (
    InputError,
    Job,
    Option,
    Signature,
    Stage,
    StageError,
    Tensor,
    flag,
    run_as_program,
)
from stages.kit.layers import read_layers

# Keeps a report readable: of a larger graph only the first tensors are listed.
_MOST_PLACES = 20_000


def convert(job: Job) -> Signature:
    """Write the frozen graph and return its signature, with the graph's own tensor names."""
    import onnx

    tf = import_tensorflow()
    try:
        model = onnx.load(str(job.input))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker raise their own types
        raise InputError(
            f"'{job.input.name}' is not a valid ONNX model: {error}",
            "Export it again; onnx 1.7.0 reads opsets up to 12.",
        ) from None
    backend = _load_backend(job)
    chosen = resolve(job.options, "onnx-tf")
    job.report["fixes"] = []
    upstream = job.find_upstream_signature()
    inputs = upstream.inputs if upstream else ()
    opens = open_batch.find_open_axis(inputs) is not None
    if opens and "open-graph" in chosen:
        return _convert_open(tf, job, backend, model, inputs, chosen)
    # An open batch stays open, as far as the tools themselves can keep it so.
    chosen = [fix for fix in chosen if not opens or fix != "static-batch"]
    representation, graph_def = _convert(tf, job, backend, model, inputs, chosen)
    signature = _build_signature(job, representation)
    _write(job, representation, signature, graph_def)
    return signature


def _convert(
    tf: Any, job: Job, backend: Any, model: Any, inputs: Sequence[Tensor], chosen: Sequence[str]
) -> Tuple[Any, Any]:
    """Convert a model with the chosen fixes; return what onnx-tf made of it, and its GraphDef."""
    if chosen:
        from stages.fixes.onnx_tf.apply import convert_with_fixes

        representation, job.report["fixes"], notes = convert_with_fixes(
            model,
            chosen,
            inputs,
            wants_channels_last_io(job, chosen),
            read_layers(job.volume),
        )
        for note in notes:
            job.note(note)
    else:
        wants_channels_last_io(job, chosen)
        representation = _convert_without_fixes(backend, model, read_layers(job.volume))
    representation.export_graph(str(job.output))
    graph_def = tf.compat.v1.GraphDef.FromString(job.output.read_bytes())
    if _has_variables(representation.graph):
        graph_def = _freeze(tf, representation, graph_def)
    return representation, graph_def


def _write(job: Job, representation: Any, signature: Signature, graph_def: Any) -> None:
    # export_graph writes a node's attributes in hash table order, which differs from run to run;
    # once they are sorted, the same graph always gives the same file.
    job.output.write_bytes(graph_def.SerializeToString(deterministic=True))
    job.report["tensors"] = _locate_tensors(representation, signature, graph_def)


def _convert_open(
    tf: Any, job: Job, backend: Any, model: Any, inputs: Sequence[Tensor], chosen: Sequence[str]
) -> Signature:
    """Convert at two batch sizes, with all shapes known, and open the batch of the graph."""
    from stages.frameworks.open_batch.frozen_graph import open_graph

    graphs: List[Any] = []
    for size in open_batch.TRIALS[::-1]:  # what is reported is of the last one
        fixed = fix_input_shapes(model, inputs, size)
        resized = [open_batch.resize(tensor, size) for tensor in inputs]
        representation, graph_def = _convert(tf, job, backend, fixed, resized, chosen)
        graphs.insert(0, graph_def)
    signature = _build_signature(job, representation)
    layers = _map_scopes(model, read_layers(job.volume))

    def locate(node: str) -> str:
        return layers.get(node.partition("/")[0], "")

    graph_def, changed = open_graph(graphs[0], graphs[1], signature.inputs, locate)
    if changed:
        job.report["fixes"] = sorted({*job.report["fixes"], "open-graph"})
    _write(job, representation, signature, graph_def)
    return signature


def _map_scopes(model: Any, layers: Dict[str, str]) -> Dict[str, str]:
    """Map the scopes that a conversion with fixes gives its nodes to the layers they come from."""
    scopes = {}
    for node in model.graph.node:
        layer = next((layers[name] for name in node.output if name in layers), "")
        scopes[re.sub(r"[^A-Za-z0-9.\-]", "_", node.name or "").lstrip("_-.")] = layer
    return {scope: layer for scope, layer in scopes.items() if scope and layer}


def _load_backend(job: Job) -> Any:
    """Return onnx-tf's backend, patched to emit a graph for CPUs on any machine.

    At prepare(), onnx-tf 1.6.0 checks whether the machine has a GPU and lays out convolutions
    accordingly (NCHW, which no CPU runs); it ignores `device=`. onnx/onnx-tensorflow issue 31.
    TensorFlow itself may still run the graph on the GPU.
    """
    import onnx_tf.backend
    import onnx_tf.common

    draw_same_names(onnx_tf.common)
    if not job.options["prepare_sees_gpu"]:
        for name, module in list(sys.modules.items()):
            if name.startswith("onnx_tf") and callable(getattr(module, "supports_device", None)):
                module.supports_device = lambda device: device == "CPU"  # type: ignore[attr-defined]
    return onnx_tf.backend


def _convert_without_fixes(backend: Any, model: Any, layers: Dict[str, str]) -> Any:
    """Convert by onnx-tf alone, and add to its errors the operator that failed."""
    owner = backend.TensorflowBackend
    convert_node = owner._onnx_node_to_tensorflow_op.__func__
    at: List[Any] = []

    def note_node(cls: Any, node: Any, *args: Any, **kwargs: Any) -> Any:
        at[:] = [node]
        return convert_node(cls, node, *args, **kwargs)

    owner._onnx_node_to_tensorflow_op = classmethod(note_node)
    try:
        return backend.prepare(model, device="CPU", logging_level="WARNING")
    except Exception as error:  # onnx-tf and TensorFlow raise anything
        if not at:
            raise
        node = at[0]
        layer = next((layers[name] for name in node.outputs if name in layers), "")
        raise StageError(
            f"onnx-tf 1.6.0 alone cannot convert the layer '{layer or node.name}' (ONNX operator "
            f"{node.op_type}, node '{node.name}'): {type(error).__name__}: {error}"
        ) from error  # the catalogue of known failures has the remedy, mostly a fix
    finally:
        owner._onnx_node_to_tensorflow_op = classmethod(convert_node)


def _has_variables(graph: Any) -> bool:
    return any(op.type in ("VariableV2", "VarHandleOp") for op in graph.get_operations())


def _freeze(tf: Any, representation: Any, graph_def: Any) -> Any:
    """Return the graph with its variables (recurrent layers have some) replaced by their values."""
    outputs = [
        _get_node(representation, name)[0].partition(":")[0] for name in representation.outputs
    ]
    graph = representation.graph
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        session.run(tf.compat.v1.global_variables_initializer())
        return tf.compat.v1.graph_util.convert_variables_to_constants(session, graph_def, outputs)


def _get_node(representation: Any, output: str) -> Tuple[str, Any]:
    """Return the name that export_graph gives an output, and its tensor.

    It renames an operation after the ONNX output only if that is the operation's first (`:0`).
    """
    tensor = representation.tensor_dict[output]
    # A graph converted with fixes already has its final output names.
    first = tensor.name.endswith(":0") and not getattr(representation, "keeps_names", False)
    return (f"{output}:0" if first else tensor.name), tensor


def _locate_tensors(
    representation: Any, signature: Signature, graph_def: Any
) -> Dict[str, Dict[str, Any]]:
    """Return the node and the order of axes and channels of each ONNX tensor that the graph holds.

    This is how a trace knows that two tensors are the same.
    """
    kept = {node.name for node in graph_def.node}
    outputs = {tensor.name: tensor.node for tensor in signature.outputs}
    places: Dict[str, Dict[str, Any]] = {}
    values = getattr(representation, "values", None)
    channels = getattr(representation, "channels", {})
    if values is None:  # converted by onnx-tf alone: every tensor has ONNX's order of axes
        found = [
            (name, tensor, None)
            for name, tensor in representation.tensor_dict.items()
            if getattr(tensor, "op", None) is not None
        ]
    else:
        found = [(name, *value.place()) for name, value in values.items() if value.is_emitted]
    for name, tensor, order in found:
        node = outputs.get(name, tensor.name)
        if node.partition(":")[0] in kept and tensor.op.type not in ("Const", "Placeholder"):
            axes = list(order) if order is not None and name not in outputs else []
            places[name] = {"node": node, "axes": axes}
            if name in channels:
                places[name]["channels"] = channels[name]
            if len(places) == _MOST_PLACES:
                break
    return places


def _build_signature(job: Job, representation: Any) -> Signature:
    upstream = job.find_upstream_signature()
    axes = getattr(representation, "axes", {})
    inputs = [
        _describe(name, representation.tensor_dict[name].name, representation.tensor_dict[name])
        for name in representation.inputs
    ]
    outputs = [_describe(name, *_get_node(representation, name)) for name in representation.outputs]
    signature = Signature(
        *(tuple(_lay_out(t, axes.get(t.name, ())) for t in side) for side in (inputs, outputs))
    )
    if upstream is not None:
        # TensorFlow often loses an output's static shape, which the previous stage knows.
        signature = Signature(
            _fill_in_nodes(upstream.inputs, signature.inputs),
            _fill_in_nodes(upstream.outputs, signature.outputs),
        )
    note_layout(job, signature)
    return signature


def _fill_in_nodes(known: Sequence[Tensor], found: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    by_name = {tensor.name: tensor for tensor in found}
    missing = [tensor.name for tensor in known if tensor.name not in by_name]
    if missing:
        raise StageError(f"onnx-tf lost these inputs or outputs: {', '.join(missing)}.")
    return tuple(
        replace(tensor, node=by_name[tensor.name].node, axes=by_name[tensor.name].axes)
        for tensor in known
    )


def _describe(name: str, node: str, tensor: Any) -> Tensor:
    shape = tensor.shape.as_list() if tensor.shape.rank is not None else []
    return Tensor(name, tuple(-1 if d is None else d for d in shape), tensor.dtype.name, node)


def _lay_out(tensor: Tensor, axes: Tuple[int, ...]) -> Tensor:
    """Turn a tensor's shape in the graph into its ONNX shape, given the `axes` that it lies in."""
    shape = tuple(tensor.shape[axes.index(axis)] for axis in range(len(axes)))
    return replace(tensor, shape=shape, axes=axes) if axes else tensor


STAGE = Stage(
    name="onnx-tf",
    summary=__doc__ or "",
    consumes="model.onnx",
    produces="model.pb",
    packages=("onnx-tf", "tensorflow", "tensorflow-addons", "onnx", "numpy"),
    convert=convert,
    check=check_graph,
    imports=("onnx", "tensorflow", "onnx_tf.backend"),
    options=(
        Option("fixes", str, "all", "repairs to apply: all, none, NAME,... or -NAME,..."),
        Option(
            "prepare_sees_gpu",
            flag,
            False,
            "let onnx-tf look for a GPU, and lay the graph out for it",
        ),
        IO_LAYOUT,
    ),
)


if __name__ == "__main__":
    run_as_program(STAGE)
