"""ONNX models, opened in ONNX Runtime 1.4 with its optimizations off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from stages.compare.opened import MakePredict, Opened, OpenEnd
from stages.convert import given_onnx
from stages.fixes.catalogue import select
from stages.fixes.onnx_file.apply import Note, make_older, make_single_precision
from stages.fixes.onnx_file.older_opset import TARGET, get_opset
from stages.fixes.onnx_file.refusal import SizesNeeded, walk
from stages.frameworks import onnx_files
from stages.kit.contract import InputError, Job, Tensor
from stages.kit.samples import Predict, bound_integers


def open_file(job: Job, file: Path) -> Opened:
    """Load an ONNX model as a conversion does, made older and in float32 where it has to be.

    One that is made older and has open sizes waits for them: `prepare` sets them before.
    Custom operators, and those that are never converted, are fine as long as ONNX Runtime has
    them. Raises `InputError` if the file is not an ONNX model, keeps weights in other files, has a
    newer operator without a rule, or is refused by ONNX Runtime.
    """
    import onnxruntime

    model = onnx_files.parse(file.name, file.read_bytes())
    operators = Counter(
        f"{n.domain}::{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type
        for n in walk(model.graph)
    )
    fixes = [fix.name for fix in select("all", "onnx")]
    make_single_precision(model, fixes, job.note)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    names = [value.name for value in inputs]
    # What a newer operator becomes may depend on sizes, which are open until `prepare`.
    waits = get_opset(model) > TARGET and any(onnx_files.has_open_size(v) for v in inputs)
    predict: Any = None
    if waits:
        facts = {"rewritten": _try_rewriting(file.name, model, inputs)}
    else:
        make_older(file.name, model, fixes, job.note)
        facts = {"checked by onnx 1.7.0": _check(file.name, model, job.note)}
        # Built at once: only this tells whether ONNX Runtime accepts the model.
        predict = onnx_files.make_predict(onnxruntime, model, names)
        # A model that was rewritten has another graph, and its old one is empty.
        graph = model.graph
        inputs = [value for value in graph.input if value.name in names]

    def prepare(tensors: Sequence[Tensor]) -> MakePredict:
        if not waits:
            return lambda: predict
        older = _make_older_copy(file.name, model, tensors, job.note)
        _check(file.name, older, job.note)
        made: Predict = onnx_files.make_predict(onnxruntime, older, names)
        return lambda: made

    def describe(value: Any) -> OpenEnd:
        sizes = onnx_files.get_sizes(value)
        tensor = Tensor(value.name, (), onnx_files.get_dtype(value))
        # Without a word: these may never be generated.
        tensor = bound_integers(None, tensor, onnx_files.find_rows(graph, value.name))
        return OpenEnd(value.name, sizes, tensor.dtype, tensor.low, tensor.high)

    return Opened(
        framework=f"ONNX Runtime {onnxruntime.__version__}",
        inputs=[describe(value) for value in inputs],
        prepare=prepare,
        outputs=[describe(value) for value in graph.output],
        operators=dict(operators.most_common()),
        parameters=sum(int(np.prod(tensor.dims)) for tensor in graph.initializer),
        facts=facts,
    )


def _make_older_copy(name: str, given: Any, tensors: Sequence[Tensor], note: Note) -> Any:
    model = type(given).FromString(given.SerializeToString())
    onnx_files.set_input_shapes(model.graph, tensors)
    make_older(name, model, [fix.name for fix in select("all", "onnx")], note)
    return model


def _try_rewriting(name: str, model: Any, inputs: Sequence[Any]) -> str:
    """Rewrite a model with open sizes, and say what came of it.

    Raises `InputError` if no sizes can help: if it is refused as it is, and not for want of them.
    """
    import onnxruntime

    try:
        _make_older_copy(name, model, (), _drop)
    except SizesNeeded:
        pass
    ones = []
    for value in inputs:
        sizes = onnx_files.get_sizes(value)
        if sizes is None:
            return "once the sizes of its inputs are given"
        shape = tuple(1 if isinstance(size, str) else size for size in sizes)
        ones.append(Tensor(value.name, shape, onnx_files.get_dtype(value)))
    try:
        older = _make_older_copy(name, model, ones, _drop)
        checked = _check(name, older, _drop)
        onnx_files.make_predict(onnxruntime, older, [value.name for value in inputs])
    except InputError as error:
        return f"once the sizes of its inputs are given; not with open ones as 1: {error}"
    return f"for the given sizes; {checked} with open ones as 1"


def _check(name: str, model: Any, note: Note) -> str:
    try:
        given_onnx.accept(name, model, note)
    except InputError as error:
        return f"not valid: {str(error).splitlines()[0]}"
    return "valid"


def _drop(text: str) -> None:
    pass
