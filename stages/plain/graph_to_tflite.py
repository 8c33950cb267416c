"""The stage `tflite`: a frozen graph to TensorFlow Lite by the v1 converter, TOCO included."""

from __future__ import annotations

import os
import sys
from typing import Any

from stages.frameworks.tensorflow import FLEX, import_tensorflow, strip_output_index
from stages.frameworks.tflite_runtime import check, locate_tensors
from stages.kit.contract import Job, Signature, Stage, run_as_program
from stages.plain.saved_model_to_tflite import convert_with_flex


def convert(job: Job) -> Signature:
    """Write the .tflite file and return its signature."""
    # TensorFlow 1.15 starts its converter, `toco_from_protos`, by name.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
    tf = import_tensorflow()
    known = job.require_upstream_signature()

    def run(*operators: Any) -> bytes:
        converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
            str(job.input),
            [strip_output_index(tensor.node) for tensor in known.inputs],
            [strip_output_index(tensor.node) for tensor in known.outputs],
            {strip_output_index(t.node): list(t.own_shape) for t in known.inputs},
        )
        if operators:
            converter.target_spec.supported_ops = list(operators)
        return converter.convert()  # type: ignore[no-any-return]

    sets = tf.lite.OpsSet
    content = convert_with_flex(job, run, [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS])
    job.output.write_bytes(content)
    return locate_tensors(job, job.output, known)


STAGE = Stage(
    name="tflite",
    summary=__doc__ or "",
    consumes="model.pb",
    produces="model.tflite",
    packages=("tensorflow", "numpy"),
    convert=convert,
    check=check,
    imports=("tensorflow",),
    options=(FLEX,),
)

if __name__ == "__main__":
    run_as_program(STAGE)
