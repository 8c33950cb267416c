"""Inputs and trial runs of models made elsewhere, for the stages that take such models.

`what` is 'model' or 'graph', the word that messages use for it.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from stages.kit.contract import InputError, Job

# A size that the model leaves open is given by name, or as '?'.
Size = Union[int, str]


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


def match_requested_inputs(job: Job, what: str, names: Sequence[str]) -> Dict[str, Dict[str, Any]]:
    """Match the requested inputs with the model's, by name or else by position; keys are its names.

    If none are requested, the user's own arrays give the shapes. Raises `InputError` if a name is
    unknown or the number of inputs differs.
    """
    specs: List[Dict[str, Any]] = job.request.get("inputs") or []
    arrays = job.request.get("check", {}).get("inputs")
    if not specs and arrays:
        return _read_array_shapes(job, str(arrays), names)
    given = [spec.get("name", "") for spec in specs]
    unknown = [name for name in given if name not in names]
    if any(given) and unknown:
        raise InputError(
            f"The {what} has no input '{unknown[0] or '(unnamed)'}'.",
            f"Its inputs: {', '.join(names)}.",
        )
    if specs and not any(given) and len(specs) != len(names):
        raise InputError(
            f"{len(specs)} inputs are given, and the {what} has {len(names)}: {', '.join(names)}.",
            "Give all of them, or those that need it by name: --input NAME=1x3x224x224.",
        )
    return dict(zip(given if any(given) else names, specs))


def _read_array_shapes(job: Job, file: str, names: Sequence[str]) -> Dict[str, Dict[str, Any]]:
    try:
        loaded = np.load(job.volume / file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"The inputs file cannot be read: {error}") from None
    arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[n] for n in loaded.files]
    found = names if isinstance(loaded, np.ndarray) or len(arrays) == 1 else loaded.files
    return {name: {"samples_of": array.shape} for name, array in zip(found, arrays)}


def resolve_shape(
    job: Job, what: str, name: str, own: Optional[Sequence[Size]], spec: Dict[str, Any]
) -> Tuple[int, ...]:
    """Return an input's shape: the requested one, else the model's with an open batch size as 1.

    `own` is None where the model does not even give a rank. Raises `InputError` if the request
    contradicts the model or sizes stay open.
    """
    asked = spec.get("shape") or _infer_shape_from_samples(own, spec.get("samples_of"))
    shown = "x".join(map(str, own or ()))
    if asked is not None:
        agrees = own is None or (
            len(asked) == len(own)
            and all(isinstance(d, str) or d == size for d, size in zip(own, asked))
        )
        if not agrees:
            raise InputError(
                f"The {what}'s input '{name}' has shape {shown}; {'x'.join(map(str, asked))} is "
                "given.",
                "Leave --input out, or give sizes only for those that are open there.",
            )
        return tuple(asked)
    if own is None or any(isinstance(size, str) for size in own[1:]):
        raise InputError(
            f"The {what}'s input '{name}' has the shape {shown or '(unknown)'}, and a conversion "
            "needs fixed sizes.",
            f"Give its shape: --input {name}={'x'.join('N' for _ in own or ()) or '1x3x224x224'}.",
        )
    if own and isinstance(own[0], str):
        job.note(f"The batch size of '{name}' ({shown}) is open: 1 is taken.")
        return (1, *(int(size) for size in own[1:]))
    return tuple(int(size) for size in own)


def resolve_dims(
    what: str, name: str, own: Optional[Sequence[Size]], spec: Dict[str, Any]
) -> Tuple[str, ...]:
    """Return the names of an input's open axes, as requested; none if none is to be open.

    Raises `InputError` if the model fixes one of them.
    """
    dims = tuple(spec.get("dims") or ())
    fixed = [axis for axis, open_name in enumerate(dims) if open_name]
    fixed = [axis for axis in fixed if own is not None and not isinstance(own[axis], str)]
    if fixed:
        raise InputError(
            f"The {what}'s input '{name}' has the shape {'x'.join(map(str, own or ()))}: its batch "
            "size is fixed, and cannot be left open.",
            "Export it again with an open batch (torch.onnx.export(..., dynamic_axes={'INPUT': "
            "{0: 'N'}, ...})), or give a number as the batch size.",
        )
    return dims


def _infer_shape_from_samples(
    own: Optional[Sequence[Size]], samples: Optional[Sequence[int]]
) -> Optional[Tuple[int, ...]]:
    """Return the shape of an input with open sizes from its samples', whose first axis counts."""
    if samples is None or own is None or not any(isinstance(size, str) for size in own):
        return None
    return (1, *samples[1:]) if len(samples) == len(own) else tuple(samples[1:])


def look_at_run(
    predict: Callable[..., Any], drawn: Any, job: Job, what: str, names: Sequence[str]
) -> bool:
    """Run the first sample twice and tell whether the outputs differ.

    Raises `InputError` if the model does not run, or if an output is not a tensor of numbers.
    """
    first = [array[0] for array in drawn.input_arrays]
    try:
        outputs, again = predict(first), predict(first)
    except Exception as error:  # every framework raises its own types
        shapes = ", ".join(f"{t.name} {'x'.join(map(str, t.shape))}" for t in drawn.inputs)
        raise InputError(
            f"The {what} does not run on inputs of shape {shapes}: {str(error).splitlines()[0]}",
            "Check the shapes (the batch size first) and the types given by --input.",
        ) from error
    random = False
    for name, one, other in zip(names, outputs, again):
        if not isinstance(one, (np.ndarray, np.generic)) or one.dtype.kind not in "fiub":
            raise InputError(
                f"The {what}'s output '{name}' is not a tensor of numbers.",
                "Export the model without it: TensorFlow Lite has nothing like it.",
            )
        if not np.array_equal(one, other) and not np.isnan(one).any():
            random = True
            job.note(
                f"The {what}'s own output '{name}' differs between two runs on one input: it is "
                "random, and its conversion cannot be checked."
            )
    return random
