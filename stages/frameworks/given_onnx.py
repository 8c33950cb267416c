"""An ONNX model made elsewhere as the reference, as ONNX Runtime runs it without optimizing it."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import repeat
from typing import Any, Optional, Sequence

import numpy as np

from stages.frameworks.onnx_files import make_predict, set_shapes
from stages.frameworks.onnx_pixels import embed
from stages.kit import samples
from stages.kit.contract import InputError, Job, Signature, Tensor
from stages.kit.given_model import look_at_run
from stages.kit.pixels import Preprocessing, read_preprocessing
from stages.kit.samples import QUANTIZED_NOISE_SAMPLES, Samples


def _verify_same(reference: Samples, inputs: Sequence[Tensor], outputs: Sequence[str]) -> None:
    """Raise `InputError` unless the model has the inputs and outputs of the given reference."""
    theirs = [(tensor.name, tensor.shape, tensor.dtype) for tensor in reference.inputs]
    ours = [(tensor.name, tuple(tensor.shape), tensor.dtype) for tensor in inputs]
    if theirs != ours or [tensor.name for tensor in reference.outputs] != list(outputs):
        raise InputError(
            "The model's inputs and outputs are not those of the reference.",
            "Convert the same model with every toolchain.",
        )


def move_quantizers(model: Any, part: float) -> Optional[Any]:
    """Return the model with what its quantisers of activations round moved; None without any.

    It is moved by a part of its range, as in a PyTorch model with fake quantisation.
    """
    from onnx import helper, numpy_helper

    known = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            known.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    moved = copy.deepcopy(model)
    del moved.graph.node[:]
    count = 0
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in known or node.input[1] not in known:
            moved.graph.node.add().CopyFrom(node)
            continue
        scale = numpy_helper.to_array(known[node.input[1]])
        shift = np.array(scale.max() * (255 * part), scale.dtype)
        names = [f"{node.output[0]}/{part}" for part in ("shift", "moved")]
        moved.graph.initializer.append(numpy_helper.from_array(shift, names[0]))
        moved.graph.node.append(helper.make_node("Add", [node.input[0], names[0]], [names[1]]))
        last = moved.graph.node.add()
        last.CopyFrom(node)
        last.input[0] = names[1]
        count += 1
    return moved if count else None


def _measure_moved(
    reference: Samples, onnxruntime: Any, model: Any, preprocessing: Preprocessing
) -> Samples:
    names = [tensor.name for tensor in reference.inputs]
    return samples.measure_quantized_floor(
        reference,
        QUANTIZED_NOISE_SAMPLES,
        lambda part: preprocessing.wrap(
            _narrow(
                make_predict(onnxruntime, move_quantizers(model, part), names),
                reference,
                preprocessing,
            )
        ),
    )


def _narrow(predict: Any, reference: Samples, preprocessing: Preprocessing) -> Any:
    def run(values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        # The floor is asked for in float64, which ONNX Runtime does not have here.
        pairs = zip(reference.inputs, preprocessing.inputs or repeat(None))
        wanted = [np.dtype("float32" if pixels else tensor.dtype) for tensor, pixels in pairs]
        return predict([value.astype(kind) for value, kind in zip(values, wanted)])

    return run


def write_given_onnx(job: Job, model: Any, inputs: Sequence[Tensor]) -> Signature:
    """Write the model with fixed shapes, the samples and ONNX Runtime's outputs for them.

    Where the run was given a reference, that one stays.
    """
    import onnxruntime

    names = [value.name for value in model.graph.output]
    preprocessing = read_preprocessing(job, inputs)
    inputs = preprocessing.describe(inputs)
    reference = samples.open_given_reference(job)
    if reference is not None:
        _verify_same(reference, inputs, names)
        job.report["noise_floor"] = reference.noise_floor
        job.note(f"The reference is that of {job.request['check']['reference']}.")
    else:
        with job.phase("samples"):
            draft = samples.make_inputs(job, inputs)
            preprocessing.verify(draft)
        with job.phase("reference"):
            predict = make_predict(onnxruntime, model, [tensor.name for tensor in inputs])
            predict = preprocessing.wrap(predict)
            random = look_at_run(predict, draft, job, "model", names)
            reference = samples.write_reference(draft, names, lambda: predict)
            reference = samples.open_outputs(replace(reference, random=random), predict, "model")
        floor = {
            "samples": 0,
            "outputs": None,
            "reason": "There is no PyTorch model to run in float64, and ONNX Runtime has no "
            "float64 convolutions.",
        }
        reference = replace(reference, noise_floor=floor)
        if move_quantizers(model, samples.QUANTIZER_MOVE) is not None:
            with job.phase("noise floor"):
                reference = _measure_moved(reference, onnxruntime, model, preprocessing)
        job.report["noise_floor"] = reference.noise_floor
        samples.save(job, reference)
        job.note(
            f"The reference is the given model run by ONNX Runtime {onnxruntime.__version__} "
            "without its optimizations, not PyTorch."
        )
    set_shapes(model.graph, [*inputs, *reference.outputs])
    embed(model, inputs, preprocessing)
    job.output.write_bytes(model.SerializeToString(deterministic=True))
    job.report["parameters"] = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    return Signature(
        tuple(replace(t, node=t.name) for t in inputs),
        tuple(replace(t, node=t.name) for t in reference.outputs),
    )
