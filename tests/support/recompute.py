"""Runs a model over seeded inputs in a few plain lines, to check the figures of a report.

    python recompute.py KIND FILE FOLDER INPUTS SEED COUNT [INPUT_NODES OUTPUT_NODES]

Under Python 3.8, in the environment that has KIND's framework. Shares with the stages the
generator of the inputs and nothing else. Writes FOLDER/KIND-I.npy, of shape (samples, *shape).
"""

import json
import sys
from pathlib import Path

import numpy as np

from stages.kit.contract import Tensor
from stages.kit.samples import generate_inputs


def flat(outputs):
    """Tensors out of tuples in tuples, from left to right."""
    if isinstance(outputs, tuple):
        return [tensor for item in outputs for tensor in flat(item)]
    return [outputs]


def run_torch(file):
    import torch

    try:
        model = torch.jit.load(file)
    except RuntimeError:
        model = torch.load(file)
    model.eval()

    def run(values):
        with torch.no_grad():
            outputs = model(*map(torch.from_numpy, values))
        return [tensor.numpy() for tensor in flat(outputs)]

    return run


def run_onnx(file, inputs, outputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return lambda values: session.run(outputs, dict(zip(inputs, values)))


def run_graph(file, inputs, outputs):
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef.FromString(Path(file).read_bytes())
    tf.import_graph_def(graph_def, name="")
    session = tf.compat.v1.Session()
    return lambda values: session.run(outputs, dict(zip(inputs, values)))


def run_tflite(file, inputs, outputs):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(file)
    interpreter.allocate_tensors()

    def indices(details, nodes):
        by_name = {detail["name"].partition(":")[0]: detail["index"] for detail in details}
        return [by_name[node.partition(":")[0]] for node in nodes]

    wanted = indices(interpreter.get_input_details(), inputs)
    made = indices(interpreter.get_output_details(), outputs)

    def run(values):
        for index, value in zip(wanted, values):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in made]

    return run


def main(kind, file, folder, tensors, seed, count, *nodes):
    folder = Path(folder)
    if kind == "torch":
        sys.path.insert(0, str(Path(__file__).parent))  # user_code, for pickled classes
    inputs = [Tensor.from_dict(tensor) for tensor in json.loads(tensors)]
    generate_inputs(folder, inputs, int(count), int(seed))
    arrays = [np.load(str(folder / f"input-{index}.npy")) for index in range(len(inputs))]
    if kind == "torch":
        run = run_torch(file)
    else:
        make = {"onnx": run_onnx, "graph": run_graph, "tflite": run_tflite}[kind]
        run = make(file, *[names.split(",") for names in nodes])
    results = [run([array[sample] for array in arrays]) for sample in range(int(count))]
    for index, outputs in enumerate(zip(*results)):
        np.save(str(folder / f"{kind}-{index}.npy"), np.stack(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
