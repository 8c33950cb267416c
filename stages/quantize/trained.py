"""int8 with the ranges that a model was trained to: those of its fake quantisation.

TensorFlow 2.4's converter makes an int8 model of a graph with fake quantisation and takes the
ranges of activations from there. What it does not do is done here: averages, which the training
leaves out, get a range, and weights keep the grid that they were trained on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from stages.convert.graph_to_tflite import make_converter
from stages.frameworks.tensorflow import strip_output_index
from stages.kit.contract import InputError, Job, Signature, StageError
from stages.quantize.calibration import iterate, write_calibration
from stages.quantize.weight_grid import find_step, keep_weight_grids

_FAKE = "FakeQuantWithMinMax"
# Operators whose results lie within the range of what they read.
_WITHIN = ("AvgPool", "Mean")
# Operators that move values and change none.
_MOVES = ("Reshape", "Transpose", "Identity", "Squeeze")


def choose_trained_ranges(tf: Any, job: Job) -> bool:
    """Tell whether the graph was trained for int8. Raises `InputError` for any other mode then.

    So it does where trained ranges are asked for and the graph has none.
    """
    count = count_fake_quantizers(tf, job)
    if not count:
        if job.options.get("trained"):
            raise InputError(
                "The model has no trained ranges: there is no fake quantisation in it.",
                "Give samples with --calibration; or convert the model as it was trained, with "
                "the modules that torch.quantization.prepare_qat put into it.",
            )
        return False
    if job.stage.name != "int8":
        raise InputError(
            f"The model was trained for int8 (it has {count} fake quantisers), which "
            f"'{job.stage.name}' would undo.",
            "Say --quantize int8; or convert the model without fake quantisation.",
        )
    if job.options.get("keep_float"):
        raise InputError(
            "Layers cannot be kept in float in a model that was trained for int8.",
            "Leave --keep-float out; or train without fake quantisation in these layers.",
        )
    if job.options["noise"]:
        job.note("The model has trained ranges, so it is not calibrated on noise.")
    return True


def count_fake_quantizers(tf: Any, job: Job) -> int:
    """Count the operators of the job's graph that round to the levels of integers."""
    graph = tf.compat.v1.GraphDef.FromString(job.input.read_bytes())
    return sum(node.op.startswith(_FAKE) for node in graph.node)


def convert_trained(tf: Any, job: Job, signature: Signature, ends: str) -> bytes:
    """Return the int8 model with the ranges, and the weights, of the graph's fake quantisation."""
    graph = tf.compat.v1.GraphDef.FromString(job.input.read_bytes())
    add_ranges(tf, job, signature, graph)
    use_convolutions(tf, graph)
    changed = job.output.with_name(".trained.pb")
    changed.write_bytes(graph.SerializeToString(deterministic=True))
    try:
        contents = [_convert(tf, replace(job, input=changed), signature, n) for n in (True, False)]
    finally:
        changed.unlink()
    content, note = keep_weight_grids(*contents)
    if note:
        job.note(note)
    if ends == "float":
        return content
    from tensorflow.lite.python.util import modify_model_io_type

    kind = getattr(tf, ends)
    return bytes(modify_model_io_type(content, kind, kind))


def _convert(tf: Any, job: Job, signature: Signature, integers: bool) -> bytes:
    converter = make_converter(tf, job, signature)
    if integers:
        converter.inference_type = tf.int8
        converter.inference_input_type = tf.float32
        # Demanded by the converter, and not used for an input of floats.
        converter.quantized_input_stats = {
            strip_output_index(tensor.node): (0.0, 1.0) for tensor in signature.inputs
        }
    content = converter.convert()
    if not isinstance(content, bytes) or not content:
        raise StageError("The converter returned no model.")
    return content


def add_ranges(tf: Any, job: Job, signature: Signature, graph: Any) -> None:
    """Give pools and means of a trained range a range of their own, where they have none.

    Samples of the user's tell it; without any it is that of what they are computed from, as
    torch.quantization.convert does it, and a mean mostly needs a part of that. Changes the graph in
    place.
    """
    nodes, readers = _connect(graph)
    found = {}
    for node in graph.node:
        if node.op not in _WITHIN:
            continue
        source = nodes[node.input[0].partition(":")[0]]
        while source.op in _MOVES:
            source = nodes[source.input[0].partition(":")[0]]
        following = readers.get(node.name, [])
        if source.op.startswith(_FAKE) and not any(r.op.startswith(_FAKE) for r in following):
            found[node.name] = source
    if not found:
        return
    measured = _measure_ranges(tf, job, signature, graph, list(found))
    if not measured:
        job.note(
            f"{len(found)} averages have no trained range, and got that of their inputs; with "
            "--calibration they get one that is measured."
        )
    for name, source in found.items():
        faked = graph.node.add()
        if name in measured:
            faked.op = f"{_FAKE}Args"
            faked.attr["min"].f, faked.attr["max"].f = measured[name]
            faked.attr["num_bits"].i = 8
            faked.attr["narrow_range"].b = False
            faked.input.append(name)
        else:
            faked.CopyFrom(source)
            faked.input[0] = name
        faked.name = f"{name}/range"
        for reader in readers.get(name, []):
            for place, read in enumerate(reader.input):
                if read in (name, f"{name}:0"):
                    reader.input[place] = faked.name


def _measure_ranges(
    tf: Any, job: Job, signature: Signature, graph: Any, names: Sequence[str]
) -> Dict[str, Tuple[float, float]]:
    """Return the range of tensors on the calibration samples; {} if the user gave none."""
    if not job.options["calibration"]:
        return {}
    arrays = write_calibration(job, signature.inputs)
    ranges = dict.fromkeys(names, (0.0, 0.0))
    with tf.Graph().as_default() as loaded:
        tf.compat.v1.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=loaded) as session:
            for values in iterate(arrays, signature.inputs):
                fed = {tensor.node: value for tensor, value in zip(signature.inputs, values)}
                made = session.run([f"{name}:0" for name in names], fed)
                for name, value in zip(names, made):
                    low, high = ranges[name]
                    ranges[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return {name: _nudge(*ends) for name, ends in ranges.items() if ends[0] < ends[1]}


def _nudge(low: float, high: float) -> Tuple[float, float]:
    """Return the range moved so that 0 is one of its 256 steps."""
    step = (high - low) / 255
    zero = round(-low / step)
    return -zero * step, (255 - zero) * step


def use_convolutions(tf: Any, graph: Any) -> None:
    """Turn products with weights that have a grid for each channel into convolutions of 1 x 1.

    FULLY_CONNECTED has one scale for all weights in TensorFlow Lite 2.4, CONV_2D one for each
    channel. Changes the graph in place.
    """
    nodes, readers = _connect(graph)
    for node in list(graph.node):
        if node.op != "MatMul" or node.attr["transpose_a"].b:
            continue
        weights = nodes[node.input[1].partition(":")[0]]
        if weights.op != "Const":
            continue
        matrix = tf.make_ndarray(weights.attr["value"].tensor)
        if node.attr["transpose_b"].b:
            matrix = matrix.T
        if find_step(matrix.ravel()) is not None or any(
            find_step(column) is None for column in matrix.T
        ):
            continue
        last = _find_end(node, readers)
        for reader in readers.get(last.name, []):
            for place, name in enumerate(reader.input):
                if name.partition(":")[0] == last.name:
                    reader.input[place] = f"{last.name}/flat"
        source = _add_reshape(
            tf, graph, f"{node.name}/image", node.input[0], [-1, 1, 1, len(matrix)]
        )
        kernel = graph.node.add(name=f"{node.name}/kernel", op="Const")
        kernel.attr["dtype"].type = tf.float32.as_datatype_enum
        kernel.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(matrix[None, None]))
        name = node.name
        node.Clear()
        node.name, node.op = name, "Conv2D"
        node.input.extend([source, kernel.name])
        node.attr["T"].type = tf.float32.as_datatype_enum
        node.attr["strides"].list.i.extend([1, 1, 1, 1])
        node.attr["padding"].s = b"VALID"
        node.attr["data_format"].s = b"NHWC"
        _add_reshape(tf, graph, f"{last.name}/flat", last.name, [-1, matrix.shape[1]])


def _find_end(node: Any, readers: Dict[str, List[Any]]) -> Any:
    """Return the last of the operators that are fused into a product: its bias, an activation."""
    for kinds in (("BiasAdd",), ("Relu", "Relu6")):
        following = readers.get(node.name, [])
        if len(following) == 1 and following[0].op in kinds:
            node = following[0]
    return node


def _add_reshape(tf: Any, graph: Any, name: str, source: str, shape: List[int]) -> str:
    sizes = graph.node.add(name=f"{name}/shape", op="Const")
    sizes.attr["dtype"].type = tf.int32.as_datatype_enum
    sizes.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.array(shape, np.int32)))
    made = graph.node.add(name=name, op="Reshape")
    made.input.extend([source, sizes.name])
    made.attr["T"].type = tf.float32.as_datatype_enum
    made.attr["Tshape"].type = tf.int32.as_datatype_enum
    return name


def _connect(graph: Any) -> Tuple[Dict[str, Any], Dict[str, List[Any]]]:
    """Return the nodes by name, and those that read each."""
    nodes = {node.name: node for node in graph.node}
    readers: Dict[str, List[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name.partition(":")[0].lstrip("^"), []).append(node)
    return nodes, readers
