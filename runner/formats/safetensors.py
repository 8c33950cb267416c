"""Weights in the safetensors format: 8 bytes of length, a JSON header, the tensors' bytes.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
from collections import Counter
from typing import Any

from runner.formats.facts import FileFacts
from runner.schemas.inspection import Obstacle

# What the format itself allows.
_MOST_HEADER = 100_000_000
_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"},
}
_MOST_SHOWN = 6


def begins_like_safetensors(head: bytes, size: int) -> bool:
    """Tell whether the first bytes are a length that fits the file, and the begin of a header."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= min(_MOST_HEADER, size - 8)


def read(data: mmap.mmap, found: FileFacts) -> None:
    """Fill in `found` from a file's header."""
    found.format, found.what, found.container = "state-dict", "state_dict", "safetensors"
    found.details["container"] = "safetensors"
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        tensors = {str(name): _describe(entry) for name, entry in header.items()}
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        found.damaged = True
        return
    found.damaged = max(ends, default=0) > len(data) - 8 - length
    types: Counter[str] = Counter()
    for dtype, shape in tensors.values():
        types[dtype] += math.prod(shape)
    found.parameters, found.parameter_types = sum(types.values()), dict(types.most_common())
    found.details["tensors"] = str(len(tensors))
    for name, (dtype, shape) in list(tensors.items())[:_MOST_SHOWN]:
        found.details[f"tensor {name[:80]}"] = f"{'x'.join(map(str, shape)) or 'scalar'} {dtype}"
    unknown = sorted({dtype for dtype, _ in tensors.values() if dtype not in _DTYPES.values()})
    if unknown:
        found.problems.append(
            Obstacle(
                reason=f"It holds tensors of {', '.join(unknown)}, which are not read here.",
                remedy="Save the weights in float32.",
                runs=False,
                refused=True,
            )
        )


def _describe(entry: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    sizes = tuple(int(size) for size in entry["shape"])
    return _DTYPES.get(entry["dtype"], str(entry["dtype"])[:20]), sizes
