"""What comes of newer operators in small ONNX files, in one process: prints it as JSON.

Runs in the environment of the stage `onnx` (Python 3.8). `refused` is why a node is, by case;
`compared` is whether a file of open sizes computes what it should once they are set, by case;
`run` is how many nodes are run to rewrite a chain of them.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from stages.compare import open_onnx
from stages.fixes.onnx_file import older_opset
from stages.kit.contract import InputError, Tensor

REFUSED = {
    "volume": (16, "GridSample", [(1, 1, 2, 2, 2), (1, 2, 2, 2, 3)], {}),
    "cubic": (20, "GridSample", [(1, 1, 4, 4), (1, 2, 2, 2)], {"mode": "cubic"}),
    "training": (15, "BatchNormalization", [(2, 3)] + [(3,)] * 4, {"training_mode": 1}),
    "scatter": (16, "ScatterND", [(4,), np.zeros((1, 1), "i8"), (1,)], {"reduction": "add"}),
    "dilated": (19, "AveragePool", [(1, 1, 6)], {"kernel_shape": [2], "dilations": [2]}),
    "rounded": (18, "LpPool", [(1, 1, 5)], {"kernel_shape": [2], "ceil_mode": 1}),
    "wrapped": (19, "Pad", [(1, 3), np.array([0, 4, 0, 0])], {"mode": "wrap"}),
    "emptied": (14, "Reshape", [(0, 3), np.array([0, 3])], {"allowzero": 1}),
    "blocks": (
        *(21, "DequantizeLinear", [np.zeros((2, 4), "u1"), np.ones((2, 2), "f4")]),
        {"block_size": 2},
    ),
    "eighths": (19, "Cast", [(2,)], {"to": 17}),
    "aspect": (
        *(18, "Resize", [(1, 1, 4, 4), None, None, np.array([1, 1, 8, 6])]),
        {"keep_aspect_ratio_policy": "not_larger"},
    ),
    "smoothed": (
        *(18, "Resize", [(1, 1, 4, 4), None, np.array([1, 1, 0.5, 0.5], "f4")]),
        {"antialias": 1, "mode": "linear"},
    ),
    "capped": (23, "Attention", [(1, 2, 3, 4)] * 3, {"softcap": 2.0}),
    "moving": (14, "Trilu", [(3, 3), "to be given"], {}),
    "open": (14, "Trilu", [("N", "T", "T")], {}),
    "unknown": (20, "Nonesuch", [(3,)], {}),
}

ABOVE = np.arange(1, 19, dtype="f4").reshape(2, 3, 3)
COMPARED = {
    "trilu": ([("Trilu", {"upper": 0})], ABOVE, np.tril(ABOVE)),
    "relu-trilu": ([("Relu", {}), ("Trilu", {"upper": 0})], ABOVE - 9, np.tril(ABOVE - 9).clip(0)),
}


def make(opset, nodes, shapes, tensors=()):
    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name == "k" else TensorProto.FLOAT, shape
        )
        for name, shape in shapes.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", inputs, [output], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def refuse(opset, op_type, operands, attributes):
    names, shapes, tensors = [], {}, []
    for i, operand in enumerate(operands):
        name = "k" if isinstance(operand, str) else f"x{i}"
        names.append("" if operand is None else name)
        if isinstance(operand, np.ndarray):
            tensors.append(numpy_helper.from_array(operand, name))
        elif operand is not None:
            shapes[name] = () if name == "k" else operand
    node = helper.make_node(op_type, names, ["y"], "node", **attributes)
    try:
        older_opset.lower(make(opset, [node], shapes, tensors))
    except InputError as error:
        return str(error)
    return "not at all"


def compare(steps, given, wanted):
    names = ["x", *(f"t{i}" for i in range(len(steps) - 1)), "y"]
    nodes = [
        helper.make_node(kind, [names[i]], [names[i + 1]], **attributes)
        for i, (kind, attributes) in enumerate(steps)
    ]
    job = SimpleNamespace(note=print, request={})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "open.onnx"
        file.write_bytes(make(14, nodes, {"x": ("N", "T", "T")}).SerializeToString())
        opened = open_onnx.open_file(job, file)
    predict = opened.prepare([Tensor("x", given.shape, "float32")])()
    return bool((predict([given])[0] == wanted).all())


def count_nodes_run():
    """Of a chain of 60 Relus: how many nodes were run to find their types."""
    from stages.fixes.onnx_file.known import Known

    runs = []
    original = Known._run_nodes

    def run_nodes(self, nodes, *others):
        runs.append(len(nodes))
        return original(self, nodes, *others)

    Known._run_nodes = run_nodes
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(60)]
    nodes.append(helper.make_node("Identity", ["t60"], ["y"]))
    older_opset.lower(make(14, nodes, {"t0": (2, 3)}))
    return sum(runs)


def main():
    with contextlib.redirect_stdout(sys.stderr):
        found = {
            "refused": {name: refuse(*case) for name, case in REFUSED.items()},
            "compared": {name: compare(*case) for name, case in COMPARED.items()},
            "run": count_nodes_run(),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
