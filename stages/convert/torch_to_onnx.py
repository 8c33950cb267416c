"""The stage `torch`: a PyTorch 1.5.1 model to ONNX, and PyTorch's own outputs as the reference."""

from __future__ import annotations

import copy
from typing import Any, Dict, Optional, Sequence

from stages.fixes.catalogue import resolve
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
    Tensor,
    report_progress,
    run_as_program,
)

# The opsets that torch 1.5.1 has symbolic functions for.
OPSETS = range(7, 13)


def convert(job: Job) -> Signature:
    """Write the ONNX model, the samples, and the reference outputs for them.

    Every later stage is compared with these outputs.
    """
    import torch

    opset = job.options["opset"]
    if opset not in OPSETS:
        raise InputError(
            f"PyTorch 1.5.1 exports no ONNX operator set {opset}.",
            f"It exports {OPSETS[0]} to {OPSETS[-1]}; 11 is the default.",
        )
    opened = open_model(job)
    with job.phase("export"):
        if opened.trials:
            _export_open(torch, opened, job)
        else:
            export_with_fixes(torch, opened.model, opened.example, opened.inputs, opened.names, job)
        embed_file(job.output, opened.inputs, opened.preprocessing)
    return write_reference(job, opened)


def _export_open(torch: Any, opened: OpenedModel, job: Job) -> None:
    """Export with an open batch: by the exporter's dynamic axes, or by the fix `open-trace`.

    The fix exports at two sizes, since many a layer's export bakes the size that it sees.
    """
    from stages.convert.torch_layers import find_lines

    tensors = (*opened.inputs, *opened.outputs)
    if "open-trace" not in resolve(job.options, "torch"):
        axes = {
            tensor.name: {axis: name for axis, name in enumerate(tensor.dims) if name}
            for tensor in tensors
            if tensor.dims
        }
        export_with_fixes(
            *(torch, opened.model, opened.example, opened.inputs, opened.names, job), axes=axes
        )
        return
    import onnx

    from stages.frameworks.open_batch.onnx_model import open_model

    models = []
    for example in opened.trials[::-1]:  # the report is of the last one
        recording = export_with_fixes(
            torch, opened.model, example, opened.inputs, opened.names, job
        )
        models.insert(0, onnx.load(str(job.output)))
    lines = find_lines(recording)

    def locate(tensor: str) -> str:
        found = (recording.layers.get(tensor, ""), lines.get(tensor, ""))
        return ", ".join(part for part in found if part)

    model, changed = open_model(models[0], models[1], opened.inputs, opened.outputs, locate)
    onnx.save(model, str(job.output))
    if changed:
        job.report["fixes"] = sorted({*job.report["fixes"], "open-trace"})


def export_with_fixes(
    torch: Any,
    model: Any,
    inputs: Sequence[Any],
    tensors: Sequence[Tensor],
    output_names: Sequence[str],
    job: Job,
    axes: Optional[Dict[str, Dict[int, str]]] = None,
) -> Any:
    """Export with the repairs that the option `fixes` allows, and report those that took effect.

    What the exporter knows of the layers is reported as well; returns the `torch_layers.Recording`.
    `axes` names the open ones by input and output, if any are to be open.
    """
    from stages.convert.torch_layers import record_export
    from stages.convert.torch_refusals import explain_refusals

    chosen = resolve(job.options, "torch")
    settings = {"dynamic_axes": axes} if axes else {}
    job.report["fixes"] = []
    with explain_refusals(), record_export() as recording:
        if not chosen:
            _export(torch, model, inputs, tensors, output_names, job, settings)
            name_outputs(job.output, output_names)
        else:
            from stages.fixes.torch.apply import apply_fixes

            with apply_fixes(chosen, job.options["opset"]) as repairs:
                repairs.export(
                    model,
                    inputs,
                    lambda prepared: _export(
                        torch, prepared, inputs, tensors, output_names, job, settings
                    ),
                )
                name_outputs(job.output, output_names)
                repairs.finish(job.output, [tensor.name for tensor in tensors], inputs)
            job.report["fixes"] = sorted(repairs.used)
            for note in repairs.notes:
                job.note(note)
    job.report["layers"] = recording.layers
    return recording


def _export(
    torch: Any,
    model: Any,
    inputs: Sequence[Any],
    tensors: Sequence[Tensor],
    output_names: Sequence[str],
    job: Job,
    more: Dict[str, Any],
) -> None:
    report_progress("export")
    settings = {
        "opset_version": job.options["opset"],
        "input_names": [tensor.name for tensor in tensors],
        "output_names": list(output_names),
        **more,
    }
    with torch.no_grad():
        if not isinstance(model, torch.jit.ScriptModule):
            # A copy, since the exporter mutates some modules (training flags, flattened weights).
            torch.onnx.export(copy.deepcopy(model), tuple(inputs), str(job.output), **settings)
            return
        graph = str(model.inlined_graph)
        if "prim::If" in graph or "prim::Loop" in graph:
            example = model(*inputs)
            torch.onnx.export(
                model, tuple(inputs), str(job.output), example_outputs=example, **settings
            )
            return
        # A loaded archive has no types inside, and torch.onnx.export does not propagate those of
        # the inputs: ReLU6 then fails, and integer constants get the wrong type. Only the function
        # behind it has an option for that. pytorch/pytorch pull request 35467 (torch 1.6).
        from torch.onnx import utils

        utils._export(
            model,
            tuple(inputs),
            str(job.output),
            example_outputs=model(*inputs),
            operator_export_type=torch.onnx.OperatorExportTypes.ONNX,
            propagate=True,
            **settings,
        )


STAGE = Stage(
    name="torch",
    summary=__doc__ or "",
    consumes="model.pt",
    produces="model.onnx",
    packages=("torch", "torchvision", "onnx", "onnxruntime", "numpy"),
    convert=convert,
    check=check,
    imports=("torch", "onnx", "onnxruntime"),
    options=(
        Option("fixes", str, "all", "repairs to apply: all, none, NAME,... or -NAME,..."),
        Option("opset", int, 11, "the ONNX operator set to export"),
        *OPTIONS,
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
