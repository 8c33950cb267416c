"""Measure .tflite files side by side: python measure.py REQUEST.json RESULT.json.

Runs where there is ai-edge-litert, or TensorFlow 2.4 with Python 3.8. The request has `models`
(file by name), `inputs` and `reference` (.npy, channels first), `rounds`, `threads` and `seconds`,
what one model runs for in one round. Models take turns in every round, each round in another order,
so that noise of the machine hits them alike. The first run of every turn warms the caches up and
does not count. A model whose one run takes more than two turns sits some rounds out.
"""

import json
import platform
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

try:
    from ai_edge_litert import interpreter as lite

    VERSION = "ai-edge-litert"
except ImportError:
    import tensorflow

    lite, VERSION = tensorflow.lite, "tensorflow " + tensorflow.__version__


class Model:
    """A .tflite file in an interpreter. Arrays are channels first, whatever the file wants."""

    def __init__(self, file, threads):
        self.interpreter = lite.Interpreter(model_path=file, num_threads=threads)
        # Before tensors are allocated no delegate has replaced an operator yet.
        self.operators = Counter(
            detail["op_name"] for detail in self.interpreter._get_ops_details()
        )
        self.operators.pop("DELEGATE", None)
        self.every = 1  # it takes part in every so many rounds
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]
        self.output = self.interpreter.get_output_details()[0]

    def layout(self, shape):
        return "NCHW" if tuple(self.input["shape"]) == tuple(shape) else "NHWC"

    def feed(self, value):
        if self.layout(value.shape) == "NHWC":
            value = np.ascontiguousarray(value.transpose(0, 2, 3, 1))
        self.interpreter.set_tensor(self.input["index"], value)

    def run(self, value, shape):
        self.feed(value)
        self.interpreter.invoke()
        result = self.interpreter.get_tensor(self.output["index"])
        return result if result.shape == shape else result.transpose(0, 3, 1, 2)

    def turn(self, seconds):
        """The median seconds of a run, over `seconds` and at least one run."""
        self.interpreter.invoke()
        times, end = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            self.interpreter.invoke()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def errors(model, inputs, reference):
    def difference(x, y):
        return np.abs(model.run(x, y.shape).astype(np.float64) - y)

    differences = list(map(difference, inputs, reference))
    return {
        "mean_abs": float(np.mean([d.mean() for d in differences])),
        "max_abs": float(np.max([d.max() for d in differences])),
    }


def main():
    request = json.loads(Path(sys.argv[1]).read_text())
    inputs, reference = np.load(request["inputs"]), np.load(request["reference"])
    result = {name: {"times": {}} for name in request["models"]}
    order = random.Random(0)
    for threads in request["threads"]:
        models = {}
        for name, file in request["models"].items():
            row = result[name]
            if "failure" in row:
                continue
            try:
                model = Model(file, threads)
                if "operators" not in row:
                    row.update(errors(model, inputs, reference))
                    row["layout"] = model.layout(inputs[0].shape)
                    row["operators"] = dict(model.operators)
                model.feed(inputs[0])
                model.every = 1 + int(model.turn(0) / request["seconds"] / 2)
            except (RuntimeError, ValueError) as error:  # some write files that do not run
                row["failure"] = str(error)[:300]
                continue
            models[name] = model
            row["times"][str(threads)] = []
        for number in range(request["rounds"]):
            for name in order.sample(list(models), len(models)):
                takes_part = number % models[name].every == 0
                seconds = models[name].turn(request["seconds"]) if takes_part else None
                result[name]["times"][str(threads)].append(seconds)
    result = {"runtime": VERSION, "python": platform.python_version(), "models": result}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
