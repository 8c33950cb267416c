"""The stage `onnx`: an ONNX model made elsewhere, checked, made older and given fixed shapes.

Where there is no PyTorch model, the given model itself is the reference, as ONNX Runtime runs it
without optimizing it. Samples and reference outputs are made here, as the stage `torch` does it.
"""

from __future__ import annotations

from typing import Any, Callable, List, Sequence, Tuple

from stages.fixes.catalogue import resolve
from stages.fixes.onnx_file.apply import make_older, make_single_precision
from stages.fixes.onnx_file.refusal import refuse_operators, walk
from stages.frameworks.given_onnx import write_given_onnx
from stages.frameworks.onnx_files import fix_input_shapes, parse, resolve_inputs, set_input_shapes
from stages.frameworks.onnx_runtime import check
from stages.kit import open_batch
from stages.kit.contract import InputError, Job, Option, Signature, Stage, Tensor, run_as_program
from stages.kit.pixels import PREPROCESSING

_EXPORT_AGAIN = (
    "Export it again for opset 11: torch.onnx.export(..., opset_version=11), with dynamo=False in "
    "torch 2.5 and later."
)


def convert(job: Job) -> Signature:
    """Write the model with fixed shapes, the samples and ONNX Runtime's outputs for them."""

    model, inputs = _load(job)
    return write_given_onnx(job, model, inputs)


def _load(job: Job) -> Tuple[Any, List[Tensor]]:
    """Load the given model, as far as it must be changed for the pins, and its inputs."""
    chosen = resolve(job.options, "onnx")
    job.report["fixes"] = []
    model = parse(job.input.name, job.input.read_bytes())
    refuse_foreign_operators(job.input.name, model)
    refuse_operators(model.graph)
    job.report["fixes"] += make_single_precision(model, chosen, job.note)
    inputs = resolve_inputs(job, model)
    if open_batch.find_open_axis(inputs) is not None and "open-onnx" in chosen:
        return _rewrite_open(job, model, inputs, chosen), inputs
    set_input_shapes(model.graph, inputs)
    job.report["fixes"] += make_older(job.input.name, model, chosen, job.note)
    accept(job.input.name, model, job.note)
    return model, inputs


def _rewrite_open(job: Job, model: Any, inputs: List[Tensor], chosen: Sequence[str]) -> Any:
    """Make a model older at two batch sizes, and return the one with an open batch."""
    from stages.frameworks.open_batch.onnx_model import open_model

    made = []
    for size in open_batch.TRIALS:
        fixed = fix_input_shapes(model, inputs, size)
        note: Callable[[str], None] = (lambda text: None) if made else job.note
        used = make_older(job.input.name, fixed, chosen, note)
        accept(job.input.name, fixed, note)
        made.append(fixed)
    opened, changed = open_model(made[0], made[1], inputs, (), lambda tensor: "")
    job.report["fixes"] += [*used, *(["open-onnx"] if changed else [])]
    return opened


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


STAGE = Stage(
    name="onnx",
    summary=__doc__ or "",
    consumes="given.onnx",
    produces="model.onnx",
    packages=("onnx", "onnxruntime", "numpy"),
    convert=convert,
    check=check,
    imports=("onnx", "onnxruntime"),
    options=(
        Option("fixes", str, "all", "repairs to apply: all, none, NAME,... or -NAME,..."),
        Option("inputs", str, "", "inputs as NAME=1x3x224x224:float32, comma-separated"),
        PREPROCESSING,
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
