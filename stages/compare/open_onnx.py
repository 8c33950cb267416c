"""ONNX models, opened in ONNX Runtime 1.4 with its optimizations off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from stages.compare.opened import MakePredict, Opened, OpenEnd
from stages.convert import given_onnx
from stages.kit.contract import InputError, Job, Tensor
from stages.kit.samples import Predict


def open_file(job: Job, file: Path) -> Opened:
    """Load an ONNX model; custom operators are fine as long as ONNX Runtime has them.

    Raises `InputError` if the file is not an ONNX model, keeps weights in other files, is of too
    new an opset, or is refused by ONNX Runtime.
    """
    import onnx
    import onnxruntime

    try:
        model = onnx.ModelProto.FromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise InputError(
            f"'{file.name}' is not an ONNX model: {error}", "Copy or export it again."
        ) from None
    given_onnx._refuse_external_data(file.name, model)
    _refuse_newer_opset(onnx, onnxruntime, file.name, model)
    if model.ir_version > onnx.IR_VERSION:
        job.note(
            f"The file is of ONNX IR version {model.ir_version}; it is read as {onnx.IR_VERSION}."
        )
        model.ir_version = onnx.IR_VERSION
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

    operators = Counter(
        f"{n.domain}::{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type
        for n in graph.node
    )
    return Opened(
        framework=f"ONNX Runtime {onnxruntime.__version__}",
        inputs=[describe(value) for value in inputs],
        prepare=prepare,
        outputs=[describe(value) for value in graph.output],
        operators=dict(operators.most_common()),
        parameters=sum(int(np.prod(tensor.dims)) for tensor in graph.initializer),
        facts={"checked by onnx 1.7.0": _check_model(onnx, model)},
    )


def _refuse_newer_opset(onnx: Any, runtime: Any, name: str, model: Any) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise InputError(
                f"'{name}' is of ONNX operator set {opset.version}; ONNX Runtime "
                f"{runtime.__version__} reads up to {newest}.",
                "Export it again for an older operator set, or lower it with a newer onnx: "
                f"onnx.version_converter.convert_version(model, {newest}).",
            )


def _check_model(onnx: Any, model: Any) -> str:
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises its own types
        return f"not valid: {str(error).splitlines()[0]}"
    return "valid"


class _Silent:
    """A job that drops its notes, here on the ranges of inputs that may never be generated."""

    def __init__(self, job: Job) -> None:
        self.request = job.request

    def note(self, text: str) -> None:
        pass
