"""The stage `litert`: a toolchain's .tflite model as the runtime of today takes it.

What a toolchain of an earlier year had to spell out becomes one operator where LiteRT has one. It
is checked with LiteRT itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Sequence

from stages.frameworks.tflite_file import drop_unread, pack_model, read_model
from stages.frameworks.tflite_runtime import Runtime, check, find_indices
from stages.kit.contract import Job, Signature, Stage, StageError, Tensor, run_as_program
from stages.plain.grouped_convolutions import join_groups


def convert(job: Job) -> Signature:
    """Write the model for LiteRT and return its signature, whose nodes are tensors' numbers."""
    from ai_edge_litert import schema_py_generated as schema

    known = job.require_upstream_signature()
    content = job.input.read_bytes()
    model = read_model(content, schema)
    _refuse_flex(model)
    before = [list(map(int, side)) for side in _list_ends(model)]
    joined = join_groups(model, schema)
    if joined:
        drop_unread(model)
        content = pack_model(model)
        job.note(f"Grouped convolutions that are one operator now: {joined}.")
    else:
        job.note("LiteRT has nothing that would make it smaller: it is the toolchain's own model.")
    job.output.write_bytes(content)
    after = [list(map(int, side)) for side in _list_ends(model)]
    interpreter = Runtime().open(job.input)
    details = (interpreter.get_input_details(), interpreter.get_output_details())
    sides: List[Sequence[Tensor]] = [
        _number(tensors, *ends)
        for tensors, *ends in zip((known.inputs, known.outputs), details, before, after)
    ]
    return Signature(tuple(sides[0]), tuple(sides[1]))


def _refuse_flex(model: Any) -> None:
    """Raise `StageError` for a model that needs TensorFlow's own kernels."""
    codes = [code.customCode or b"" for code in model.operatorCodes]
    flex = sorted(code.decode(errors="replace") for code in codes if code.startswith(b"Flex"))
    if flex:
        raise StageError(
            f"The model needs the Flex delegate ({', '.join(flex)}), which LiteRT's Python package "
            "has not got.",
            "Convert it without --target.",
        )


def _list_ends(model: Any) -> Sequence[Any]:
    graph = model.subgraphs[0]
    return graph.inputs, graph.outputs


def _number(
    tensors: Sequence[Tensor], details: Any, before: Sequence[int], after: Sequence[int]
) -> List[Tensor]:
    """Return tensors with their numbers in the new file as nodes; -1 for one that was dropped."""
    nodes = [tensor.node for tensor in tensors]
    if all(node.lstrip("-").isdigit() for node in nodes):
        found = [int(node) for node in nodes]
    else:
        named = find_indices(details, tensors, may_be_dropped=True)
        found = [-1 if index is None else index for index in named]
    places = {**dict(zip(before, after)), -1: -1}
    return [replace(tensor, node=str(places[index])) for tensor, index in zip(tensors, found)]


STAGE = Stage(
    name="litert",
    summary=__doc__ or "",
    consumes="model.tflite",
    produces="model.litert.tflite",
    packages=("ai-edge-litert", "flatbuffers", "numpy"),
    convert=convert,
    check=check,
)

if __name__ == "__main__":
    run_as_program(STAGE)
