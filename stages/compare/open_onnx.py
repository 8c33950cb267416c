"""ONNX models, opened in ONNX Runtime 1.4 with its optimizations off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from stages.compare.opened import MakePredict, Opened, OpenEnd
from stages.convert import given_onnx
from stages.fixes.catalogue import select
from stages.fixes.onnx_file.apply import make_older, make_single_precision
from stages.fixes.onnx_file.refusal import walk
from stages.kit.contract import InputError, Job, Tensor
from stages.kit.samples import Predict


def open_file(job: Job, file: Path) -> Opened:
    """Load an ONNX model as a conversion does, made older and in float32 where it has to be.

    Custom operators, and those that are never converted, are fine as long as ONNX Runtime has
    them. Raises `InputError` if the file is not an ONNX model, keeps weights in other files, has a
    newer operator without a rule, or is refused by ONNX Runtime.
    """
    import onnxruntime

    model = given_onnx.parse(file.name, file.read_bytes())
    operators = Counter(
        f"{n.domain}::{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type
        for n in walk(model.graph)
    )
    fixes = [fix.name for fix in select("all", "onnx")]
    make_single_precision(model, fixes, job.note)
    make_older(file.name, model, fixes, job.note)
    checked = _check(file.name, model, job)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    names = [value.name for value in inputs]
    # Built at once: only this tells whether ONNX Runtime accepts the model.
    predict: Predict = given_onnx.make_predict(onnxruntime, model, names)

    def prepare(_: Sequence[Tensor]) -> MakePredict:
        return lambda: predict

    def describe(value: Any) -> OpenEnd:
        sizes = given_onnx.get_sizes(value)
        tensor = Tensor(value.name, (), given_onnx.get_dtype(value))
        tensor = given_onnx.add_range(_Silent(job), graph, tensor)
        return OpenEnd(value.name, sizes, tensor.dtype, tensor.low, tensor.high)

    return Opened(
        framework=f"ONNX Runtime {onnxruntime.__version__}",
        inputs=[describe(value) for value in inputs],
        prepare=prepare,
        outputs=[describe(value) for value in graph.output],
        operators=dict(operators.most_common()),
        parameters=sum(int(np.prod(tensor.dims)) for tensor in graph.initializer),
        facts={"checked by onnx 1.7.0": checked},
    )


def _check(name: str, model: Any, job: Job) -> str:
    try:
        given_onnx.accept(name, model, job.note)
    except InputError as error:
        return f"not valid: {str(error).splitlines()[0]}"
    return "valid"


class _Silent:
    """A job that drops its notes, here on the ranges of inputs that may never be generated."""

    def __init__(self, job: Job) -> None:
        self.request = job.request

    def note(self, text: str) -> None:
        pass
