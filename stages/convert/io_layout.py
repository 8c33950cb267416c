"""The option `io_layout`: whether the converted model takes images in PyTorch's NCHW or in NHWC."""

from __future__ import annotations

from typing import Sequence

from stages.kit.contract import InputError, Job, Option, Signature

IO_LAYOUT = Option(
    "io_layout", str, "nchw", "nchw: images as in PyTorch; nhwc: channels last, with no transpose"
)
# The fixes, one per stage, that move the inside of a graph to channels last.
_LAYOUT_FIXES = ("layout", "graph-layout")


def wants_channels_last_io(job: Job, fixes: Sequence[str]) -> bool:
    """Tell whether NHWC images are requested. Raises `InputError` if the fixes rule them out."""
    layout = job.options["io_layout"].lower()
    if layout not in ("nchw", "nhwc"):
        raise InputError(f"There is no layout '{layout}'.", "The layouts are nchw and nhwc.")
    if layout == "nhwc" and not set(fixes) & set(_LAYOUT_FIXES):
        raise InputError(
            "NHWC inputs and outputs need the fix 'layout': the tools of 2020 have NCHW alone.",
            "Leave out --faithful and allow the fix, or leave out --io-layout nhwc.",
        )
    return layout == "nhwc"


def note_layout(job: Job, signature: Signature) -> None:
    """Note which inputs and outputs are channels last, or that `nhwc` found none to change."""
    turned = [tensor for tensor in (*signature.inputs, *signature.outputs) if tensor.axes]
    for tensor in turned:
        job.note(f"'{tensor.name}' has its channels last: {'x'.join(map(str, tensor.own_shape))}.")
    if job.options["io_layout"].lower() == "nhwc" and not turned:
        job.note("No input and no output is an image, so --io-layout nhwc changes nothing.")
