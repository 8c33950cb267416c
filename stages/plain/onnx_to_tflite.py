"""The stage `onnx2tf`: an ONNX model to TensorFlow Lite, by onnx2tf, in float32."""

from __future__ import annotations

import inspect
import io
import os
import shutil
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterator, Sequence

import numpy as np

from stages.frameworks.tflite_runtime import check, locate_tensors
from stages.kit.contract import (
    InputError,
    Job,
    Option,
    Signature,
    Stage,
    StageError,
    run_as_program,
)

# What onnx2tf 1.x downloads, even for float32, unless a file of this name is in its folder. Only
# quantisation reads it.
_CALIBRATION = "calibration_image_sample_data_20x128x128x3_float32.npy"
_LAYOUTS = ("nchw", "nhwc")


def convert(job: Job) -> Signature:
    """Write the .tflite file and return its signature."""
    known = job.require_upstream_signature()
    if job.options["io_layout"] not in _LAYOUTS:
        raise InputError(f"--io-layout is one of {', '.join(_LAYOUTS)}.")
    with TemporaryDirectory() as name:
        nchw = job.options["io_layout"] == "nchw"
        folder = run_onnx2tf(
            job, Path(name), [tensor.name for tensor in known.inputs] if nchw else []
        )
        found = sorted(folder.glob("*float32.tflite"))
        if not found:
            raise StageError("onnx2tf wrote no float32 model.", "Its log says why.")
        shutil.copyfile(str(found[0]), str(job.output))
    return locate_tensors(job, job.output, known)


def run_onnx2tf(job: Job, place: Path, as_in_pytorch: Sequence[str]) -> Path:
    """Run onnx2tf on the job's input, in this folder, and return the folder of what it wrote.

    That is a SavedModel, and float .tflite files. The inputs of these names keep channels first.
    Raises `StageError` if it fails.
    """
    shapes = {tensor.name: tensor.shape for tensor in job.require_upstream_signature().inputs}
    # It writes over the file that it reads.
    shutil.copyfile(str(job.input), str(place / "model.onnx"))
    np.save(place / _CALIBRATION, np.zeros((20, 128, 128, 3), np.float32))
    kept = [name for name in as_in_pytorch if 3 <= len(shapes[name]) <= 5]
    settings = {"keep_ncw_or_nchw_or_ncdhw_input_names": kept} if kept else {}
    with _working_in(place):
        _run(settings)
    return place / "out"


def _run(settings: Dict[str, Any]) -> None:
    # Progress bars; and it starts `onnxsim` by name, going on without a word if there is none.
    os.environ["TQDM_DISABLE"] = "1"
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import onnx2tf

    if "output_signaturedefs" in _list_parameters(onnx2tf):
        settings["output_signaturedefs"] = True
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            onnx2tf.convert(
                input_onnx_file_path="model.onnx",
                output_folder_path="out",
                verbosity="error",
                non_verbose=True,
                **settings,
            )
    except SystemExit as end:  # its way to end after an error that it has printed
        lines = [line for line in said.getvalue().split("\n") if line.strip()]
        raise StageError(
            f"onnx2tf cannot convert the model: {' '.join(lines[-4:])[-600:]}"
        ) from end
    finally:
        print(said.getvalue(), flush=True)


def _list_parameters(module: Any) -> Any:
    known = inspect.signature(module.convert).parameters
    if "kwargs" in known:  # 2.x wraps the function
        from onnx2tf.onnx2tf import convert as real

        known = inspect.signature(real).parameters
    return known


@contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(str(folder))
    try:
        yield
    finally:
        os.chdir(before)


STAGE = Stage(
    name="onnx2tf",
    summary=__doc__ or "",
    consumes="model.onnx",
    produces="model.tflite",
    packages=("onnx2tf", "onnx", "tensorflow", "ai-edge-litert", "numpy"),
    convert=convert,
    check=check,
    imports=("onnx", "tensorflow"),
    options=(Option("io_layout", str, "nchw", "nchw: images as in PyTorch; nhwc: channels last"),),
)

if __name__ == "__main__":
    run_as_program(STAGE)
