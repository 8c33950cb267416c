"""The stage `litert-torch`: a PyTorch model to TensorFlow Lite in one step, by litert-torch."""

from __future__ import annotations

from stages.frameworks.tflite_runtime import check, locate_tensors
from stages.frameworks.torch_reference import OPTIONS, open_model, write_reference
from stages.kit.contract import (
    InputError,
    Job,
    Signature,
    Stage,
    StageError,
    report_progress,
    run_as_program,
)


def convert(job: Job) -> Signature:
    """Write the .tflite file, the samples, and the reference outputs for them."""
    import litert_torch
    import torch

    opened = open_model(job)
    model = opened.model
    if isinstance(model, torch.jit.ScriptModule):
        # torch.export, which litert-torch builds on, takes no script as such.
        from torch._export.converter import TS2EPConverter

        try:
            model = TS2EPConverter(model, opened.example).convert().module()
        except Exception as error:  # an operator or a form of control flow that it does not know
            raise InputError(
                f"PyTorch {torch.__version__} cannot turn this TorchScript archive into a program "
                f"of torch.export: {error}",
                "Convert the model itself: its state_dict with --arch FILE.py:CALLABLE, or a .pt2 "
                "of torch.export.",
            ) from error
    with job.phase("export"):
        report_progress("export")
        try:
            litert_torch.convert(model, opened.example).export(str(job.output))
        except Exception as error:  # torch.export, jax and the converter each raise their own
            message = str(error).strip().split("\n")
            raise StageError(
                f"litert-torch cannot convert the model: {type(error).__name__}: "
                f"{' '.join(message[:6])[:600]}"
            ) from error
    # Last, since it computes in float64 with the very same parameters.
    return locate_tensors(job, job.output, write_reference(job, opened))


STAGE = Stage(
    name="litert-torch",
    summary=__doc__ or "",
    consumes="model.pt",
    produces="model.tflite",
    packages=("torch", "torchvision", "litert-torch", "ai-edge-litert", "numpy"),
    convert=convert,
    check=check,
    options=OPTIONS,
)

if __name__ == "__main__":
    run_as_program(STAGE)
