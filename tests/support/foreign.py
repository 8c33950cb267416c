"""Files that other tools write: what tests of `inspect` and `compare` are given."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

BY_TORCH = """
import sys
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
sys.path.insert(0, sys.argv[2])
from models import small_cnn

folder = sys.argv[1]
torch.manual_seed(0)
torch.onnx.export(small_cnn(), torch.randn(1, 3, 32, 32), f"{folder}/cnn.onnx", opset_version=11,
                  input_names=["image"], output_names=["scores"])


def write(name, ends, sizes=8):
    '''Outputs by name, each the input times a matrix that depends on its size alone.'''
    nodes, weights, outputs = [], [], []
    for end, size in ends:
        matrix = np.random.RandomState(size).randn(sizes, size).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, "w_" + end))
        nodes.append(helper.make_node("MatMul", ["x", "w_" + end], [end]))
        outputs.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, size]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, sizes])
    graph = helper.make_graph(nodes, "g", [x], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    onnx.save(model, f"{folder}/{name}.onnx")


write("ab", [("a", 4), ("b", 5)])
write("ba", [("b", 5), ("a", 4)])
write("cd", [("c", 4), ("d", 5)])
write("a", [("a", 4)])
write("wide", [("a", 6)])
write("others", [("r", 6), ("s", 7), ("t", 9)])
write("nine", [("a", 4)], 9)


class Calls:
    def __reduce__(self):
        import os
        return os.system, (f"touch {folder}/pwned",)


torch.save(Calls(), f"{folder}/calls.pt")
torch.save({"state_dict": {"w": torch.zeros(3)}, "more": Calls()}, f"{folder}/checkpoint.pt")
"""

BY_TENSORFLOW = """
import sys
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

folder = sys.argv[1]
tf.random.set_seed(0)
layers = tf.keras.layers
model = tf.keras.Sequential([
    layers.Input((16, 16, 3)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(),
    layers.Dense(5)])
model.save(f"{folder}/keras.h5")
model.save_weights(f"{folder}/weights.h5")
model.save(f"{folder}/saved")
converter = tf.lite.TFLiteConverter.from_keras_model(model)
open(f"{folder}/keras.tflite", "wb").write(converter.convert())
converter.optimizations = [tf.lite.Optimize.DEFAULT]
normal = np.random.RandomState(0).randn
converter.representative_dataset = lambda: (
    [normal(1, 16, 16, 3).astype(np.float32)] for _ in range(50))
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.int8
open(f"{folder}/int8.tflite", "wb").write(converter.convert())
call = tf.function(model).get_concrete_function(tf.TensorSpec([1, 16, 16, 3], tf.float32))
frozen = convert_to_constants.convert_variables_to_constants_v2(call)
for layout, shape in (("NCHW", [1, 3, 8, 8]), ("NHWC", [1, 8, 8, 3])):
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, shape, "image")
        weights = tf.constant(np.random.RandomState(0).randn(3, 3, 3, 4), tf.float32)
        convolved = tf.nn.conv2d(image, weights, 1, "SAME", data_format=layout)
        tf.identity(tf.nn.relu(convolved), "result")
        open(f"{folder}/{layout}.pb", "wb").write(graph.as_graph_def().SerializeToString())
erf = tf.function(tf.math.erf).get_concrete_function(tf.TensorSpec([1, 4], tf.float32))
converter = tf.lite.TFLiteConverter.from_concrete_functions([erf])
converter.target_spec.supported_ops = [
    tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
open(f"{folder}/flex.tflite", "wb").write(converter.convert())
open(f"{folder}/keras.pb", "wb").write(frozen.graph.as_graph_def().SerializeToString())
"""

# Run by today's onnx: the same network at a newer operator set, and one of newer operators.
BY_NEWER_ONNX = """
import sys
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

folder = sys.argv[1]
model = onnx.version_converter.convert_version(onnx.load(f"{folder}/cnn.onnx"), 17)
model.ir_version = 10
onnx.save(model, f"{folder}/newer.onnx")
weights = numpy_helper.from_array(np.random.RandomState(0).randn(8, 8).astype("float32"), "w")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy"]
nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]),
         helper.make_node("Gelu", ["m"], ["y"], approximate="tanh")]
graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.save(model, f"{folder}/gelu.onnx")
model.opset_import[0].version = 24
onnx.save(model, f"{folder}/newest.onnx")
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


def make(folder: Path, run: Run, tests: Path) -> None:
    """What the pinned tools write without this toolchain."""
    for image, program in (("torch", BY_TORCH), ("tflite", BY_TENSORFLOW)):
        made = run(image, "-c", program, folder, tests)
        assert made.returncode == 0, made.stderr


def make_newer(folder: Path) -> None:
    """What today's onnx and onnx2tf write, beside `make`'s files."""
    from benchmarks.peers import environments

    environment: Any = environments.install(environments.Environment("onnx2tf"))
    subprocess.run([environment.python, "-c", BY_NEWER_ONNX, folder], check=True)
    for name in ("cnn", "gelu"):
        command = [environment.python, environment.source / "convert.py"]
        command += [folder / f"{name}.onnx", folder / f"{name}.onnx2tf.tflite"]
        subprocess.run(command, check=True, capture_output=True)
