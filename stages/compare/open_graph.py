"""Frozen graphs, opened in TensorFlow 2.4; Grappler changes the layout of those in NCHW."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from stages.compare.opened import MakePredict, Opened, OpenEnd
from stages.convert import given_graph
from stages.frameworks.tensorflow import (
    import_tensorflow,
    list_placeholders,
    list_sinks,
    load_graph,
    strip_output_index,
)
from stages.kit.contract import InputError, Job, Signature, Tensor


def open_file(job: Job, file: Path) -> Opened:
    """Load a frozen graph with its placeholders as inputs and its unread tensors as outputs.

    Raises `InputError` if the graph has variables, or no output that depends on an input.
    """
    tf = import_tensorflow()
    graph = load_graph(file)
    kinds = Counter(op.type for op in graph.get_operations())
    variables = sorted(set(kinds) & set(given_graph._VARIABLES))
    if variables:
        raise InputError(
            f"'{file.name}' is not frozen: it has variables ({', '.join(variables)}).",
            given_graph._FREEZE,
        )
    ends = [tensor for tensor in list_sinks(graph) if given_graph.depends_on_input(tensor)]
    needed = _find_needed(ends)
    starts = [tensor for tensor in list_placeholders(graph) if tensor.op.name in needed]
    if not starts or not ends:
        raise InputError(f"'{file.name}' shows no input, or no output that depends on one.")
    outputs = [tensor.name for tensor in ends]
    graph_def = graph.as_graph_def()
    if given_graph.find_nchw_types(graph_def):
        job.note(
            f"'{file.name}' is NCHW, which no CPU runs: TensorFlow's Grappler changes its layout."
        )
    nodes = [tensor.name for tensor in starts]

    def prepare(inputs: Sequence[Tensor]) -> MakePredict:
        # Not closed here: the predictor that is returned goes on using it.
        session = given_graph.open_session(tf, graph_def)
        fed = [Tensor(t.name, t.shape, t.dtype, node) for t, node in zip(inputs, nodes)]
        predict = given_graph.make_predict(session, fed, outputs)
        return lambda: predict

    def measure_noise_floor(reference: Any, samples: int) -> Any:
        if given_graph.find_nchw_types(graph_def):
            floor = {"samples": 0, "outputs": None, "reason": "no CPU runs NCHW in float64"}
            return replace(reference, noise_floor=floor)
        fed = [replace(t, node=node) for t, node in zip(reference.inputs, nodes)]
        read = [replace(t, node=node) for t, node in zip(reference.outputs, outputs)]
        signature = Signature(tuple(fed), tuple(read))
        return given_graph.measure_noise_floor(tf, graph_def, signature, reference, samples)

    return Opened(
        framework=f"TensorFlow {tf.__version__}",
        inputs=[_describe_end(tensor) for tensor in starts],
        prepare=prepare,
        outputs=[_describe_end(tensor) for tensor in ends],
        measure_noise_floor=measure_noise_floor,
        operators=dict(kinds.most_common()),
    )


def _find_needed(ends: Sequence[Any]) -> set:
    """Return the names of all operations that these tensors are computed from."""
    seen, pending = set(), [tensor.op for tensor in ends]
    while pending:
        operation = pending.pop()
        if operation.name not in seen:
            seen.add(operation.name)
            pending += [tensor.op for tensor in operation.inputs]
    return seen


def _describe_end(tensor: Any) -> OpenEnd:
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
    return OpenEnd(strip_output_index(tensor.name), sizes, dtype, 0, 10)
