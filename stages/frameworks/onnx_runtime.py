"""ONNX Runtime's sessions, without the one rewrite of 1.4 that changes results, and the check."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from stages.kit.contract import Job
from stages.kit.samples import compare, open_samples

# ONNX Runtime's errors: it warns about each unused initializer.
_SEVERITY = 3


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the job's ONNX model in ONNX Runtime on every sample and compare its outputs."""
    import onnxruntime

    samples = open_samples(job.volume)
    assert samples is not None and job.signature is not None
    session, operators = open_file(job.artifact)
    job.report["operators"] = operators
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


def open_file(path: Path) -> Tuple[Any, Dict[str, int]]:
    """Open a session for an ONNX file; return it, and the number of operators of each type.

    ONNX Runtime reads the file itself if it can: a large model is not held twice more meanwhile.
    """
    import onnx

    model = onnx.load(str(path))
    operators = dict(Counter(node.op_type for node in model.graph.node))
    parted = _part_casts(model.graph, set())
    source = model.SerializeToString() if parted else str(path)
    del model
    return _open(source, parted), operators


def open_session(model: Any, settings: Optional[Any] = None) -> Any:
    """Open a session for an ONNX model, a ModelProto."""
    parted = _part_casts(model.graph, set())
    return _open(model.SerializeToString(), parted, settings)


def _open(source: Any, parted: bool, settings: Optional[Any] = None) -> Any:
    """Open a session for a model's bytes, or its file; `parted` if casts were parted in it.

    ONNX Runtime 1.4 makes one cast of two in a row, `x.long().float()`, at any level of
    optimization, so that nothing is cut off any more. An Identity between them prevents it, where
    optimizations do not drop it again.
    """
    import onnxruntime

    settings = settings or onnxruntime.SessionOptions()
    settings.log_severity_level = max(_SEVERITY, settings.log_severity_level)
    if parted:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(source, settings)


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
