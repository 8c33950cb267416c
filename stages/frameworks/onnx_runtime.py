"""ONNX Runtime's sessions, without the one rewrite of 1.4 that changes results, and the check."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np

from stages.kit.contract import Job
from stages.kit.samples import compare, open_samples


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the job's ONNX model in ONNX Runtime on every sample and compare its outputs."""
    import onnx
    import onnxruntime

    model = onnx.load(str(job.artifact))
    job.report["operators"] = dict(Counter(node.op_type for node in model.graph.node))
    samples = open_samples(job.volume)
    assert samples is not None and job.signature is not None
    session = open_session(model)
    # The exporter drops inputs that no output needs.
    known = {value.name for value in session.get_inputs()}
    names = [tensor.name for tensor in job.signature.inputs]
    outputs = [tensor.name for tensor in job.signature.outputs]

    def predict(values: Sequence[np.ndarray]) -> List[np.ndarray]:
        feed = {name: value for name, value in zip(names, values) if name in known}
        return session.run(outputs, feed)  # type: ignore[no-any-return]

    return compare(job, samples, f"ONNX Runtime {onnxruntime.__version__}", lambda: predict)


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
