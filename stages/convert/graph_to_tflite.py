"""The stage `tflite`: a frozen graph to TensorFlow Lite, by TensorFlow's v1 converter."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from stages.convert.flex import sort_attributes
from stages.convert.signature_def import SIGNATURE, add_signature
from stages.fixes.tflite.apply import explain
from stages.frameworks.tensorflow import (
    FLEX,
    find_tensors,
    import_tensorflow,
    list_placeholders,
    list_sinks,
    load_graph,
    strip_output_index,
)
from stages.frameworks.tflite_runtime import find_indices, make_resizer
from stages.kit.contract import (
    InputError,
    Job,
    Option,
    Signature,
    Stage,
    StageError,
    Tensor,
    run_as_program,
)
from stages.kit.samples import Predict, compare, open_samples


def convert(job: Job) -> Signature:
    """Write the .tflite file and return the signature of the graph that it was made from."""
    tf = import_tensorflow()
    signature = job.find_upstream_signature() or _guess_signature(job)
    try:
        content = _convert(tf, job, signature, flex=False)
    except Exception as error:  # the converter raises ConverterError and plain Exception
        if not job.options["flex"] or not _wants_flex(str(error)):
            raise _explain_error(tf, job, error) from None
        try:
            content = _convert(tf, job, signature, flex=True)
        except Exception as flex_error:
            raise _explain_error(tf, job, flex_error) from None
        job.note(
            "Some operators have no TensorFlow Lite builtin: the model needs the Flex delegate "
            "(SELECT_TF_OPS)."
        )
        content = sort_attributes(content)
    if job.options["signature"]:
        content = _name_ends(tf, content, signature)
    job.output.write_bytes(content)
    return signature


def _name_ends(tf: Any, content: bytes, signature: Signature) -> bytes:
    """Return the model with a SignatureDef of the names that the signature gives its tensors."""
    interpreter = tf.lite.Interpreter(model_content=content)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    places = (
        find_indices(inputs, signature.inputs, may_be_dropped=True),
        find_indices(outputs, signature.outputs),
    )
    return add_signature(
        content,
        *(
            [(tensor, index) for tensor, index in zip(tensors, found) if index is not None]
            for tensors, found in zip((signature.inputs, signature.outputs), places)
        ),
    )


def check(job: Job) -> Optional[Dict[str, Any]]:
    """Run the interpreter on every sample and compare its outputs; None without samples."""
    tf = import_tensorflow()

    def new_interpreter() -> Any:
        return tf.lite.Interpreter(model_path=str(job.artifact), num_threads=1)

    operators = Counter(op["op_name"] for op in new_interpreter()._get_ops_details())
    job.report["operators"] = dict(operators)
    flex = sorted(name for name in operators if name.startswith("Flex"))
    if flex:
        job.note("Operators that need the Flex delegate: " + ", ".join(flex))
    samples = open_samples(job.volume)
    if samples is None:
        job.note("The volume holds no samples, so the model was not checked.")
        return None
    assert job.signature is not None
    signature = job.signature

    def make_predict() -> Predict:
        interpreter = new_interpreter()
        interpreter.allocate_tensors()
        inputs = find_indices(
            interpreter.get_input_details(), signature.inputs, may_be_dropped=True
        )
        outputs = find_indices(interpreter.get_output_details(), signature.outputs)
        resize = make_resizer(interpreter, inputs, signature.inputs)

        def predict(values: Sequence[np.ndarray]) -> List[np.ndarray]:
            resize(values)
            for index, value in zip(inputs, values):
                if index is not None:
                    interpreter.set_tensor(index, value)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in outputs]

        return predict

    return compare(job, samples, f"TensorFlow Lite {tf.__version__}", make_predict)


def make_converter(tf: Any, job: Job, signature: Signature) -> Any:
    """Make TensorFlow's v1 converter for the job's graph, with these inputs and outputs."""
    return tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(
        str(job.input),
        [strip_output_index(tensor.node) for tensor in signature.inputs],
        [strip_output_index(tensor.node) for tensor in signature.outputs],
        {
            strip_output_index(tensor.node): [None if d < 0 else d for d in tensor.open_shape]
            for tensor in signature.inputs
        },
    )


def _convert(tf: Any, job: Job, signature: Signature, flex: bool) -> bytes:
    converter = make_converter(tf, job, signature)
    if flex:
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
    content = converter.convert()
    if not isinstance(content, bytes) or not content:
        raise StageError("The converter returned no model.")
    return content


def _explain_error(tf: Any, job: Job, error: Exception) -> Exception:
    """Return the converter's error, with the layer that it is about if the error is a known one."""
    graph_def = tf.compat.v1.GraphDef.FromString(job.input.read_bytes())
    return explain(error, job.volume, graph_def) or error


def _wants_flex(message: str) -> bool:
    """Tell whether the converter failed for lack of a builtin operator."""
    return "flex op" in message or "custom op" in message


def _guess_signature(job: Job) -> Signature:
    """Guess the signature of a graph of unknown origin: placeholders and unconsumed tensors."""
    graph = load_graph(job.input)
    found = {"input": list_placeholders(graph), "output": list_sinks(graph)}
    for side, wanted in (("input", job.options["inputs"]), ("output", job.options["outputs"])):
        if wanted:
            found[side] = find_tensors(graph, wanted)
    if not found["input"] or not found["output"]:
        raise InputError(f"'{job.input.name}' shows no input or no output.")
    names = {side: ", ".join(t.name for t in tensors) for side, tensors in found.items()}
    job.note(
        f"No report says who made '{job.input.name}'. Inputs: {names['input']}; "
        f"outputs: {names['output']}."
    )
    return Signature(
        tuple(_describe(t) for t in found["input"]), tuple(_describe(t) for t in found["output"])
    )


def _describe(tensor: Any) -> Tensor:
    shape = tensor.shape.as_list() if tensor.shape.rank is not None else []
    # An unknown batch size counts as 1; the converter itself refuses any other unknown size.
    fixed = [1 if d is None and i == 0 else -1 if d is None else d for i, d in enumerate(shape)]
    return Tensor(strip_output_index(tensor.name), tuple(fixed), tensor.dtype.name, tensor.name)


STAGE = Stage(
    name="tflite",
    summary=__doc__ or "",
    consumes="model.pb",
    produces="model.tflite",
    packages=("tensorflow", "numpy"),
    convert=convert,
    check=check,
    imports=("tensorflow",),
    options=(
        FLEX,
        SIGNATURE,
        Option("inputs", str, "", "input tensors of a graph made elsewhere, comma-separated"),
        Option("outputs", str, "", "its output tensors"),
    ),
)

if __name__ == "__main__":
    run_as_program(STAGE)
