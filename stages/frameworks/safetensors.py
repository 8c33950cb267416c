"""Reading weights in the safetensors format, which needs no package.

The format: 8 bytes, the length of a JSON object; the object, which gives each tensor's type, shape
and place; then the tensors' bytes. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import numpy as np

from stages.kit.contract import InputError

_MOST_HEADER = 100 << 20
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def is_safetensors(path: Path) -> bool:
    """Tell whether a file begins like one in this format."""
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length <= min(_MOST_HEADER, path.stat().st_size - 8)


def read_safetensors(path: Path) -> Dict[str, Any]:
    """Read all tensors of a file, by name. Raises `InputError` if it is damaged."""
    content = np.memmap(path, mode="r", dtype=np.uint8)
    length = int.from_bytes(content[:8].tobytes(), "little")
    try:
        header = json.loads(content[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        return {name: _read(content[8 + length :], entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"The safetensors file is damaged: {error}", "Copy or download it again."
        ) from None


def _read(data: Any, entry: Dict[str, Any]) -> Any:
    import torch

    start, end = entry["data_offsets"]
    raw = data[start:end].tobytes()
    if entry["dtype"] == "BF16":  # the upper half of a float32
        wide = np.frombuffer(raw, "<u2").astype("<u4") << 16
        return torch.from_numpy(wide.view("<f4").reshape(entry["shape"]))
    array = np.frombuffer(raw, _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return torch.from_numpy(array.copy())
