"""What both TensorFlow stages need: an import without noise, and frozen graphs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, List

from stages.kit.contract import InputError

# Operations that do nothing for a graph's outputs although nothing consumes them.
_NOT_OUTPUTS = ("Const", "Placeholder", "NoOp", "Assert", "Assign")


def import_tensorflow() -> Any:
    """TensorFlow, without the lines it logs about each CPU feature and missing CUDA library."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    return tensorflow


def load_graph(path: Path) -> Any:
    """A tf.Graph of a frozen graph's file. Raises `InputError` for anything else."""
    tf = import_tensorflow()
    try:
        graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        if not graph_def.node:
            raise ValueError("it holds no node")
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise InputError(
            f"'{path.name}' is not a frozen graph that TensorFlow {tf.__version__} reads: {error}",
            "Freeze the graph (convert_variables_to_constants) and write it as binary protobuf.",
        ) from None
    return graph


def placeholders(graph: Any) -> List[Any]:
    """The graph's inputs, in the graph's order."""
    return [op.outputs[0] for op in graph.get_operations() if op.type == "Placeholder"]


def sinks(graph: Any) -> List[Any]:
    """The graph's outputs as far as it shows them: tensors that nothing consumes."""
    return [
        tensor
        for op in graph.get_operations()
        if op.type not in _NOT_OUTPUTS and not any(t.consumers() for t in op.outputs)
        for tensor in op.outputs[:1]
    ]
