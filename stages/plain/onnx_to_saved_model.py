"""The stage `onnx-tf`: an ONNX model to a SavedModel, by onnx-tensorflow 1.8 and later."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from stages.frameworks.onnx_tf import draw_same_names
from stages.frameworks.saved_model import pack, unpack
from stages.frameworks.tensorflow import import_tensorflow
from stages.kit.contract import Job, Signature, Stage, StageError, run_as_program
from stages.kit.matching import strip_tensor_name
from stages.kit.samples import Predict, compare, open_samples


def convert(job: Job) -> Signature:
    """Write the SavedModel's archive and return its signature."""
    _import_for_one_thread()
    import onnx
    import onnx_tf.backend
    import onnx_tf.common

    signature = job.require_upstream_signature()
    model = onnx.load(str(job.input))
    draw_same_names(onnx_tf.common)
    with TemporaryDirectory() as name:
        folder = Path(name) / "saved_model"
        try:
            representation = onnx_tf.backend.prepare(model, logging_level="ERROR")
            representation.export_graph(str(folder))
        except Exception as error:  # onnx-tf and TensorFlow raise anything
            raise StageError(
                f"onnx-tf {_read_version()} cannot convert the model: "
                f"{type(error).__name__}: {error}"
            ) from error
        _sort_maps(folder / "saved_model.pb")
        job.report["operators"] = _count_operators(folder)
        pack(folder, job.output)
    return signature


def _import_for_one_thread() -> Any:
    """Import TensorFlow for samples that each have a core of their own."""
    tf = import_tensorflow()
    if not tf.config.threading.get_intra_op_parallelism_threads():  # it cannot be set twice
        tf.config.threading.set_intra_op_parallelism_threads(1)
    return tf


def _read_version() -> str:
    import onnx_tf

    return str(getattr(onnx_tf, "__version__", "") or "")


def _sort_maps(path: Path) -> None:
    """Write maps of a SavedModel in the order of their keys, which protobuf leaves open."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    path.write_bytes(model.SerializeToString(deterministic=True))


def _count_operators(folder: Path) -> Dict[str, int]:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0].graph_def
    # The model lies in the largest function; the others are copies or wrap it.
    functions = [function.node_def for function in graph.library.function] or [graph.node]
    return dict(Counter(node.op for node in max(functions, key=len)))


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the SavedModel on every sample and compare its outputs; None without samples."""
    samples = open_samples(job.volume)
    if samples is None:
        job.note("The volume holds no samples, so the SavedModel was not checked.")
        return None
    tf = _import_for_one_thread()
    assert job.signature is not None
    with unpack(job.artifact) as folder:
        loaded = tf.saved_model.load(str(folder))
        predict = _make_predict(tf, loaded, job.signature)
        return compare(job, samples, f"TensorFlow {tf.__version__}", lambda: predict)


def _make_predict(tf: Any, loaded: Any, signature: Signature) -> Predict:
    run = loaded.signatures["serving_default"]
    inputs = _match_names(list(run.structured_input_signature[1]), signature.inputs)
    outputs = _match_names(list(run.structured_outputs), signature.outputs)

    def predict(values: Sequence[np.ndarray]) -> List[np.ndarray]:
        feed = {n: tf.constant(value) for n, value in zip(inputs, values) if n is not None}
        found = run(**feed)
        return [found[name].numpy() for name in outputs]

    return predict


def _match_names(found: Sequence[str], tensors: Sequence[Any]) -> List[Optional[str]]:
    """Return the SavedModel's name of each tensor: TensorFlow changes some characters.

    Outputs of onnx-tf 1.8 are only numbered: output_0 is the first one.
    """
    plain = {_simplify(name): name for name in found}
    numbered = {f"output_{place}" for place in range(len(tensors))}
    if set(found) == numbered:
        return [f"output_{place}" for place in range(len(tensors))]
    return [plain.get(_simplify(tensor.name)) for tensor in tensors]


def _simplify(name: str) -> str:
    kept = [c if c.isalnum() else "_" for c in strip_tensor_name(name)]
    return "".join(kept).strip("_").lower()


STAGE = Stage(
    name="onnx-tf",
    summary=__doc__ or "",
    consumes="model.onnx",
    produces="saved_model.zip",
    packages=("onnx-tf", "tensorflow", "onnx", "numpy"),
    convert=convert,
    check=check,
    imports=("tensorflow", "onnx", "onnx_tf.backend"),
)

if __name__ == "__main__":
    run_as_program(STAGE)
