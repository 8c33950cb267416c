"""ONNX models: reading one, the sizes and types of its inputs, the names of its outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np

from stages.kit import open_batch
from stages.kit.contract import InputError, Job, Tensor
from stages.kit.given_model import (
    Size,
    match_requested_inputs,
    parse_inputs,
    resolve_dims,
    resolve_shape,
)
from stages.kit.samples import bound_integers

# The types that TensorFlow Lite's converters cast to float32.
COMPUTED = ("float32", "int32", "int64", "bool", "uint8")


def name_outputs(path: Path, names: Sequence[str]) -> None:
    """Give outputs that are the same tensor (`return y, y`) a name each; the exporter keeps one."""
    import onnx

    model = onnx.load(str(path))
    outputs = model.graph.output
    if len(outputs) != len(names) or [value.name for value in outputs] == list(names):
        return
    for value, name in zip(outputs, names):
        if value.name != name:
            model.graph.node.append(onnx.helper.make_node("Identity", [value.name], [name]))
            value.name = name
    onnx.save(model, str(path))


def parse(name: str, content: bytes) -> Any:
    """Read an ONNX model of any operator set.

    Raises `InputError` if it is none, or keeps weights in other files.
    """
    import onnx

    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise InputError(
            f"'{name}' is not an ONNX model: {error}", "Copy or export it again."
        ) from None
    if not model.graph.node:
        raise InputError(f"'{name}' is not an ONNX model with a graph.", "Export it again.")
    _refuse_external_data(name, model)
    return model


def _refuse_external_data(name: str, model: Any) -> None:
    import onnx

    outside = [
        t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL
    ]
    if outside:
        raise InputError(
            f"'{name}' keeps its weights in other files ({len(outside)} tensors, such as "
            f"'{outside[0]}').",
            "Put them into one file, where the other files lie: "
            "python -c \"import onnx; onnx.save(onnx.load('FILE.onnx'), 'ONE.onnx')\"; or export "
            "it with external_data=False.",
        )


def resolve_inputs(job: Job, model: Any) -> List[Tensor]:
    """Return the inputs in the model's order, with the requested sizes where they are open."""
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in constants]
    if not values:
        raise InputError("The model has no inputs.", "There is nothing to convert: it is constant.")
    if not job.request.get("inputs"):
        job.request["inputs"] = parse_inputs(job.options["inputs"])
    by_name = match_requested_inputs(job, "model", [value.name for value in values])
    tensors = []
    for value in values:
        spec = by_name.get(value.name, {})
        tensor = Tensor(
            value.name,
            resolve_shape(job, "model", value.name, get_sizes(value), spec),
            get_dtype(value),
            low=spec.get("low"),
            high=spec.get("high"),
            dims=resolve_dims("model", value.name, get_sizes(value), spec),
        )
        if tensor.dtype not in COMPUTED:
            raise InputError(
                f"The model's input '{value.name}' is of {tensor.dtype}, which TensorFlow Lite "
                "cannot compute with.",
                "Export the model for float32; of a quantized one, convert the original.",
            )
        tensors.append(bound_integers(job, tensor, find_rows(model.graph, value.name)))
    return tensors


def get_sizes(value: Any) -> Optional[List[Size]]:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in kind.shape.dim]


def has_open_size(value: Any) -> bool:
    sizes = get_sizes(value)
    return sizes is None or any(isinstance(size, str) for size in sizes)


def get_dtype(value: Any) -> str:
    import onnx

    elem = value.type.tensor_type.elem_type
    if hasattr(onnx, "mapping"):
        dtype = onnx.mapping.TENSOR_TYPE_TO_NP_TYPE.get(elem)
    else:  # onnx 1.20 and later
        dtype = onnx.helper.tensor_dtype_to_np_dtype(elem) if elem else None
    if not value.type.HasField("tensor_type") or dtype is None or dtype.kind not in "fiub":
        raise InputError(
            f"The model's input '{value.name}' is not a tensor of numbers.",
            "Strings, sequences and maps have no counterpart in TensorFlow Lite.",
        )
    return str(dtype.name)


def find_rows(graph: Any, name: str) -> Optional[int]:
    """Return how many rows the smallest table that an input indexes has; None if there is none."""
    tables = {t.name: t.dims[0] for t in graph.initializer if t.dims}
    same = {name}  # the input, and tensors that only casts and reshapes separate from it
    rows = []
    for node in graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
            same.update(node.output if node.input[0] in same else ())
        elif node.op_type == "Gather" and node.input[1] in same and node.input[0] in tables:
            rows.append(tables[node.input[0]])
    return min(rows, default=None)


def make_predict(runtime: Any, model: Any, names: Sequence[str]) -> Any:
    """Return a function that runs the model unoptimized, in the caller's thread."""
    from stages.frameworks.onnx_runtime import make_plain_settings, open_session

    copy = type(model).FromString(model.SerializeToString())
    try:
        session = open_session(copy, make_plain_settings())
    except Exception as error:  # ONNX Runtime has an exception type for each of its statuses
        raise InputError(
            f"ONNX Runtime {runtime.__version__} cannot load the model: {error}",
            "Export it again for an operator set that this release reads.",
        ) from None
    outputs = [value.name for value in model.graph.output]

    def predict(values: Sequence[np.ndarray]) -> List[np.ndarray]:
        return session.run(outputs, dict(zip(names, values)))  # type: ignore[no-any-return]

    return predict


def set_shapes(graph: Any, tensors: Sequence[Tensor]) -> None:
    """Write the shapes of inputs and outputs; drop inner ones, which were inferred from others."""
    set_input_shapes(graph, tensors)
    del graph.value_info[:]


def set_input_shapes(graph: Any, tensors: Sequence[Tensor]) -> None:
    """Write the shapes of inputs, open sizes by name; drop others, where one was open.

    Those may be of other sizes.
    """
    known = {tensor.name: tensor for tensor in tensors}
    if any(v.name in known and has_open_size(v) for v in graph.input):
        for value in [*graph.output, *graph.value_info]:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    for value in [*graph.input, *graph.output]:
        if value.name in known:
            tensor = known[value.name]
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            shape.SetInParent()  # so that a scalar's empty shape is written, too
            for size, name in zip(tensor.shape, tensor.dims or ("",) * len(tensor.shape)):
                if name:
                    shape.dim.add().dim_param = name
                else:
                    shape.dim.add().dim_value = size


def fix_input_shapes(model: Any, tensors: Sequence[Tensor], size: int) -> Any:
    """Return a copy of a model with this size for the open one of its inputs."""
    copy = type(model).FromString(model.SerializeToString())
    set_input_shapes(copy.graph, [replace(open_batch.resize(t, size), dims=()) for t in tensors])
    return copy
