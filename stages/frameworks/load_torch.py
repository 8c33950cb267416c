"""Loading `--model` in any PyTorch: TorchScript, an exported program, a pickled module, weights."""

from __future__ import annotations

import copy
import errno
import importlib
import importlib.util
import inspect
import platform
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from stages.frameworks.safetensors import is_safetensors, read_safetensors
from stages.kit.contract import InputError

# The keys under which training scripts keep the weights in a checkpoint.
_CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")

# Where a model that is a loaded program keeps that: under a name that no model of a user's has.
_PROGRAM = "_program_of_this_file"

# A larger file of code is not looked into.
_MOST_CODE = 1 << 24

# In bytes; what is left of 2 GiB is for the graph.
_MOST_WEIGHTS = (1 << 31) - (1 << 20)

Note = Callable[[str], None]


def load_model(path: Path, arch: str, arch_args: Mapping[str, Any], note: Note) -> Any:
    """Load a model in eval mode, on the CPU and in float32. Raises `InputError` if it cannot.

    `arch` is empty, `FILE.py`, `FILE.py:CALLABLE` or `MODULE:CALLABLE`; the callable, given the
    keyword arguments `arch_args`, builds the module that a state_dict belongs to.
    """
    import torch

    build = _import_architecture(arch)
    _refuse_integer_scripts(path)
    loaded = _load_file(path)
    if isinstance(loaded, torch.nn.Module):
        model = loaded
        if build is not None and not isinstance(loaded, torch.jit.ScriptModule):
            note("The file holds a whole model, so the callable of --arch was not called.")
    elif isinstance(loaded, Mapping):
        state = _find_state_dict(loaded, note)
        if isinstance(state, torch.nn.Module):
            model = state
        elif build is None:
            raise InputError(
                "The file holds a state_dict, weights without the model they belong to.",
                "Name what builds the model: --arch FILE.py:CALLABLE or "
                "--arch torchvision.models:mobilenet_v2 (and --arch-args as JSON).",
            )
        else:
            if any(getattr(value, "is_quantized", False) for value in state.values()):
                raise _make_integer_error()
            model = unwrap(_build(build, arch, arch_args))
            _load_weights(model, state, arch, note)
    else:
        raise InputError(
            f"The file holds a {type(loaded).__name__}, neither a model nor a state_dict.",
            "Save the model with torch.save(model, FILE) or torch.jit.save(traced, FILE).",
        )
    model = unwrap(model).eval()
    # Every quantised layer of PyTorch's keeps its weights in such a thing.
    if any(hasattr(module, "_packed_params") for module in model.modules()):
        raise _make_integer_error()
    _stop_observers(model, note)
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if kinds - {torch.float32}:
        names = ", ".join(sorted(str(kind) for kind in kinds))
        note(f"The model's weights are {names}; it is converted in float32.")
        model.float()
    return model


def _refuse_integer_scripts(path: Path) -> None:
    """Raise `InputError` for TorchScript that computes with PyTorch's own integers."""
    if not _is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            code = [entry for entry in archive.infolist() if entry.filename.endswith(".py")]
            if any(b"ops.quantized." in archive.read(e) for e in code if e.file_size < _MOST_CODE):
                raise _make_integer_error()
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError):
        pass  # loading it tells what is wrong


def _make_integer_error() -> InputError:
    return InputError(
        "The model was made into PyTorch's own integers (torch.quantization.convert or "
        "quantize_dynamic), which cannot be exported.",
        "Convert it as it was before: with its fake quantisation, --quantize int8 "
        "--trained-ranges makes int8 by the same ranges; of a float model, --quantize int8 "
        "--calibration FILE or --quantize dynamic makes a quantised one.",
    )


def is_trained_for_integers(model: Any) -> bool:
    """Tell whether a model has fake quantisers, which quantisation-aware training leaves."""
    return bool(_list_fake_quantizers(model))


def _list_fake_quantizers(model: Any) -> List[Any]:
    return [module for module in model.modules() if is_fake_quantizer(module)]


def is_fake_quantizer(module: Any) -> bool:
    """Tell whether a module is torch.quantization's FakeQuantize, of any release."""
    return hasattr(module, "fake_quant_enabled")


def _stop_observers(model: Any, note: Note) -> None:
    """Stop fake quantisation from moving its ranges, which it does in eval mode too."""
    fakes = _list_fake_quantizers(model)
    moving = [m for m in fakes if m.observer_enabled]
    for module in moving:
        module.disable_observer()
    if moving:
        note(
            f"{len(moving)} of the model's fake quantisers would observe what they see, and move "
            "their ranges: they keep those that they were trained to."
        )
    off = sum(not module.fake_quant_enabled for module in fakes)
    if off:
        note(f"Warning: {off} of the model's {len(fakes)} fake quantisers are switched off.")


def count_parameters(model: Any) -> int:
    return sum(int(parameter.numel()) for parameter in model.parameters())


def refuse_large(model: Any) -> None:
    """Raise `InputError` for weights that no artifact can hold.

    Protobuf (an ONNX file, a frozen graph) and FlatBuffers (a .tflite) end at 2 GiB; the exporter
    says so only after it has worked for minutes.
    """
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    size = sum(int(tensor.numel()) * tensor.element_size() for tensor in weights.values())
    if size >= _MOST_WEIGHTS:
        raise InputError(
            f"The model's weights are {size / 1e9:.1f} GB, and an ONNX file, a frozen graph or a "
            ".tflite holds 2 GB at the most.",
            "Convert it in parts, each a module of its own with less than 2 GB of weights.",
        )


def list_forward_names(model: Any) -> Sequence[str]:
    """Return the names of forward()'s positional parameters; [] if a script does not tell them."""
    import torch

    if isinstance(model, torch.jit.ScriptModule):
        try:
            return [argument.name for argument in model.forward.schema.arguments[1:]]
        except (AttributeError, RuntimeError):
            return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def count_required_inputs(model: Any) -> Optional[int]:
    """Count the inputs that forward() requires; None if that cannot be told."""
    import torch

    if isinstance(model, torch.jit.ScriptModule):
        return len(list_forward_names(model)) or None
    parameters = inspect.signature(model.forward).parameters.values()
    names = set(list_forward_names(model))
    return sum(p.name in names and p.default is inspect.Parameter.empty for p in parameters)


def _import_architecture(arch: str) -> Optional[Callable[..., Any]]:
    """Import what `--arch` names and return its callable, if it names one."""
    if not arch:
        return None
    source, _, attribute = arch.partition(":")
    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    if not attribute:
        return None
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise InputError(f"{source} has no '{attribute}'.", "Check the part after the colon.")
        target = getattr(target, part)
    if not callable(target):
        raise InputError(
            f"'{attribute}' in {source} is not callable.",
            "Name a class or a function that returns an nn.Module.",
        )
    return target  # type: ignore[no-any-return]


def _import_file(path: Path) -> Any:
    """Import a Python file under its own name, and copy its classes and functions to `__main__`.

    A model that a script has pickled refers to its classes in `__main__`.
    """
    spec = importlib.util.spec_from_file_location(path.stem, str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.append(str(path.parent))  # so that it can import the files beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code may raise anything
        raise InputError(
            f"{path.name} cannot be imported: {type(error).__name__}: {error}",
            f"It must run under Python {platform.python_version()} with the packages of this image "
            "alone.",
        ) from error
    main_module = sys.modules["__main__"]
    for name, value in vars(module).items():
        if (inspect.isclass(value) or inspect.isfunction(value)) and not hasattr(main_module, name):
            setattr(main_module, name, value)
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"--arch: the module '{name}' is not in this image: {error}",
            "Give the Python file itself: --arch FILE.py:CALLABLE.",
        ) from None


def _load_file(path: Path) -> Any:
    import torch

    if is_safetensors(path):
        return read_safetensors(path)
    if _is_program(path):
        return _load_program(path)
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as script_error:
        try:
            return _unpickle(path)
        except (AttributeError, ImportError) as error:
            raise InputError(
                f"The pickled model needs Python code that is not here: {error}",
                "Give the file that defines its classes: --arch FILE.py.",
            ) from error
        except MemoryError:
            raise
        except OSError as error:
            if error.errno in (errno.EFBIG, errno.ENOSPC):
                raise  # not the file's fault
            raise _make_load_error(path, script_error, error) from error
        except Exception as error:  # unpickling runs arbitrary code
            raise _make_load_error(path, script_error, error) from error


def _unpickle(path: Path) -> Any:
    import torch

    # From torch 2.6 it takes weights alone unless it is told otherwise. What a whole model may do
    # was settled before this program was started.
    known = inspect.signature(torch.load).parameters
    settings = {"weights_only": False} if "weights_only" in known else {}
    return torch.load(str(path), map_location="cpu", **settings)


def _is_program(path: Path) -> bool:
    """Tell whether a file is a program of torch.export."""
    if not _is_zip(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    return bool({"archive_format", "models/model.json"} & names)


def _load_program(path: Path) -> Any:
    """Load a program of torch.export as a module; its example inputs come along."""
    import torch

    try:
        program = torch.export.load(str(path))
    except Exception as error:  # a newer schema, an operator of another package
        raise InputError(
            f"PyTorch {torch.__version__} cannot load this program: {error}",
            "Export it with this release of PyTorch, or an older one.",
        ) from error
    model = program.module()
    # An exported program is fixed in the mode that it was exported in, and refuses both calls.
    model.eval = model.train = lambda *_: model
    setattr(model, _PROGRAM, program)
    return model


def get_program(model: Any) -> Optional[Any]:
    """Return the program of torch.export that a model was loaded from; None of any other model."""
    return getattr(model, _PROGRAM, None)


def _make_load_error(path: Path, script_error: Exception, error: Exception) -> InputError:
    import torch

    words = f"{script_error} / {error}" if _is_zip(path) else str(error)
    return InputError(
        f"PyTorch {torch.__version__} cannot load this file: {words}",
        "Save it again: torch.save(model, FILE, _use_new_zipfile_serialization=False).",
    )


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _find_state_dict(loaded: Mapping[str, Any], note: Note) -> Any:
    """Find the weights, or a whole module, in a dictionary: at the top or under a usual key."""
    import torch

    if all(isinstance(value, torch.Tensor) for value in loaded.values()):
        return loaded  # perhaps of a model without weights, and empty
    for key in _CHECKPOINT_KEYS:
        inner = loaded.get(key)
        if isinstance(inner, (Mapping, torch.nn.Module)) and inner is not loaded:
            note(f"The file is a checkpoint; its '{key}' is taken.")
            return inner if isinstance(inner, torch.nn.Module) else _find_state_dict(inner, note)
    if any(isinstance(value, torch.Tensor) for value in loaded.values()):
        return loaded  # a state_dict with extra state beside the tensors
    raise InputError(
        "The file holds a dictionary without weights. Its keys: "
        + ", ".join(str(key) for key in list(loaded)[:10]),
        "Save the model's state_dict(), or the model itself.",
    )


def _build(build: Callable[..., Any], arch: str, arch_args: Mapping[str, Any]) -> Any:
    import torch

    try:
        model = build(**arch_args)
    except Exception as error:  # user code may raise anything
        raise InputError(
            f"--arch {arch} raised {type(error).__name__}: {error}",
            "Pass what it needs as JSON: --arch-args '{\"num_classes\": 10}'.",
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"What --arch {arch} returns is not an nn.Module but of type {type(model).__name__}.",
            "Name a class or a function that returns an nn.Module.",
        )
    return model


# What training adds to a state_dict and inference does not read: of thop, of losses and metrics.
_BOOKKEEPING = re.compile(
    r"(^|\.)(total_ops|total_params|num_batches_tracked)$|^\w*(criterion|loss|metric)\w*\."
)


def _load_weights(model: Any, state: Mapping[str, Any], arch: str, note: Note) -> None:
    """Load weights, whatever they were wrapped in. Raises `InputError` if they do not fit."""
    import torch

    own = model.state_dict()
    prefix = _find_prefix(own, state)
    if prefix:
        note(f"Names of weights begin with '{prefix}', which is dropped.")
    # Some modules read an older version's weights in another way, by what stands here.
    versions = getattr(state, "_metadata", None) or {}
    kept: Any = OrderedDict()
    extra = []
    for key, value in state.items():
        name = key[len(prefix) :] if key.startswith(prefix) else key
        elsewhere = not key.startswith(prefix)
        is_weight = isinstance(value, torch.Tensor) and not _BOOKKEEPING.search(name)
        if name not in own and (elsewhere or not is_weight):
            extra.append(key)
        else:
            kept[name] = value
    kept._metadata = {
        name[len(prefix) :] if prefix and name.startswith(prefix) else name: value
        for name, value in versions.items()
        if name != prefix.rstrip(".")
    }
    if prefix.rstrip(".") in versions:
        kept._metadata[""] = versions[prefix.rstrip(".")]
    if extra:
        named = ", ".join(extra[:5]) + (" ..." if len(extra) > 5 else "")
        note(f"{len(extra)} entries of the file are no weights of the model: {named}.")
    try:
        model.load_state_dict(kept)
    except Exception as error:  # a module's own loading code may raise anything
        raise InputError(
            f"The weights do not fit --arch {arch}: {str(error) or type(error).__name__}",
            "Check the architecture and its --arch-args (the number of classes, the width).",
        ) from None


def _find_prefix(own: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Find what wrappers (DataParallel, Lightning) put before the names of weights, or ''."""
    if not own or any(name in state for name in own):
        return ""
    first = next(iter(own))
    found = [key[: -len(first)] for key in state if key.endswith("." + first)]
    return max(found, key=lambda prefix: sum(prefix + name in state for name in own), default="")


def unwrap(model: Any) -> Any:
    """Return a model without DataParallel, at the top or inside, which wants the GPUs it was on."""
    import torch

    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while isinstance(model, wrappers):
        model = model.module
    if not isinstance(model, torch.jit.ScriptModule):
        for name, child in list(model.named_children()):
            whole = unwrap(child)
            if whole is not child:
                setattr(model, name, whole)
    return model


def infer_inputs(model: Any) -> Tuple[Tuple[Tuple[int, ...], str], str]:
    """Infer the only input of a model from its first layer; return ((shape, dtype), why).

    A convolution gives the channels, and the rest of the network often accepts only one image size;
    a linear or recurrent layer gives its features. Raises `InputError` if no shape fits.
    """
    import torch

    required = count_required_inputs(model)
    if required is not None and required != 1:
        raise InputError(
            f"The model takes {required} inputs ({', '.join(list_forward_names(model))}); "
            "their shapes cannot be told from the file.",
            "Give one --input [NAME=]SHAPE[:DTYPE] an input, in this order.",
        )
    name, kind, weight = _find_first_layer(model)
    candidates, dtype = _list_candidate_shapes(kind, weight)
    fits = [shape for shape in candidates if _runs(torch, model, shape, dtype)]
    if not fits:
        raise InputError(
            f"The input's shape cannot be told from the first layer ({name or kind}).",
            "Give it: --input 1x3x224x224, or --input 1x16:int64.",
        )
    shape = fits[0]
    text = "x".join(str(size) for size in shape)
    why = f"Input inferred from the first layer, {name} ({kind}): {text}:{dtype}."
    if len(fits) > 1:
        why += " Other sizes fit as well; give --input for another one."
    return (shape, dtype), why


def read_example_inputs(model: Any) -> Tuple[List[Dict[str, Any]], str]:
    """Return the inputs that a program was exported with, as (specs, why); none of other models."""
    program = get_program(model)
    examples, named = (program.example_inputs if program is not None else None) or ((), {})
    if named or not examples:
        return [], ""
    names = list_forward_names(model)
    specs = [
        {
            "name": names[place] if place < len(names) else "",
            "shape": tuple(value.shape),
            "dtype": str(value.dtype).partition(".")[2],
        }
        for place, value in enumerate(examples)
    ]
    shown = ", ".join("x".join(map(str, spec["shape"])) for spec in specs)
    return specs, f"Input shapes as the program was exported with: {shown}."


def infer_inputs_from_arrays(model: Any, file: Path) -> Tuple[List[Dict[str, Any]], str]:
    """Infer the inputs from the user's own samples; return (specs, why).

    The first axis counts samples; the others are an input's shape, with or without the batch size.
    Running the model tells which of the two it is. Raises `InputError` if neither runs.
    """
    import torch

    loaded = np.load(file, mmap_mode="r", allow_pickle=False)
    arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    if not arrays:
        raise InputError(f"'{file.name}' holds no arrays.", "Save one array for each input.")
    names = list_forward_names(model)
    if set(arrays) <= set(names):
        arrays = {name: arrays[name] for name in names if name in arrays}
    # By the contract a second axis of size 1 is the batch size; otherwise there is none.
    whole = all(array.shape[1:2] == (1,) for array in arrays.values())
    for batch in ((), (1,)) if whole else ((1,), ()):
        values = []
        for array in arrays.values():
            value = np.array(array[0]).reshape(batch + array.shape[1:])
            values.append(value.astype(np.float32) if value.dtype == np.float64 else value)
        if values[0].ndim == 0:
            continue
        try:
            with torch.no_grad():
                model(*[torch.from_numpy(value) for value in values])
        except Exception:  # whatever fails, the arrays do not fit when read this way
            continue
        specs = [
            {"name": name, "shape": value.shape, "dtype": value.dtype.name}
            for name, value in zip(arrays, values)
        ]
        shapes = ", ".join("x".join(map(str, value.shape)) for value in values)
        return specs, f"Input shapes taken from the samples: {shapes}."
    raise InputError(
        "The model does not run on the samples of the inputs file.",
        "Give each input's shape with --input, the batch size first.",
    )


def _find_first_layer(model: Any) -> Tuple[str, str, Any]:
    """Return the name, class name and weight (or None) of the first layer with parameters."""
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own:
            kind = getattr(module, "original_name", type(module).__name__)
            weight = own.get("weight", own.get("weight_ih_l0"))
            return name, kind, weight
    raise InputError(
        "The model has no layer with weights to tell its input from.",
        "Give the input's shape: --input 1x3x224x224.",
    )


def _list_candidate_shapes(kind: str, weight: Any) -> Tuple[Sequence[Tuple[int, ...]], str]:
    if weight is None:
        return [], "float32"
    channels = int(weight.shape[1]) if weight.dim() > 1 else 0
    if kind == "Embedding":
        return [(1, 16)], "int64"
    if kind in ("LSTM", "GRU", "RNN"):
        return [(16, 1, channels)], "float32"
    if kind == "Linear":
        return [(1, channels)], "float32"
    if kind == "Conv2d":
        sizes = (224, 28, 32) if channels != 1 else (28, 32, 224)
        others = (64, 96, 128, 256, 299, 112, 48)
        return [(1, channels, size, size) for size in (*sizes, *others)], "float32"
    if kind == "Conv1d":
        return [(1, channels, size) for size in (128, 64, 256, 1000, 1024, 16000)], "float32"
    return [], "float32"


def _runs(torch: Any, model: Any, shape: Sequence[int], dtype: str) -> bool:
    value = torch.zeros(*shape, dtype=getattr(torch, dtype))
    try:
        with torch.no_grad():
            model(value)
    except Exception:  # whatever fails, the shape does not fit
        return False
    return True


def find_embedding_rows(model: Any, inputs: Sequence[Any]) -> List[Optional[int]]:
    """Find, for each input, the rows of the smallest embedding that it indexes; None without one.

    The model is run on these inputs, which hold small integers, and each lookup in an embedding is
    compared with them. What a script looks up is not seen: there the smallest of all stands in.
    """
    import torch

    found: List[Optional[int]] = [None] * len(inputs)
    lookup = torch.embedding

    def note_lookup(weight: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
        for place, tensor in enumerate(inputs):
            if tensor.numel() == indices.numel() and torch.equal(
                tensor.reshape(-1).long(), indices.reshape(-1).long()
            ):
                rows = found[place]
                found[place] = len(weight) if rows is None else min(rows, len(weight))
        return lookup(weight, indices, *args, **kwargs)

    torch.embedding = note_lookup
    try:
        with torch.no_grad():
            copy.deepcopy(model)(*inputs)
    except Exception:  # what is wrong with the model is told where it is run
        pass
    finally:
        torch.embedding = lookup
    return found if any(found) else [count_embedding_rows(model)] * len(inputs)


def count_embedding_rows(model: Any) -> Optional[int]:
    """Return the rows of the smallest embedding, None without one: lower integers suit all."""
    import torch

    rows = [
        int(module.weight.shape[0])
        for module in model.modules()
        if getattr(module, "original_name", type(module).__name__) == "Embedding"
        or isinstance(module, torch.nn.Embedding)
    ]
    return min(rows) if rows else None
