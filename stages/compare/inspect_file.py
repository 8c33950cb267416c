"""The stage `inspect`: load a file in its own framework and say what came of it.

That the framework refuses the file is an answer too, and no failure of the stage.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from stages.compare.opened import Opened, OpenEnd, open_model
from stages.kit.contract import (
    Job,
    Option,
    Signature,
    Stage,
    StageError,
    Tensor,
    run_as_program,
    write_json,
)


def convert(job: Job) -> Signature:
    """Write the artifact: what the framework says of the file, or why it refuses it."""
    kind = job.options["kind"]
    described: Dict[str, Any] = {"framework": _FRAMEWORKS.get(kind, kind), "ok": False}
    try:
        opened = open_model(job, job.input, kind)
        if kind == "tflite":
            _allocate(opened)
    except StageError as error:
        described.update(message=str(error), remedy=error.remedy)
    else:
        described.update(
            framework=opened.framework,
            ok=True,
            inputs=[_describe_end(given) for given in opened.inputs],
            outputs=None if opened.outputs is None else [_describe_end(e) for e in opened.outputs],
            parameters=opened.parameters,
            facts=opened.facts,
        )
        job.report["operators"] = opened.operators
        job.report["parameters"] = opened.parameters
    write_json(job.output, described)
    return Signature((), ())


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Return None: there is nothing to compare."""
    return None


def _allocate(opened: Opened) -> None:
    """Allocate tensors, which makes the interpreter check each operator. Raises `InputError`."""
    shapes: List[Tensor] = []
    for given in opened.inputs:
        sizes = [1 if isinstance(size, str) else int(size) for size in given.shape or ()]
        shapes.append(Tensor(given.name, tuple(sizes), given.dtype or "float32"))
    opened.prepare(shapes)()


def _describe_end(given: OpenEnd) -> Dict[str, Any]:
    shape = None if given.shape is None else list(given.shape)
    return {"name": given.name, "shape": shape, "dtype": given.dtype or "?"}


_FRAMEWORKS = {
    "torch": "PyTorch",
    "onnx": "ONNX Runtime",
    "graph": "TensorFlow",
    "tflite": "TensorFlow Lite",
}

STAGE = Stage(
    name="inspect",
    summary=__doc__ or "",
    consumes="model.onnx",
    produces="inspection.json",
    packages=("torch", "torchvision", "onnx", "onnxruntime", "tensorflow", "numpy"),
    convert=convert,
    check=check,
    options=(
        Option("kind", str, "", "what the file is: torch, onnx, graph or tflite"),
        Option("arch", str, "", "what builds the model of a state_dict: FILE.py:CALLABLE"),
        Option("arch_args", str, "", "keyword arguments for it, as JSON"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
