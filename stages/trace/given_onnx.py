"""The trace of the stage `onnx`: the given ONNX model's values against those of the fixed one."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from stages.convert import given_onnx
from stages.fixes.catalogue import select
from stages.fixes.onnx_file.apply import make_older, make_single_precision
from stages.frameworks import onnx_files
from stages.kit.contract import Job, Option, Signature, Stage, run_as_program, write_json
from stages.kit.pixels import PREPROCESSING, read_preprocessing
from stages.kit.trace_files import Kept
from stages.kit.trace_samples import open_trace_inputs
from stages.kit.tracing import Arrays, Comparison, Pair, compare_tensors, read_signature


def convert(job: Job) -> Signature:
    """Compare `model.onnx` with the given file, and write an index of the former's values."""
    import onnx

    from stages.trace.onnx_model import OnnxModel

    signature = read_signature(job)
    samples = open_trace_inputs(job, signature.inputs)
    inputs = [tensor.name for tensor in signature.inputs]
    given = OnnxModel(_load_given(job, signature), inputs)
    artifact = OnnxModel(onnx.load(str(job.volume / given_onnx.STAGE.produces)), inputs)
    shared = [name for name in given.order() if name in set(artifact.order())]
    source = given.plain(shared)
    prepare = read_preprocessing(job, signature.inputs).prepare
    kept = Kept.of(job.volume, artifact, samples)
    samples = [array[: kept.count] for array in samples]

    def reference(sample: int, values: Sequence[np.ndarray]) -> Arrays:
        return dict(zip(shared, source(prepare(values))))

    comparison = Comparison(
        artifact,
        [Pair(name, name) for name in shared],
        reference,
        lambda pair, piece: [],
        keep=kept.add,
        notes=list(kept.notes),
    )
    with job.phase("trace"):
        compare_tensors(job, samples, comparison)
    write_json(job.output, kept.index())
    return signature


def _load_given(job: Job, signature: Signature) -> Any:
    """Load the given file as the stage `onnx` did: in float32 and of an older operator set."""
    model = onnx_files.parse(job.input.name, job.input.read_bytes())
    fixes = [fix.name for fix in select(job.options["fixes"], "onnx")]
    make_single_precision(model, fixes, lambda text: None)
    onnx_files.set_input_shapes(model.graph, signature.inputs)
    make_older(job.input.name, model, fixes, lambda text: None)
    return model


STAGE = Stage(
    name="trace-onnx",
    summary=__doc__ or "",
    consumes=given_onnx.STAGE.consumes,
    produces="trace-onnx.json",
    packages=given_onnx.STAGE.packages,
    convert=convert,
    check=lambda job: None,
    options=(Option("fixes", str, "all", "the repairs that the stage applied"), PREPROCESSING),
)

if __name__ == "__main__":
    run_as_program(STAGE)
