"""The stage `onnx`: an ONNX model made elsewhere, checked and given fixed shapes."""

from __future__ import annotations

from stages.frameworks.given_onnx import write_given_onnx
from stages.frameworks.onnx_files import parse, resolve_inputs, set_input_shapes
from stages.frameworks.onnx_runtime import check
from stages.kit.contract import InputError, Job, Option, Signature, Stage, run_as_program
from stages.kit.pixels import PREPROCESSING


def convert(job: Job) -> Signature:
    """Write the model with fixed shapes, the samples and ONNX Runtime's outputs for them."""
    import onnx

    model = parse(job.input.name, job.input.read_bytes())
    inputs = resolve_inputs(job, model)
    set_input_shapes(model.graph, inputs)
    if model.ir_version > onnx.IR_VERSION:
        job.note(
            f"The file is of ONNX IR version {model.ir_version}; it is read as version "
            f"{onnx.IR_VERSION}, that of onnx {onnx.__version__}."
        )
        model.ir_version = onnx.IR_VERSION
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises its own types
        raise InputError(
            f"'{job.input.name}' is not a valid ONNX model for onnx {onnx.__version__}: {error}",
            "Export it again for an older operator set.",
        ) from None
    return write_given_onnx(job, model, inputs)


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
        Option("inputs", str, "", "inputs as NAME=1x3x224x224:float32, comma-separated"),
        PREPROCESSING,
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
