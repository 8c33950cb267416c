"""PyTorch's own outputs as the reference, for every stage that starts from a PyTorch model.

The torch may be of any release. The reference is made once a run: by the first stage, or, where
several toolchains are compared on one model, by the first toolchain alone.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import threading
import traceback
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple
from unittest import mock

import numpy as np

from stages.frameworks import load_torch
from stages.kit import open_batch, samples
from stages.kit.contract import InputError, Job, Option, Signature, Tensor
from stages.kit.given_model import parse_inputs
from stages.kit.pixels import PREPROCESSING, Preprocessing, read_preprocessing
from stages.kit.samples import Samples, bound_integers, lacks_range

# How often values are drawn that are to tell inputs apart.
_MOST_DRAWS = 20
# A script has no weights while it is copied.
_copying = threading.Lock()

# The options that say how the model is opened.
OPTIONS = (
    Option("arch", str, "", "what builds the model of a state_dict: FILE.py:CALLABLE"),
    Option("arch_args", str, "", "keyword arguments for it, as JSON"),
    Option("inputs", str, "", "inputs as NAME=1x3x224x224:float32, comma-separated"),
    PREPROCESSING,
)


@dataclass(frozen=True)
class OpenedModel:
    """A PyTorch model ready for export.

    `example` holds the first sample as tensors, `names` the outputs' names, and `draft` the
    samples, complete with the reference outputs if the run was given them. If the batch is open,
    `trials` are inputs at the two sizes that it is exported at, and `outputs` the outputs by name,
    with their open axes. `preprocessing` is what the artifacts do to the samples before the model:
    `example` and `trials` are as the model itself takes them.
    """

    model: Any
    inputs: Tuple[Tensor, ...]
    example: Tuple[Any, ...]
    names: Tuple[str, ...]
    draft: Samples
    trials: Tuple[Tuple[Any, ...], ...] = ()
    outputs: Tuple[Tensor, ...] = ()
    preprocessing: Preprocessing = Preprocessing()

    @property
    def has_reference(self) -> bool:
        """Whether the run was given reference outputs, those of another toolchain."""
        return bool(self.draft.outputs)


def open_model(job: Job) -> OpenedModel:
    """Load the job's model and make, or open, its samples. Raises `InputError`."""
    import torch

    # So that a model that draws numbers while it is built or traced draws the same ones each time.
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model = load_job_model(job, job.input)
    given = samples.open_given_reference(job)
    if given is not None:
        draft = given
    else:
        inputs = resolve_inputs(job, model)
        with job.phase("samples"):
            draft = samples.make_inputs(job, inputs)
    preprocessing = read_preprocessing(job, draft.inputs)
    preprocessing.verify(draft)
    first = preprocessing.prepare([array[0] for array in draft.input_arrays])
    example = tuple(_to_tensor(torch, value) for value in first)
    outputs = run_model(torch, model, example)
    names = _make_output_names(outputs, [tensor.name for tensor in draft.inputs])
    if given is not None:
        names = _match_given_outputs(given, outputs)
    opened = OpenedModel(
        model, draft.inputs, example, tuple(names), draft, preprocessing=preprocessing
    )
    return _try_sizes(torch, opened, outputs)


def _try_sizes(torch: Any, opened: OpenedModel, outputs: Sequence[Any]) -> OpenedModel:
    """Run a model whose batch is open at other sizes, and return it with what that shows.

    Raises `InputError`, with the line of the user's, if PyTorch itself does not run it there.
    """
    axis = open_batch.find_open_axis(opened.inputs)
    if axis is None:
        return opened
    arrays, count = opened.draft.input_arrays, opened.draft.count
    shapes, trials = [], []
    for size in sorted({*open_batch.CHECKED, *open_batch.TRIALS}):
        rows = open_batch.pick_rows(0, size, count)
        joined = [
            open_batch.join(tensor, [array[row] for row in rows])
            for tensor, array in zip(opened.inputs, arrays)
        ]
        prepared = opened.preprocessing.prepare(joined)
        example = tuple(_to_tensor(torch, value) for value in prepared)
        try:
            with torch.no_grad():
                found = _flatten(torch, copy_model(torch, opened.model)(*example))
        except InputError:
            raise
        except Exception as error:  # user code may raise anything
            raise _refuse_size(torch, size, error) from error
        if size in open_batch.TRIALS:
            trials.append(example)
            shapes.append([tuple(tensor.shape) for tensor in found])
    tensors = [
        Tensor(name, tuple(output.shape), str(output.dtype).rpartition(".")[2], node=name)
        for name, output in zip(opened.names, outputs)
    ]
    named = open_batch.name_open_axes(tensors, shapes, axis.name)
    return replace(opened, trials=tuple(trials), outputs=named)


def _refuse_size(torch: Any, size: int, error: Exception) -> InputError:
    line = find_user_line(torch, error)
    message = (str(error).strip().splitlines() or [""])[0][:300]
    return InputError(
        f"PyTorch itself does not run the model with a batch of {size}: "
        f"{type(error).__name__}: {message}{f' ({line})' if line else ''}",
        open_batch.REMEDY,
    )


def find_user_line(torch: Any, error: Exception) -> str:
    """Return the line of the model's own code that raised an error; '' if none is known."""
    script = re.findall(
        r'File "([^"]+)", line (\d+), in (\w+)\n((?:(?!  File ).*\n)*?).*<--- HERE', str(error)
    )
    if script:
        file, number, function, code = script[-1]
        lines = [line.strip() for line in code.splitlines() if line.strip()]
        return f"{os.path.basename(file)}, line {number}, in {function}: {''.join(lines[-1:])}"
    own = [os.path.dirname(torch.__file__), str(Path(__file__).parents[1])]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(frame.filename.startswith(folder) for folder in own)
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f"{os.path.basename(last.filename)}, line {last.lineno}, in {last.name}: {last.line}"


def load_job_model(job: Job, file: Path) -> Any:
    """Load a model as the job's options say, in eval mode. Raises `InputError`."""
    arch = job.options["arch"]
    if arch.partition(":")[0].endswith(".py"):
        arch = str(job.volume / arch)
    arch_args = json.loads(job.options["arch_args"] or "{}")
    model = load_torch.load_model(file, arch, arch_args, job.note)
    load_torch.refuse_large(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def write_reference(job: Job, opened: OpenedModel) -> Signature:
    """Write PyTorch's outputs for every sample and their noise floor; return the signature.

    Where the run was given a reference, that one stays, and the report has how far this PyTorch is
    from it.
    """
    import torch

    model, reference = opened.model, opened.draft

    def make_reference() -> samples.Predict:
        return opened.preprocessing.wrap(make_predict(torch, copy_model(torch, model)))

    if opened.has_reference:
        _report_distance(job, opened)
    else:
        with job.phase("reference"):
            reference = samples.write_reference(opened.draft, opened.names, make_reference)
        if opened.outputs:
            dims = [tensor.dims for tensor in opened.outputs]
            named = [replace(t, dims=names) for t, names in zip(reference.outputs, dims)]
            reference = replace(reference, outputs=tuple(named))
            reference = samples.add_sizes(reference, make_reference)
        reference = _add_noise_floor(job, torch, opened, reference)
        samples.save(job, reference)
    job.report["parameters"] = load_torch.count_parameters(model)
    job.report["noise_floor"] = reference.noise_floor
    return Signature(
        tuple(replace(t, node=t.name) for t in opened.inputs),
        tuple(replace(t, node=t.name) for t in reference.outputs),
    )


def _add_noise_floor(job: Job, torch: Any, opened: OpenedModel, reference: Samples) -> Samples:
    model = opened.model
    if not _is_random(torch, opened, reference):
        with job.phase("noise floor"):
            trained = load_torch.is_trained_for_integers(model)
            usual = samples.QUANTIZED_NOISE_SAMPLES if trained else 16
            wanted = job.request.get("check", {}).get("noise_samples", usual)
            return measure_noise_floor(torch, model, reference, wanted, opened.preprocessing)
    job.note(
        "PyTorch's own outputs differ between two runs on one input: the model is random or "
        "keeps state, and its conversion cannot be checked."
    )
    floor = {"samples": 0, "outputs": None, "reason": "the model is random or keeps state"}
    return replace(reference, noise_floor=floor, random=True)


def _match_given_outputs(given: Samples, outputs: Sequence[Any]) -> List[str]:
    shapes = [tuple(output.shape) for output in outputs]
    wanted = [tensor.shape for tensor in given.outputs]
    if shapes != wanted:
        raise InputError(
            f"This model's outputs have the shapes {shapes}, and those of the reference {wanted}.",
            "Convert the same model with every toolchain.",
        )
    return [tensor.name for tensor in given.outputs]


def _report_distance(job: Job, opened: OpenedModel) -> None:
    """Tell how far this PyTorch's outputs are from the reference that the run was given."""
    import torch

    count = min(opened.draft.count, 16)
    given = opened.draft
    predict = opened.preprocessing.wrap(make_predict(torch, copy_model(torch, opened.model)))
    results = samples.compare_few(
        predict, given.input_arrays, given.outputs, given.output_arrays, count
    )
    errors = [result["mean_abs"] for result in results]
    worst = max((error for error in errors if error is not None), default=None)
    job.note(
        f"The reference is that of {job.request['check']['reference']}; the outputs of PyTorch "
        f"{torch.__version__} differ from it by {worst if worst is None else format(worst, '.1e')} "
        f"in the mean, on {count} samples."
    )


def resolve_inputs(job: Job, model: Any) -> List[Tensor]:
    """Return the inputs as requested or inferred, named and ordered as forward() has them."""
    specs = job.request.get("inputs") or parse_inputs(job.options["inputs"])
    arrays = job.request.get("check", {}).get("inputs")
    if not specs and arrays:
        specs, why = load_torch.infer_inputs_from_arrays(model, job.volume / arrays)
        job.note(why)
    if not specs:
        specs, why = load_torch.read_example_inputs(model)
        if specs:
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
    if not any(map(lacks_range, tensors)):
        return list(tensors)
    rows = _find_rows(model, tensors)
    return [bound_integers(job, tensor, count) for tensor, count in zip(tensors, rows)]


def _find_rows(model: Any, tensors: Sequence[Tensor]) -> List[Optional[int]]:
    import torch

    generator = np.random.RandomState(0)
    inputs: List[np.ndarray] = []
    for tensor in tensors:
        # Any table has two rows, and numbers of two values tell the inputs apart.
        for _ in range(_MOST_DRAWS):
            drawn = np.asarray(generator.randint(0, 2, tensor.shape).astype(tensor.dtype))
            if not any(np.array_equal(drawn, other) for other in inputs):
                break
        inputs.append(drawn)
    return load_torch.find_embedding_rows(model, [torch.from_numpy(array) for array in inputs])


def _to_tensor(torch: Any, array: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array))


def run_model(torch: Any, model: Any, inputs: Sequence[Any]) -> List[Any]:
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
        return _copy_script(torch, model)
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def _copy_script(torch: Any, script: Any) -> Any:
    """Copy a script by way of an archive, without its weights: a large model's are gigabytes."""
    with _copying:
        weights = {name: parameter.data for name, parameter in script.named_parameters()}
        try:
            for parameter in script.parameters():
                parameter.data = torch.empty(0, dtype=parameter.dtype)
            copied = _save_and_load(torch, script)
        finally:
            for name, parameter in script.named_parameters():
                parameter.data = weights[name]
    parameters = dict(copied.named_parameters())
    if parameters.keys() != weights.keys():
        # A weight of two names, which torch 1.3 tells apart only once the script was saved.
        return _save_and_load(torch, script)
    for name, parameter in parameters.items():
        parameter.data = weights[name]
    return copied


def _save_and_load(torch: Any, script: Any) -> Any:
    stream = io.BytesIO()
    torch.jit.save(script, stream)
    stream.seek(0)
    return torch.jit.load(stream).eval()


def _is_random(torch: Any, opened: OpenedModel, reference: Any) -> bool:
    """Tell whether outputs differ between runs on one input, by randomness or by kept state."""
    predict = opened.preprocessing.wrap(make_predict(torch, copy_model(torch, opened.model)))
    inputs = reference.input_arrays
    # Run the last sample and the first one before, to catch a model that counts its calls.
    for sample in (reference.count - 1, 0):
        predict([array[sample] for array in inputs])
    again = predict([array[0] for array in inputs])
    return any(
        not np.array_equal(array[0], value) and not np.isnan(value).any()
        for array, value in zip(reference.output_arrays, again)
    )


def measure_noise_floor(
    torch: Any,
    model: Any,
    reference: Any,
    wanted: int,
    preprocessing: Preprocessing = Preprocessing(),
) -> Any:
    """Compare PyTorch's float32 outputs with its own in float64 on the first `wanted` samples.

    Return the samples with what was measured. The model is float64 from then on.
    """
    if load_torch.is_trained_for_integers(model):
        return samples.measure_quantized_floor(
            reference,
            wanted,
            lambda part: preprocessing.wrap(_make_moved_predict(torch, model, part)),
        )

    def make_double_predict() -> samples.Predict:
        with _copying:
            model.double()  # itself, once: copies of a large model's weights are gigabytes
        return preprocessing.wrap(make_predict(torch, copy_model(torch, model)), np.float64)

    with _compute_in_double(torch):
        return samples.measure_noise_floor(reference, wanted, make_double_predict)


def _make_moved_predict(torch: Any, model: Any, part: float) -> Callable[..., List[np.ndarray]]:
    """Return the forward pass with what fake quantisers of activations round moved a little.

    That is by a part of their range.
    """

    def move(module: Any, values: Tuple[Any, ...]) -> Any:
        steps = module.quant_max - module.quant_min
        return values[0] + module.scale.max() * (steps * part)

    moved = copy_model(torch, model)
    for name, module in moved.named_modules():
        # Weights are rounded once, in float32, by whichever framework.
        if load_torch.is_fake_quantizer(module) and not name.endswith("weight_fake_quant"):
            module.register_forward_pre_hook(move)
    predict = make_predict(torch, moved)
    return lambda values: predict(
        [v.astype(np.float32) if v.dtype == np.float64 else v for v in values]
    )


@contextmanager
def _compute_in_double(torch: Any) -> Iterator[None]:
    """Let float32 mean float64 in Python code that runs in the block: `x.float()`, new tensors.

    Otherwise a forward() that makes a tensor mixes types, which older releases refuse.
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
