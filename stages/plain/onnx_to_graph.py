"""The stage `onnx-tf`: an ONNX model to a frozen graph, by onnx-tensorflow before 1.8."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Dict, Optional

from stages.frameworks.tensorflow import import_tensorflow, load_graph, make_session_config
from stages.kit.contract import (
    InputError,
    Job,
    Signature,
    Stage,
    StageError,
    Tensor,
    run_as_program,
)
from stages.kit.samples import compare, open_samples


def convert(job: Job) -> Signature:
    """Write the frozen graph and return its signature, with the graph's own tensor names."""
    import onnx
    import onnx_tf.backend
    import onnx_tf.common

    tf = import_tensorflow()
    known = job.find_upstream_signature()
    if known is None:
        raise InputError(f"No report says who made '{job.input.name}'.", "Run the stage before.")
    # Some nodes get digits of a random UUID in their names: let it be the same ones each time.
    draw = random.Random(0)
    onnx_tf.common.uuid = SimpleNamespace(
        uuid4=lambda: uuid.UUID(int=draw.getrandbits(128), version=4)
    )
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


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the frozen graph on every sample and compare its outputs; None without samples."""
    tf = import_tensorflow()
    graph = load_graph(job.artifact)
    job.report["operators"] = dict(Counter(node.type for node in graph.get_operations()))
    samples = open_samples(job.volume)
    if samples is None:
        job.note("The volume holds no samples, so the graph was not checked.")
        return None
    assert job.signature is not None
    config = make_session_config(tf, graph.as_graph_def())
    with tf.compat.v1.Session(graph=graph, config=config) as session:
        call = session.make_callable(
            [tensor.node for tensor in job.signature.outputs],
            feed_list=[tensor.node for tensor in job.signature.inputs],
        )
        return compare(
            job, samples, f"TensorFlow {tf.__version__}", lambda: lambda values: call(*values)
        )


STAGE = Stage(
    name="onnx-tf",
    summary=__doc__ or "",
    consumes="model.onnx",
    produces="model.pb",
    packages=("onnx-tf", "tensorflow", "onnx", "numpy"),
    convert=convert,
    check=check,
)

if __name__ == "__main__":
    run_as_program(STAGE)
