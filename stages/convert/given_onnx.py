"""The stage `onnx`: an ONNX model made elsewhere, checked, made older and given fixed shapes.

Where there is no PyTorch model, the given model itself is the reference, as ONNX Runtime runs it
without optimizing it. Samples and reference outputs are made here, as the stage `torch` does it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from stages.convert.torch_to_onnx import check, parse_inputs
from stages.fixes.catalogue import resolve
from stages.fixes.onnx_file.apply import make_older, make_single_precision
from stages.fixes.onnx_file.refusal import refuse_operators, walk
from stages.kit.contract import InputError, Job, Option, Signature, Stage, Tensor, run_as_program
from stages.kit.given_model import Size, look_at_run, match_requested_inputs, resolve_shape

_EXPORT_AGAIN = (
    "Export it again for opset 11: torch.onnx.export(..., opset_version=11), with dynamo=False in "
    "torch 2.5 and later."
)
# The types that TensorFlow Lite 2.4 casts to float32.
_COMPUTED = ("float32", "int32", "int64", "bool", "uint8")
_NO_NOISE_FLOOR = (
    "There is no PyTorch model to run in float64, and ONNX Runtime 1.4 has no float64 convolutions."
)


def convert(job: Job) -> Signature:
    """Write the model with fixed shapes, the samples and ONNX Runtime's outputs for them."""
    import onnxruntime

    from stages.kit import samples

    model, inputs = _load(job)
    with job.phase("samples"):
        draft = samples.make_inputs(job, inputs)
    names = [value.name for value in model.graph.output]
    with job.phase("reference"):
        predict = make_predict(onnxruntime, model, [tensor.name for tensor in inputs])
        random = look_at_run(predict, draft, job, "model", names)
        reference = samples.write_reference(draft, names, lambda: predict)
    job.report["noise_floor"] = {"samples": 0, "outputs": None, "reason": _NO_NOISE_FLOOR}
    reference = replace(reference, noise_floor=job.report["noise_floor"], random=random)
    samples.save(job, reference)
    job.note(
        f"The reference is the given model run by ONNX Runtime {onnxruntime.__version__} without "
        "its optimizations, not PyTorch."
    )
    set_shapes(model.graph, [*inputs, *reference.outputs])
    job.output.write_bytes(model.SerializeToString(deterministic=True))
    job.report["parameters"] = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    return Signature(
        tuple(replace(t, node=t.name) for t in inputs),
        tuple(replace(t, node=t.name) for t in reference.outputs),
    )


def _load(job: Job) -> Tuple[Any, List[Tensor]]:
    """Load the given model, as far as it must be changed for the pins, and its inputs."""
    chosen = resolve(job.options, "onnx")
    job.report["fixes"] = []
    model = parse(job.input.name, job.input.read_bytes())
    refuse_foreign_operators(job.input.name, model)
    refuse_operators(model.graph)
    job.report["fixes"] += make_single_precision(model, chosen, job.note)
    inputs = _resolve_inputs(job, model)
    set_input_shapes(model.graph, inputs)
    job.report["fixes"] += make_older(job.input.name, model, chosen, job.note)
    accept(job.input.name, model, job.note)
    return model, inputs


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


def accept(name: str, model: Any, note: Callable[[str], None]) -> None:
    """Lower the model's IR version, and check it. Raises `InputError` if it is not valid."""
    import onnx

    if model.ir_version > onnx.IR_VERSION:
        note(
            f"The file is of ONNX IR version {model.ir_version}, newer than onnx 1.7.0's "
            f"{onnx.IR_VERSION}; it is read as version {onnx.IR_VERSION}."
        )
        model.ir_version = onnx.IR_VERSION
    # The checker wants a shape of each output; those that have none get it from a run.
    bare = [v for v in model.graph.output if not v.type.tensor_type.HasField("shape")]
    try:
        for value in bare:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(model)
        for value in bare:
            value.type.tensor_type.ClearField("shape")
    except Exception as error:  # the checker raises its own types
        raise InputError(
            f"'{name}' is not a valid ONNX model for onnx 1.7.0: {error}", _EXPORT_AGAIN
        ) from None


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


def refuse_foreign_operators(name: str, model: Any) -> None:
    foreign = [node for node in walk(model.graph) if node.domain not in ("", "ai.onnx")]
    if foreign:
        found = foreign[0]
        raise InputError(
            f"'{name}' has operators from outside ONNX, such as '{found.op_type}' of the domain "
            f"'{found.domain}', which onnx-tf 1.6 cannot convert.",
            "Export the model without custom operators or local functions, and before any "
            "optimizer of ONNX Runtime has rewritten it.",
        )


def _resolve_inputs(job: Job, model: Any) -> List[Tensor]:
    """Return the inputs in the model's order, with the requested sizes where they are open."""
    from stages.kit.samples import bound_integers

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
        )
        if tensor.dtype not in _COMPUTED:
            raise InputError(
                f"The model's input '{value.name}' is of {tensor.dtype}, which TensorFlow Lite 2.4 "
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
    dtype = onnx.mapping.TENSOR_TYPE_TO_NP_TYPE.get(elem)
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
    from stages.kit.onnx_runtime import make_plain_settings, open_session

    copy = type(model).FromString(model.SerializeToString())
    try:
        session = open_session(copy, make_plain_settings())
    except Exception as error:  # ONNX Runtime has an exception type for each of its statuses
        raise InputError(
            f"ONNX Runtime {runtime.__version__} cannot load the model: {error}", _EXPORT_AGAIN
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
    """Write the shapes of inputs; other shapes, where one was open, may be of other sizes."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    if any(v.name in shapes and has_open_size(v) for v in graph.input):
        for value in [*graph.output, *graph.value_info]:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    for value in [*graph.input, *graph.output]:
        if value.name in shapes:
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            shape.SetInParent()  # so that a scalar's empty shape is written, too
            for size in shapes[value.name]:
                shape.dim.add().dim_value = size


STAGE = Stage(
    name="onnx",
    summary=__doc__ or "",
    consumes="given.onnx",
    produces="model.onnx",
    packages=("onnx", "onnxruntime", "numpy"),
    convert=convert,
    check=check,
    options=(
        Option("fixes", str, "all", "repairs to apply: all, none, NAME,... or -NAME,..."),
        Option("inputs", str, "", "inputs as NAME=1x3x224x224:float32, comma-separated"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
