"""The stage `onnx-tf`: an ONNX model to a frozen graph, by onnx-tensorflow before 1.8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stages.frameworks.onnx_tf import draw_same_names
from stages.frameworks.tensorflow import check_graph, import_tensorflow
from stages.kit.contract import (
    Job,
    Signature,
    Stage,
    StageError,
    Tensor,
    run_as_program,
)


def convert(job: Job) -> Signature:
    """Write the frozen graph and return its signature, with the graph's own tensor names."""
    import onnx
    import onnx_tf.backend
    import onnx_tf.common

    tf = import_tensorflow()
    known = job.require_upstream_signature()
    draw_same_names(onnx_tf.common)
    try:
        model = onnx.load(str(job.input))
        _part_outputs(onnx, model.graph)
        representation = onnx_tf.backend.prepare(model, device="CPU", logging_level="ERROR")
        representation.export_graph(str(job.output))
    except Exception as error:  # onnx-tf and TensorFlow raise anything
        raise StageError(
            f"onnx-tf cannot convert the model: {type(error).__name__}: {error}"
        ) from error
    graph_def = tf.compat.v1.GraphDef.FromString(job.output.read_bytes())
    # The attributes of a node are written in the order of a hash table, unless they are sorted.
    job.output.write_bytes(graph_def.SerializeToString(deterministic=True))
    return Signature(
        tuple(_locate(tensor, representation) for tensor in known.inputs),
        tuple(_locate(tensor, representation, renamed=True) for tensor in known.outputs),
    )


def _part_outputs(onnx: Any, graph: Any) -> None:
    """Give an output that is also used inside the graph a node of its own, an Identity.

    export_graph of onnx-tf before 1.8 renames the outputs' nodes, and not where they are used.
    """
    outputs = {value.name for value in graph.output}
    used = {name for node in graph.node for name in node.input} & outputs
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}_inside" if name in used else name for name in names]
    for name in sorted(used):
        graph.node.append(onnx.helper.make_node("Identity", [f"{name}_inside"], [name]))


def _locate(tensor: Tensor, representation: Any, renamed: bool = False) -> Tensor:
    """Return a tensor with its name in the graph: an output that comes first is renamed to ours."""
    node = representation.tensor_dict[tensor.name].name
    if renamed and node.endswith(":0"):
        node = f"{tensor.name}:0"
    return replace(tensor, node=node)


STAGE = Stage(
    name="onnx-tf",
    summary=__doc__ or "",
    consumes="model.onnx",
    produces="model.pb",
    packages=("onnx-tf", "tensorflow", "onnx", "numpy"),
    convert=convert,
    check=check_graph,
    imports=("onnx", "onnx_tf.backend", "tensorflow"),
)

if __name__ == "__main__":
    run_as_program(STAGE)
