"""Models of any format, ready to run: how `compare` and `inspect` see every framework."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from stages.kit.contract import InputError, Job, Tensor
from stages.kit.samples import Predict

# A size that the model leaves open is given by name, or as '?'.
Size = Union[int, str]
# Makes what runs the model; called once per thread.
MakePredict = Callable[[], Predict]

KINDS = ("torch", "onnx", "graph", "tflite")


@dataclass(frozen=True)
class OpenEnd:
    """An input or output as the model declares it.

    `shape` and `dtype` are None where the model does not declare them. `low` and `high` bound
    generated values, as in `Tensor`.
    """

    name: str
    shape: Optional[Sequence[Size]]
    dtype: Optional[str]
    low: Optional[float] = None
    high: Optional[float] = None


@dataclass(frozen=True)
class Opened:
    """A model that a framework has loaded.

    `prepare` takes the inputs with fixed shapes. `runs` tells whether the model accepts inputs of
    given shapes, for formats that do not declare any. `outputs` are in the order in which the model
    returns them; None where only a run shows how many there are. `measure_noise_floor`, if there is
    one, returns the reference samples with the framework's own rounding.
    """

    framework: str
    inputs: Sequence[OpenEnd]
    prepare: Callable[[Sequence[Tensor]], MakePredict]
    outputs: Optional[Sequence[OpenEnd]] = None
    runs: Optional[Callable[[Sequence[Tensor]], bool]] = None
    infer: Optional[Callable[[Job], List[Tensor]]] = None
    measure_noise_floor: Optional[Callable[[Any, int], Any]] = None
    operators: Dict[str, int] = field(default_factory=dict)
    parameters: Optional[int] = None
    facts: Dict[str, str] = field(default_factory=dict)


def open_model(job: Job, file: Any, kind: str) -> Opened:
    """Load a file of one of `KINDS` in its framework. Raises `InputError` if it is refused."""
    if kind not in KINDS:
        raise InputError(f"There is no kind of file '{kind}'.", f"Kinds: {', '.join(KINDS)}.")
    module = importlib.import_module(f"stages.compare.open_{kind}")
    opened: Opened = module.open_file(job, file)
    return opened


def list_output_names(opened: Opened, count: int) -> List[str]:
    """Return the names of a model's outputs, of which there are `count`."""
    if opened.outputs is not None:
        return [end.name for end in opened.outputs]
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
