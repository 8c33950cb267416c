"""The list of architectures, and how one becomes a model. Runs in the torch environment."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn


class Input(NamedTuple):
    """An example input; whole numbers are drawn from zero to below `below`, others normally."""

    shape: Tuple[int, ...]
    dtype: str = "float32"
    below: int = 0


class Architecture(NamedTuple):
    """A published architecture, and this package's own code for it."""

    name: str
    field: str
    year: int
    paper: str
    make: Callable[[], nn.Module]
    inputs: Tuple[Input, ...]


ARCHITECTURES: Dict[str, Architecture] = {}


def image(size: int = 32, channels: int = 3) -> Input:
    """Return an input of one square image."""
    return Input((1, channels, size, size))


def numbers(*shape: int) -> Input:
    """Return an input of normal numbers."""
    return Input(shape)


def indices(*shape: int, below: int) -> Input:
    """Return an input of whole numbers below a bound."""
    return Input(shape, "int64", below)


def field(title: str) -> Callable[..., Callable[[Any], Any]]:
    """Return a decorator for the modules of a field."""

    def architecture(name: str, year: int, paper: str, *inputs: Input) -> Callable[[Any], Any]:
        def register(make: Any) -> Any:
            if name in ARCHITECTURES:
                raise ValueError("two architectures are named " + name)
            ARCHITECTURES[name] = Architecture(name, title, year, paper, make, inputs)
            return make

        return register

    return architecture


def enliven(module: nn.Module) -> None:
    """Initialise a net without norms so that its values do not fade from layer to layer."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)


def draw(inputs: Sequence[Input], seed: int, batch: int = 1) -> List[torch.Tensor]:
    """Draw inputs, their first axis `batch` times as long."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for given in inputs:
        shape = (given.shape[0] * batch, *given.shape[1:])
        if given.below:
            drawn.append(torch.randint(0, given.below, shape, generator=generator))
        else:
            drawn.append(torch.randn(shape, generator=generator))
    return drawn


def build(name: str) -> nn.Module:
    """Make a module in eval mode, its BatchNorm calibrated.

    With fresh statistics the values of a deep net fade until any output would pass.
    """
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    module = architecture.make().eval()
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    with torch.no_grad():
        for seed in range(4 if norms else 0):
            # BatchNorm of one value a channel wants more than one sample.
            module(*draw(architecture.inputs, seed, batch=2))
    for norm in norms:
        norm.momentum = 0.1
    return module.eval()


def script(module: nn.Module) -> Tuple[Optional[torch.jit.ScriptModule], str]:
    """Script a module; where torch refuses, None and its reason."""
    try:
        return torch.jit.script(module), ""
    except Exception as error:  # its compiler raises many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # A call that does not fit is told by the signature, and the reason after it.
        reasons = [line for line in lines if "->" not in line] or lines
        return None, reasons[0] if reasons else type(error).__name__
