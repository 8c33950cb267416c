"""Write frozen graphs with branches and loops, as TensorFlow 1 and 2 wrote them.

    python control_flow.py FOLDER

Runs in the environment of the stage tflite.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

v1 = tf.compat.v1
folder = Path(sys.argv[1])


def write(name, graph):
    (folder / (name + ".pb")).write_bytes(graph.as_graph_def().SerializeToString())


def weights(*shape):
    return tf.constant(np.random.RandomState(0).randn(*shape).astype(np.float32))


tf.random.set_seed(0)
layers = tf.keras.layers
lstm = tf.keras.Sequential(
    [layers.Input((7, 4)), layers.LSTM(5, return_sequences=True), layers.Dense(2)]
)
whole = tf.function(lstm).get_concrete_function(tf.TensorSpec([1, 7, 4], tf.float32, name="x"))
for name, lower in (("lstm", False), ("lstm_lowered", True)):
    frozen = convert_to_constants.convert_variables_to_constants_v2(whole, lower_control_flow=lower)
    write(name, frozen.graph)

v1.disable_control_flow_v2()
with tf.Graph().as_default() as graph:
    x = v1.placeholder(tf.float32, [1, 4], name="x")
    y = tf.matmul(x, weights(4, 3))

    def repeat():
        return v1.while_loop(
            lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(y) * 2), [tf.constant(0), y]
        )[1]

    def choose():
        return v1.cond(tf.reduce_max(x) > 1, repeat, lambda: y * 3)

    v1.cond(tf.reduce_sum(x) > 0, choose, lambda: y - 1, name="outer")
    write("nested", graph)
with tf.Graph().as_default() as graph:
    image = v1.placeholder(tf.float32, [1, 8, 8, 3], name="image")
    y = tf.nn.conv2d(image, weights(3, 3, 3, 4) / 5, 1, "SAME")
    first, second = v1.cond(
        tf.reduce_sum(image) > 0, lambda: (tf.nn.relu(y), y + 1), lambda: (y, -y), name="two"
    )
    tf.nn.conv2d(first, weights(3, 3, 4, 2) / 6, 2, "SAME", name="last")
    write("branch", graph)
