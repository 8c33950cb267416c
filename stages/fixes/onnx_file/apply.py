"""The entry point of the fixes of ONNX files."""

from __future__ import annotations

from typing import Any, Callable, Iterable, List

from stages.fixes.onnx_file import older_opset
from stages.fixes.onnx_file.single_precision import make_single
from stages.kit.contract import InputError

Note = Callable[[str], None]


def make_single_precision(model: Any, fixes: Iterable[str], note: Note) -> List[str]:
    """Turn every float into float32 if the fix is chosen; return its name if it changed any."""
    found = make_single(model) if "single-precision" in fixes else []
    if not found:
        return []
    note(
        f"The model computes in {' and '.join(found)}; it is converted in float32, and the "
        "reference is that model in float32, too."
    )
    return ["single-precision"]


def make_older(name: str, model: Any, fixes: Iterable[str], note: Note) -> List[str]:
    """Rewrite a model of a newer operator set if the fix is chosen; return its name if it was.

    Raises `InputError` about the first node that is newer and has no rule, and without the fix.
    """
    version = older_opset.get_opset(model)
    target, newest = older_opset.TARGET, older_opset.NEWEST
    if version <= target:
        return []
    limit = f"onnx 1.7.0, and ONNX Runtime 1.4 and onnx-tf 1.6 with it, read up to {target}"
    if "older-opset" not in fixes:
        raise InputError(
            f"'{name}' is of ONNX operator set {version}; {limit}.",
            "The fix 'older-opset' rewrites it: do not leave it out.",
        )
    if version > newest:
        raise InputError(
            f"'{name}' is of ONNX operator set {version}; {limit}, and newer files are rewritten "
            f"up to {newest}.",
            "Export it again for an older one: torch.onnx.export(..., opset_version=18).",
        )
    rewritten = older_opset.lower(model)
    changed = ", ".join(f"{count} {kind}" for kind, count in sorted(rewritten.items()))
    note(
        f"The file is of operator set {version}; it was rewritten for {target}, and the reference "
        f"is what came of it ({changed or 'no operator had to be changed'})."
    )
    return ["older-opset"]
