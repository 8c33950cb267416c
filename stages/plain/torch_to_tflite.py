"""The stage `litert-torch`: a PyTorch model to TensorFlow Lite in one step, by litert-torch."""

from __future__ import annotations

from typing import Any, Dict

from stages.frameworks import load_torch
from stages.frameworks.load_torch import get_program
from stages.frameworks.tflite_runtime import check, locate_tensors
from stages.frameworks.torch_reference import (
    OPTIONS,
    OpenedModel,
    open_model,
    write_reference,
)
from stages.kit.contract import (
    InputError,
    Job,
    Signature,
    Stage,
    StageError,
    report_progress,
    run_as_program,
)

_OPEN_REMEDY = (
    "litert-torch 0.10 leaves no batch open in a model that reshapes or flattens by it: take "
    "mean((2, 3)) in the place of a pool and Flatten, the default toolchain, or a number as the "
    "batch size."
)


def convert(job: Job) -> Signature:
    """Write the .tflite file, the samples, and the reference outputs for them."""
    import litert_torch
    import torch

    opened = open_model(job)
    model, example = opened.model, opened.example
    settings: Dict[str, Any] = {}
    if opened.trials:
        if isinstance(model, torch.jit.ScriptModule) or get_program(model) is not None:
            raise InputError(
                "A TorchScript archive, or a program of torch.export, has fixed sizes for "
                "litert-torch.",
                "Save the module itself (torch.save, or its state_dict with --arch), take the "
                "default toolchain, or give a number as the batch size.",
            )
        # torch.export takes a size of 1 for a constant.
        example = opened.trials[0]
        settings["dynamic_shapes"] = _name_axes(torch, model, opened)
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
            litert_torch.convert(model, example, **settings).export(str(job.output))
        except Exception as error:  # torch.export, jax and the converter each raise their own
            message = str(error).strip().split("\n")
            raise StageError(
                f"litert-torch cannot convert the model: {type(error).__name__}: "
                f"{' '.join(message[:6])[:600]}",
                _OPEN_REMEDY if opened.trials else "",
            ) from error
    # Last, since it computes in float64 with the very same parameters.
    return locate_tensors(job, job.output, write_reference(job, opened))


def _name_axes(torch: Any, model: Any, opened: OpenedModel) -> Dict[str, Any]:
    """Return the open axes as torch.export takes them, by the names of forward()'s arguments."""
    open_sizes = {n: torch.export.Dim(n) for t in opened.inputs for n in t.dims if n}
    axes = [
        {axis: open_sizes[name] for axis, name in enumerate(tensor.dims) if name}
        for tensor in opened.inputs
    ]
    return dict(zip(load_torch.list_forward_names(model), axes))


STAGE = Stage(
    name="litert-torch",
    summary=__doc__ or "",
    consumes="model.pt",
    produces="model.tflite",
    packages=("torch", "torchvision", "litert-torch", "ai-edge-litert", "numpy"),
    convert=convert,
    check=check,
    imports=("litert_torch", "torch"),
    options=OPTIONS,
)

if __name__ == "__main__":
    run_as_program(STAGE)
