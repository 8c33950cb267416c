"""ONNX files that shuffle channels, as torch does not write them: `shuffled_files.py FOLDER`.

Runs in the environment of the stage `torch`.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DRAW = np.random.RandomState(0)


def conv(source, result, i, o):
    """A convolution of 1x1 with its weights."""
    weight = DRAW.randn(o, i, 1, 1).astype("f4")
    node = helper.make_node("Conv", [source, result + "_w"], [result], kernel_shape=[1, 1])
    return [node], {result + "_w": weight}


def shuffle(source, result, channels, sizes=(6, 6)):
    names = [result + "_split", result + "_turned"]
    nodes = [
        helper.make_node("Reshape", [source, result + "_in"], [names[0]]),
        helper.make_node("Transpose", [names[0]], [names[1]], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", [names[1], result + "_out"], [result]),
    ]
    shapes = [(-1, 2, channels // 2, *sizes), (-1, channels, *sizes)]
    consts = {result + "_in": np.array(shapes[0]), result + "_out": np.array(shapes[1])}
    return nodes, consts


def node(kind, *inputs, results, **attributes):
    """An operator whose inputs are names of tensors, or arrays."""
    names, consts = [], {}
    for number, given in enumerate(inputs):
        names.append(given if isinstance(given, str) else f"{results[0]}_given{number}")
        if not isinstance(given, str):
            consts[names[-1]] = np.asarray(given)
    return [helper.make_node(kind, names, results, **attributes)], consts


def save(folder, name, parts, inputs, outputs, opset=11):
    nodes = [each for made, _ in parts for each in made]
    consts = {key: value for _, made in parts for key, value in made.items()}
    ends = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in side.items()]
        for side in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(value, key) for key, value in consts.items()]
    model = helper.make_model(
        helper.make_graph(nodes, name, *ends, tensors),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=6,
    )
    onnx.checker.check_model(model)
    onnx.save(model, f"{folder}/{name}.onnx")


def halves():
    """What is split after a shuffle is convolved in two parts."""
    return [
        conv("x", "y", 4, 8),
        shuffle("y", "s", 8),
        node("Split", "s", results=["a", "b"], axis=1, split=[4, 4]),
        conv("a", "c", 4, 3),
    ]


def main(folder):
    image = {"x": (1, 4, 6, 6)}
    # The names that the pieces of `y` and the weights of `c` would get.
    taken = [*halves(), node("Neg", "b", results=["c_ordered_1"]), conv("c_ordered_1", "d", 4, 3)]
    taken.append(node("Mul", "d", "y_channels_0", results=["e"]))
    given = {**image, "y_channels_0": (1, 3, 6, 6), "y_channels_4": (1, 3, 6, 6)}
    taken.append(node("Add", "e", "y_channels_4", results=["f"]))
    save(folder, "names_taken", taken, given, {"c": (1, 3, 6, 6), "f": (1, 3, 6, 6)})
    equal = [*halves()[:2], node("Split", "s", results=["a", "b"], axis=-3), conv("b", "c", 4, 3)]
    save(folder, "equal_parts", equal, image, {"c": (1, 3, 6, 6)})
    save(folder, "opset_9", halves(), image, {"c": (1, 3, 6, 6)}, 9)
    # Below, the batch size decides what is moved.
    several = {"x": ("N", 4, 6, 6)}
    two = [
        conv("x", "y", 4, 8),
        node("Slice", "y", [0], [2], [0], results=["first"]),
        node("Gather", "first", [4, 2, 7, 0, 6, 1, 3, 5], results=["s"], axis=1),
        conv("s", "c", 8, 3),
    ]
    save(folder, "first_two", two, several, {"c": ("M", 3, 6, 6)})
    apart = [
        conv("x", "y", 4, 8),
        node("Reshape", "y", [2, -1, 6, 6], results=["s"]),
        node("Gather", "s", [3, 1, 0, 2], results=["t"], axis=1),
        conv("t", "c", 4, 3),
    ]
    save(folder, "batch_of_channels", apart, several, {"c": ("M", 3, 6, 6)})


if __name__ == "__main__":
    main(sys.argv[1])
