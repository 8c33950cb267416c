"""The stage `torch`: a PyTorch 1.5.1 model to ONNX, and PyTorch's own outputs as the reference."""

from __future__ import annotations

import copy
import io
import json
import random
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence
from unittest import mock

import numpy as np

from stages.fixes.catalogue import resolve
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

# How often values are drawn that are to tell inputs apart.
_MOST_DRAWS = 20


def convert(job: Job) -> Signature:
    """Write the ONNX model, the samples, and the reference outputs for them.

    Every later stage is compared with these outputs.
    """
    import torch

    from stages.convert import load_torch
    from stages.kit import samples

    # So that a model that draws numbers while it is built or traced draws the same ones each time.
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    options = job.options
    if options["opset"] not in OPSETS:
        raise InputError(
            f"PyTorch 1.5.1 exports no ONNX operator set {options['opset']}.",
            f"It exports {OPSETS[0]} to {OPSETS[-1]}; 11 is the default.",
        )
    arch_args = json.loads(options["arch_args"] or "{}")
    arch = options["arch"]
    if arch.partition(":")[0].endswith(".py"):
        arch = str(job.volume / arch)
    model = load_torch.load_model(job.input, arch, arch_args, job.note)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    inputs = resolve_inputs(job, model)
    settings = job.request.get("check", {})
    with job.phase("samples"):
        draft = samples.make_inputs(job, inputs)
    first = [_to_tensor(torch, array[0]) for array in draft.input_arrays]
    names = _make_output_names(_run_model(torch, model, first), [tensor.name for tensor in inputs])
    with job.phase("export"):
        _export_with_fixes(torch, model, first, inputs, names, job)
    with job.phase("reference"):
        reference = samples.write_reference(
            draft, names, lambda: make_predict(torch, copy_model(torch, model))
        )
    is_random = _is_random(torch, model, reference)
    if is_random:
        job.note(
            "PyTorch's own outputs differ between two runs on one input: the model is random or "
            "keeps state, and its conversion cannot be checked."
        )
        floor = {"samples": 0, "outputs": None, "reason": "the model is random or keeps state"}
        reference = replace(reference, noise_floor=floor, random=True)
    else:
        with job.phase("noise floor"):
            wanted = settings.get("noise_samples", 16)
            reference = measure_noise_floor(torch, model, reference, wanted)
    samples.save(job, reference)
    job.report["parameters"] = load_torch.count_parameters(model)
    job.report["noise_floor"] = reference.noise_floor
    return Signature(
        tuple(replace(t, node=t.name) for t in inputs),
        tuple(replace(t, node=t.name) for t in reference.outputs),
    )


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the ONNX model in ONNX Runtime on every sample and compare its outputs."""
    import onnx
    import onnxruntime

    from stages.kit.onnx_runtime import open_session
    from stages.kit.samples import compare, open_samples

    model = onnx.load(str(job.artifact))
    job.report["operators"] = dict(Counter(node.op_type for node in model.graph.node))
    samples = open_samples(job.volume)
    assert samples is not None and job.signature is not None
    session = open_session(model)
    # The exporter drops inputs that no output needs.
    known = {value.name for value in session.get_inputs()}
    names = [tensor.name for tensor in job.signature.inputs]
    outputs = [tensor.name for tensor in job.signature.outputs]

    def predict(values: Sequence[np.ndarray]) -> List[np.ndarray]:
        feed = {name: value for name, value in zip(names, values) if name in known}
        return session.run(outputs, feed)  # type: ignore[no-any-return]

    return compare(job, samples, f"ONNX Runtime {onnxruntime.__version__}", lambda: predict)


def resolve_inputs(job: Job, model: Any) -> List[Tensor]:
    """Return the inputs as requested or inferred, named and ordered as forward() has them."""
    from stages.convert import load_torch

    specs = job.request.get("inputs") or parse_inputs(job.options["inputs"])
    arrays = job.request.get("check", {}).get("inputs")
    if not specs and arrays:
        specs, why = load_torch.infer_inputs_from_arrays(model, job.volume / arrays)
        job.note(why)
    if not specs:
        (shape, dtype), why = load_torch.infer_inputs(model)
        job.note(why)
        specs = [{"name": "", "shape": shape, "dtype": dtype}]
    names = list(load_torch.list_forward_names(model))
    given = [spec.get("name", "") for spec in specs]
    if all(given) and set(given) <= set(names):
        specs = sorted(specs, key=lambda spec: names.index(spec["name"]))
    elif len(specs) == 1:
        names = ["input"]
    tensors = []
    for index, spec in enumerate(specs):
        fallback = names[index] if index < len(names) else f"input_{index}"
        tensors.append(Tensor.from_dict({**spec, "name": spec.get("name") or fallback}))
    return _add_ranges(job, model, tensors)


def _add_ranges(job: Job, model: Any, tensors: Sequence[Tensor]) -> List[Tensor]:
    """Bound the generated values of integer inputs that have no range."""
    from stages.kit.samples import bound_integers, lacks_range

    if not any(map(lacks_range, tensors)):
        return list(tensors)
    rows = _find_rows(model, tensors)
    return [bound_integers(job, tensor, count) for tensor, count in zip(tensors, rows)]


def _find_rows(model: Any, tensors: Sequence[Tensor]) -> List[Optional[int]]:
    import torch

    from stages.convert.load_torch import find_embedding_rows

    generator = np.random.RandomState(0)
    inputs: List[np.ndarray] = []
    for tensor in tensors:
        # Any table has two rows, and numbers of two values tell the inputs apart.
        for _ in range(_MOST_DRAWS):
            drawn = np.asarray(generator.randint(0, 2, tensor.shape).astype(tensor.dtype))
            if not any(np.array_equal(drawn, other) for other in inputs):
                break
        inputs.append(drawn)
    return find_embedding_rows(model, [torch.from_numpy(array) for array in inputs])


def parse_inputs(text: str) -> List[Dict[str, Any]]:
    """Parse inputs in the form of the command line, `NAME=1x3x224x224:float32,...`.

    Raises `InputError` for any other form.
    """
    specs = []
    for item in filter(None, text.split(",")):
        name, _, rest = item.rpartition("=")
        shape, _, dtype = rest.partition(":")
        try:
            sizes = tuple(int(size) for size in shape.split("x"))
        except ValueError:
            raise InputError(f"'{item}' is not of the form NAME=1x3x224x224:float32.") from None
        specs.append({"name": name, "shape": sizes, "dtype": dtype or "float32"})
    return specs


def _to_tensor(torch: Any, array: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array))


def _run_model(torch: Any, model: Any, inputs: Sequence[Any]) -> List[Any]:
    """Run the model and return its outputs as a flat list, in the exporter's own order."""
    try:
        with torch.no_grad():
            outputs = model(*inputs)
    except Exception as error:  # user code may raise anything
        shapes = ", ".join("x".join(map(str, tensor.shape)) for tensor in inputs)
        remedy = (
            "Check the shapes (the batch size first), the order and the types given by --input."
        )
        if isinstance(error, IndexError) or "out of range" in str(error):
            remedy += (
                " If an index is out of range, give its input's values: range = [0, ROWS] in a "
                "model's .toml."
            )
        raise InputError(
            f"The model does not run on inputs of shape {shapes}: {error}", remedy
        ) from error
    return _flatten(torch, outputs)


def _flatten(torch: Any, outputs: Any) -> List[Any]:
    try:
        flat, _ = torch._C._jit_flatten(outputs)
    except RuntimeError as error:
        raise InputError(
            f"The model's outputs cannot be exported: {str(error).splitlines()[0]}",
            "Let forward() return tensors, in tuples, lists or dictionaries, and no None.",
        ) from None
    return list(flat)


def _make_output_names(outputs: Sequence[Any], taken: Sequence[str]) -> List[str]:
    if not outputs:
        raise InputError("The model returns no tensor.", "Let forward() return what it computes.")
    # Names are unique within a graph, so an output cannot have the name of an input.
    stem = "output"
    while any(name.startswith(stem) for name in taken):
        stem += "_"
    return [stem] if len(outputs) == 1 else [f"{stem}_{i}" for i in range(len(outputs))]


def make_predict(torch: Any, model: Any) -> Callable[[Sequence[np.ndarray]], List[np.ndarray]]:
    def predict(values: Sequence[np.ndarray]) -> List[np.ndarray]:
        with torch.no_grad():
            outputs = model(*[torch.from_numpy(value) for value in values])
        if isinstance(outputs, torch.Tensor):
            return [outputs.numpy()]
        return [tensor.numpy() for tensor in _flatten(torch, outputs)]

    return predict


def copy_model(torch: Any, model: Any) -> Any:
    """Copy a model for another thread, as forward() may set attributes. Modules share weights."""
    if isinstance(model, torch.jit.ScriptModule):
        stream = io.BytesIO()
        torch.jit.save(model, stream)
        stream.seek(0)
        return torch.jit.load(stream).eval()
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def _export_with_fixes(
    torch: Any,
    model: Any,
    inputs: Sequence[Any],
    tensors: Sequence[Tensor],
    output_names: Sequence[str],
    job: Job,
) -> Any:
    """Export with the repairs that the option `fixes` allows, and report those that took effect.

    What the exporter knows of the layers is reported as well; returns the `torch_layers.Recording`.
    """
    from stages.convert.torch_layers import record_export
    from stages.convert.torch_refusals import explain_refusals

    chosen = resolve(job.options, "torch")
    job.report["fixes"] = []
    with explain_refusals(), record_export() as recording:
        if not chosen:
            _export(torch, model, inputs, tensors, output_names, job)
            _name_outputs(job, output_names)
        else:
            from stages.fixes.torch.apply import apply_fixes

            with apply_fixes(chosen, job.options["opset"]) as repairs:
                repairs.export(
                    model,
                    inputs,
                    lambda prepared: _export(torch, prepared, inputs, tensors, output_names, job),
                )
                _name_outputs(job, output_names)
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
) -> None:
    report_progress("export")
    settings = {
        "opset_version": job.options["opset"],
        "input_names": [tensor.name for tensor in tensors],
        "output_names": list(output_names),
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


def _name_outputs(job: Job, names: Sequence[str]) -> None:
    """Give outputs that are the same tensor (`return y, y`) a name each; the exporter keeps one."""
    import onnx

    model = onnx.load(str(job.output))
    outputs = model.graph.output
    if len(outputs) != len(names) or [value.name for value in outputs] == list(names):
        return
    for value, name in zip(outputs, names):
        if value.name != name:
            model.graph.node.append(onnx.helper.make_node("Identity", [value.name], [name]))
            value.name = name
    onnx.save(model, str(job.output))


def _is_random(torch: Any, model: Any, reference: Any) -> bool:
    """Tell whether outputs differ between runs on one input, by randomness or by kept state."""
    predict = make_predict(torch, copy_model(torch, model))
    inputs = reference.input_arrays
    # Run the last sample and the first one before, to catch a model that counts its calls.
    for sample in (reference.count - 1, 0):
        predict([array[sample] for array in inputs])
    again = predict([array[0] for array in inputs])
    return any(
        not np.array_equal(array[0], value) and not np.isnan(value).any()
        for array, value in zip(reference.output_arrays, again)
    )


def measure_noise_floor(torch: Any, model: Any, reference: Any, wanted: int) -> Any:
    """Compare PyTorch's float32 outputs with its own in float64 on the first `wanted` samples.

    Return the samples with what was measured.
    """
    from stages.kit import samples

    def make_double_predict() -> Callable[[Sequence[np.ndarray]], List[np.ndarray]]:
        # double() replaces a module's tensors, so the originals that are shared stay float32.
        return make_predict(torch, copy_model(torch, model).double())

    with _compute_in_double(torch):
        return samples.measure_noise_floor(reference, wanted, make_double_predict)


@contextmanager
def _compute_in_double(torch: Any) -> Iterator[None]:
    """Let float32 mean float64 in Python code that runs in the block: `x.float()`, new tensors.

    Otherwise a forward() that makes a tensor mixes types, which torch 1.5.1 refuses.
    """
    default = torch.get_default_dtype()
    renamed = {"float32": torch.float64, "float": torch.float64, "FloatTensor": torch.DoubleTensor}
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(torch.float64)
        for name, meaning in renamed.items():
            stack.enter_context(mock.patch.object(torch, name, meaning))
        double = torch.Tensor.double
        stack.enter_context(mock.patch.object(torch.Tensor, "float", double, create=True))
        yield


STAGE = Stage(
    name="torch",
    summary=__doc__ or "",
    consumes="model.pt",
    produces="model.onnx",
    packages=("torch", "torchvision", "onnx", "onnxruntime", "numpy"),
    convert=convert,
    check=check,
    options=(
        Option("fixes", str, "all", "repairs to apply: all, none, NAME,... or -NAME,..."),
        Option("opset", int, 11, "the ONNX operator set to export"),
        Option("arch", str, "", "what builds the model of a state_dict: FILE.py:CALLABLE"),
        Option("arch_args", str, "", "keyword arguments for it, as JSON"),
        Option("inputs", str, "", "inputs as NAME=1x3x224x224:float32, comma-separated"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
