"""A frozen graph, opened by TensorFlow 2.4; one with NCHW, with its layout changed by Grappler."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np

from stages.compare.opened import MakePredict, Opened, OpenEnd
from stages.convert import given_graph
from stages.kit.contract import InputError, Job, Tensor
from stages.kit.tensorflow import import_tensorflow, load_graph, placeholders, sinks


def open_file(job: Job, file: Path) -> Opened:
    """Load a frozen graph; its ends are its placeholders and the tensors that nothing reads."""
    tf = import_tensorflow()
    graph = load_graph(file)
    kinds = Counter(op.type for op in graph.get_operations())
    variables = sorted(set(kinds) & set(given_graph._VARIABLES))
    if variables:
        raise InputError(
            f"'{file.name}' is not frozen: it has variables ({', '.join(variables)}).",
            given_graph._FREEZE,
        )
    ends = [tensor for tensor in sinks(graph) if given_graph._depends(tensor)]
    needed = _needed(ends)
    starts = [tensor for tensor in placeholders(graph) if tensor.op.name in needed]
    if not starts or not ends:
        raise InputError(f"'{file.name}' shows no input, or no output that depends on one.")
    outputs = [tensor.name for tensor in ends]
    graph_def = graph.as_graph_def()
    if given_graph._nchw(graph_def):
        job.note(
            f"'{file.name}' is NCHW, which no CPU runs: TensorFlow's Grappler changes its layout."
        )
    nodes = [tensor.name for tensor in starts]

    def prepare(inputs: Sequence[Tensor]) -> MakePredict:
        # The session stays open as long as what runs it.
        session = given_graph._session(tf, graph_def)
        fed = [Tensor(t.name, t.shape, t.dtype, node) for t, node in zip(inputs, nodes)]
        predict = given_graph._predictor(session, fed, outputs)
        return lambda: predict

    def noise_floor(reference: Any, samples: int) -> Dict[str, Any]:
        if given_graph._nchw(graph_def):
            return {"samples": 0, "outputs": None, "reason": "no CPU runs NCHW in float64"}
        fed = [Tensor(t.name, t.shape, t.dtype, node) for t, node in zip(reference.inputs, nodes)]
        reference = replace(reference, inputs=tuple(fed))
        return given_graph._noise_floor(tf, graph_def, outputs, reference, samples)

    return Opened(
        framework=f"TensorFlow {tf.__version__}",
        inputs=[_end(tensor) for tensor in starts],
        prepare=prepare,
        outputs=[_end(tensor) for tensor in ends],
        noise_floor=noise_floor,
        operators=dict(kinds.most_common()),
    )


def _needed(ends: Sequence[Any]) -> set:
    """The names of the operations that these tensors are computed from."""
    seen, pending = set(), [tensor.op for tensor in ends]
    while pending:
        operation = pending.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            pending += [tensor.op for tensor in operation.inputs]
    return seen


def _end(tensor: Any) -> OpenEnd:
    sizes: Any = None
    if tensor.shape.rank is not None:
        sizes = ["?" if size is None else size for size in tensor.shape.as_list()]
    dtype = tensor.dtype.name
    try:
        kind = np.dtype(dtype).kind
    except TypeError:
        kind = "O"
    if kind not in "fiub":
        raise InputError(f"The graph's '{tensor.name}' is not a tensor of numbers ({dtype}).")
    return OpenEnd(given_graph._bare(tensor.name), sizes, dtype, 0, 10)
