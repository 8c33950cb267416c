"""An ONNX model made elsewhere as the reference, as ONNX Runtime runs it without optimizing it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Sequence

import numpy as np

from stages.frameworks.onnx_files import make_predict, set_shapes
from stages.kit import samples
from stages.kit.contract import InputError, Job, Signature, Tensor
from stages.kit.given_model import look_at_run
from stages.kit.samples import Samples


def _verify_same(reference: Samples, inputs: Sequence[Tensor], outputs: Sequence[str]) -> None:
    """Raise `InputError` unless the model has the inputs and outputs of the given reference."""
    theirs = [(tensor.name, tensor.shape, tensor.dtype) for tensor in reference.inputs]
    ours = [(tensor.name, tuple(tensor.shape), tensor.dtype) for tensor in inputs]
    if theirs != ours or [tensor.name for tensor in reference.outputs] != list(outputs):
        raise InputError(
            "The model's inputs and outputs are not those of the reference.",
            "Convert the same model with every toolchain.",
        )


def write_given_onnx(job: Job, model: Any, inputs: Sequence[Tensor]) -> Signature:
    """Write the model with fixed shapes, the samples and ONNX Runtime's outputs for them.

    Where the run was given a reference, that one stays.
    """
    import onnxruntime

    names = [value.name for value in model.graph.output]
    reference = samples.open_given_reference(job)
    if reference is not None:
        _verify_same(reference, inputs, names)
        job.report["noise_floor"] = reference.noise_floor
        job.note(f"The reference is that of {job.request['check']['reference']}.")
    else:
        with job.phase("samples"):
            draft = samples.make_inputs(job, inputs)
        with job.phase("reference"):
            predict = make_predict(onnxruntime, model, [tensor.name for tensor in inputs])
            random = look_at_run(predict, draft, job, "model", names)
            reference = samples.write_reference(draft, names, lambda: predict)
        job.report["noise_floor"] = {
            "samples": 0,
            "outputs": None,
            "reason": "There is no PyTorch model to run in float64, and ONNX Runtime has no "
            "float64 convolutions.",
        }
        reference = replace(reference, noise_floor=job.report["noise_floor"], random=random)
        samples.save(job, reference)
        job.note(
            f"The reference is the given model run by ONNX Runtime {onnxruntime.__version__} "
            "without its optimizations, not PyTorch."
        )
    set_shapes(model.graph, [*inputs, *reference.outputs])
    job.output.write_bytes(model.SerializeToString(deterministic=True))
    job.report["parameters"] = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    return Signature(
        tuple(replace(t, node=t.name) for t in inputs),
        tuple(replace(t, node=t.name) for t in reference.outputs),
    )
