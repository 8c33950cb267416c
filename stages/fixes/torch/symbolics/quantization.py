"""Symbolic functions of fake quantisation, which trains a network for integers."""

from __future__ import annotations

from typing import Any, Dict

import torch

from stages.fixes.torch.symbolics.core import Symbolic, make_constant, read_number


def fake_quantize(g: Any, x: Any, scale: Any, zero: Any, low: Any, high: Any) -> Any:
    """Export as QuantizeLinear and DequantizeLinear, after a Clip if not all of a byte is used.

    None for more than 8 bits, and where the range is known only at run time.
    """
    numbers = [read_number(value, None) for value in (scale, zero, low, high)]
    if None in numbers:
        return None
    step, shift, least, most = numbers
    kind = torch.int8 if least < 0 else torch.uint8
    limits = torch.iinfo(kind)
    if least < limits.min or most > limits.max or not limits.min <= shift <= limits.max:
        return None
    if (least, most) != (limits.min, limits.max):
        ends = [make_constant(g, (end - shift) * step, torch.float32) for end in (least, most)]
        x = g.op("Clip", x, *ends)
    parameters = [make_constant(g, step, torch.float32), make_constant(g, int(shift), kind)]
    return g.op("DequantizeLinear", g.op("QuantizeLinear", x, *parameters), *parameters)


SYMBOLICS: Dict[str, Symbolic] = {"fake_quantize_per_tensor_affine": fake_quantize}
