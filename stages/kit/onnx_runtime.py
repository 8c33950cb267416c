"""ONNX Runtime 1.4's sessions, without the one rewrite of its that changes results."""

from __future__ import annotations

from typing import Any, Optional, Set


def make_plain_settings() -> Any:
    """Return a session's settings that run a model as it is, in the caller's thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return settings


def open_session(model: Any, settings: Optional[Any] = None) -> Any:
    """Open a session for an ONNX model, a ModelProto.

    ONNX Runtime 1.4 makes one cast of two in a row, `x.long().float()`, at any level of
    optimization, so that nothing is cut off any more. An Identity between them prevents it, where
    optimizations do not drop it again.
    """
    import onnxruntime

    settings = settings or onnxruntime.SessionOptions()
    # It warns about each unused initializer.
    settings.log_severity_level = max(3, settings.log_severity_level)
    if _part_casts(model.graph, set()):
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), settings)


def _part_casts(graph: Any, casts: Set[str]) -> bool:
    """Insert an Identity between casts in a row; tell whether there were any."""
    import onnx

    changed = False
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in casts:
            apart = f"{node.output[0]}_apart"
            nodes.append(onnx.helper.make_node("Identity", [node.input[0]], [apart]))
            node.input[0] = apart
            changed = True
        if node.op_type == "Cast":
            casts = casts | {node.output[0]}
        for attribute in node.attribute:
            if attribute.HasField("g"):
                changed |= _part_casts(attribute.g, casts)
        nodes.append(node)
    if changed:
        kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
    return changed
