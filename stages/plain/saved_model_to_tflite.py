"""The stage `tflite`: a SavedModel to TensorFlow Lite, by the converter of TensorFlow 2."""

from __future__ import annotations

import re
from typing import Any, List

from stages.frameworks.saved_model import unpack
from stages.frameworks.tensorflow import FLEX, import_tensorflow
from stages.frameworks.tflite_runtime import check, locate_tensors
from stages.kit.contract import (
    Job,
    Signature,
    Stage,
    StageError,
    run_as_program,
)


def convert(job: Job) -> Signature:
    """Write the .tflite file and return its signature."""
    tf = import_tensorflow()
    known = job.require_upstream_signature()
    with unpack(job.input) as folder:

        def run(*operators: Any) -> bytes:
            converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
            if operators:
                converter.target_spec.supported_ops = list(operators)
            return converter.convert()  # type: ignore[no-any-return]

        sets = tf.lite.OpsSet
        job.output.write_bytes(
            convert_with_flex(job, run, [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS])
        )
    return locate_tensors(job, job.output, known)


def convert_with_flex(job: Job, run: Any, flex: List[Any]) -> bytes:
    """Convert to builtins, or else, if the option `flex` allows it, to TensorFlow's own kernels.

    Raises `StageError` naming the operators for which there is neither.
    """
    try:
        return run()  # type: ignore[no-any-return]
    except Exception as error:  # the converter raises ConverterError and plain Exception
        wanted = any(
            word in str(error)
            for word in ("flex op", "custom op", "Select TF ops", "SELECT_TF_OPS")
        )
        if not job.options["flex"] or not wanted:
            raise _name_operators(error) from error
    try:
        content = run(*flex)
    except Exception as error:
        raise _name_operators(error) from error
    job.note(
        "Some operators have no TensorFlow Lite builtin: the model needs the Flex delegate "
        "(SELECT_TF_OPS)."
    )
    return content  # type: ignore[no-any-return]


def _name_operators(error: Exception) -> Exception:
    """Return the converter's error in short where it lists operators (TOCO prints a page)."""
    found = re.search(r"you will need custom implementations: ([^.\n]+)\.", str(error))
    if found is None:
        return error
    return StageError(
        f"TensorFlow Lite has no operator for what the graph holds: {found[1]}.",
        "Take another --toolchain: later releases of onnx-tf write other operators.",
    )


STAGE = Stage(
    name="tflite",
    summary=__doc__ or "",
    consumes="saved_model.zip",
    produces="model.tflite",
    packages=("tensorflow", "numpy"),
    convert=convert,
    check=check,
    imports=("tensorflow",),
    options=(FLEX,),
)

if __name__ == "__main__":
    run_as_program(STAGE)
