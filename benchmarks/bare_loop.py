"""A bare loop over a framework, as a user would write it: python bare_loop.py NAME MODEL INPUTS.

Runs in the stage's own environment (Python 3.8). Prints the seconds of the loop alone: no import,
no loading, default threads, nothing done with the outputs.
"""

import sys
import time
import warnings

import numpy as np


def torch_loop(model, inputs):
    import torch

    module = torch.load(model).eval()
    with torch.no_grad():
        return lambda i: module(torch.from_numpy(inputs[i]))


def onnxruntime_loop(model, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    name = session.get_inputs()[0].name
    return lambda i: session.run(None, {name: inputs[i]})


def tensorflow_loop(model, inputs):
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef.FromString(open(model, "rb").read())
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    session = tf.compat.v1.Session(graph=graph)
    return lambda i: session.run("output:0", {"input:0": inputs[i]})


def tflite_loop(model, inputs):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    wanted = interpreter.get_output_details()[0]["index"]

    def run(i):
        interpreter.set_tensor(given, inputs[i])
        interpreter.invoke()
        return interpreter.get_tensor(wanted)

    return run


def main():
    name, model, file = sys.argv[1:]
    inputs = np.load(file, mmap_mode="c")
    warnings.simplefilter("ignore")
    run = globals()[name + "_loop"](model, inputs)
    start = time.perf_counter()
    for i in range(len(inputs)):
        run(i)
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
