"""The stage `torch`: a PyTorch model to ONNX by PyTorch's own exporter, and the reference outputs.

Works with torch 1.3 and later. What torch.export wrote goes through the exporter of PyTorch 2.5 and
later, everything else through the one by TorchScript, which every release has.
"""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from dataclasses import replace
from typing import Any, Dict

from stages.frameworks.load_torch import get_program
from stages.frameworks.onnx_files import name_outputs
from stages.frameworks.onnx_pixels import embed_file
from stages.frameworks.onnx_runtime import check
from stages.frameworks.torch_reference import OPTIONS, OpenedModel, open_model, write_reference
from stages.kit.contract import (
    InputError,
    Job,
    Option,
    Signature,
    Stage,
    report_progress,
    run_as_program,
)
from stages.plain.older_archives import accept_older_convolutions


def convert(job: Job) -> Signature:
    """Write the ONNX model, the samples, and the reference outputs for them."""
    # torch and onnx 1.6 each bring a protobuf of their own: onnx's checker crashes if it is second.
    import onnx  # noqa: F401

    opened = open_model(job)
    with job.phase("export"):
        report_progress("export")
        if opened.trials:
            _verify_open(job, opened)
        _export(job, opened)
        name_outputs(job.output, opened.names)
        embed_file(job.output, opened.inputs, opened.preprocessing)
    return write_reference(job, opened)


def _verify_open(job: Job, opened: OpenedModel) -> None:
    """Raise `StageError`, naming the operator, if an export bakes the batch size that it sees."""
    import onnx

    from stages.frameworks.open_batch.onnx_model import open_model

    if get_program(opened.model) is not None:
        raise InputError(
            "A program of torch.export has the sizes that it was exported for.",
            "Save the module itself (torch.save, or its state_dict with --arch), or give a number "
            "as the batch size.",
        )
    models = []
    for example in opened.trials:
        _export(job, replace(opened, example=example))
        models.append(onnx.load(str(job.output)))
    tensors = opened.inputs, opened.outputs
    open_model(models[0], models[1], *tensors, lambda tensor: "", may_repair=False)


def _export(job: Job, opened: OpenedModel) -> None:
    import torch

    settings: Dict[str, Any] = {
        "input_names": [tensor.name for tensor in opened.inputs],
        "output_names": list(opened.names),
        "opset_version": job.options["opset"],
    }
    axes = {
        tensor.name: {axis: name for axis, name in enumerate(tensor.dims) if name}
        for tensor in (*opened.inputs, *opened.outputs)
        if tensor.dims
    }
    if axes:
        settings["dynamic_axes"] = axes
    known = inspect.signature(torch.onnx.export).parameters
    program = get_program(opened.model)
    model = program or opened.model
    if program is not None:
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        settings.update(dynamo=True, external_data=False, verbose=False)
    elif isinstance(model, torch.jit.ScriptModule):
        if "example_outputs" in known and known["example_outputs"].default is None:
            settings["example_outputs"] = model(*opened.example)
    else:
        # A copy, since the exporter mutates some modules (training flags, flattened weights).
        model = copy.deepcopy(model)
    if program is None and "dynamo" in known:
        settings["dynamo"] = False
    accept = accept_older_convolutions(job.options["opset"])
    with accept, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(model, opened.example, str(job.output), **settings)
    if program is not None:
        _drop_traces(job)


def _drop_traces(job: Job) -> None:
    """Drop the exporter's notes on where each operator stands in the source, with its paths."""
    import onnx

    model = onnx.load(str(job.output))
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del holder.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    job.output.write_bytes(model.SerializeToString(deterministic=True))


STAGE = Stage(
    name="torch",
    summary=__doc__ or "",
    consumes="model.pt",
    produces="model.onnx",
    packages=("torch", "torchvision", "onnx", "onnxruntime", "numpy"),
    convert=convert,
    check=check,
    imports=("onnx", "torch", "onnxruntime"),
    options=(Option("opset", int, 11, "the ONNX operator set to export"), *OPTIONS),
)

if __name__ == "__main__":
    run_as_program(STAGE)
