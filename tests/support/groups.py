"""Small .tflite models with convolutions of parts of a tensor, and what joining them gives.

`groups.py make FOLDER` writes them, under TensorFlow 2.4; `groups.py join FOLDER` joins each and
prints, as JSON by its name, how many groups were joined, the operators, and how far the outputs in
LiteRT moved. `EXPECTED` is how many there are to join.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

Build = Callable[[Any, Any], Any]
CASES: Dict[str, Build] = {}
EXPECTED: Dict[str, int] = {"in_a_loop": 2}
RANDOM = np.random.RandomState(0)


def case(joined: int) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        CASES[build.__name__], EXPECTED[build.__name__] = build, joined
        return build

    return register


def conv(
    tf: Any,
    x: Any,
    outputs: int = 4,
    size: int = 3,
    dilation: int = 1,
    bias: bool = True,
    weights: Optional[np.ndarray] = None,
) -> Any:
    if weights is None:
        weights = RANDOM.randn(size, size, x.shape[-1], outputs).astype(np.float32) / 5
    y = tf.nn.conv2d(x, weights, 1, "SAME", dilations=dilation)
    return tf.nn.bias_add(y, RANDOM.randn(outputs).astype(np.float32)) if bias else y


def split(tf: Any, x: Any, count: int = 4, axis: int = 3) -> List[Any]:
    return list(tf.split(x, count, axis))


@case(1)
def plain(tf: Any, x: Any) -> Any:
    return tf.concat([conv(tf, part) for part in split(tf, x)], 3)


@case(1)
def without_bias(tf: Any, x: Any) -> Any:
    return tf.concat([conv(tf, part, bias=False) for part in split(tf, x, 2)], -1)


@case(1)
def shared_weights(tf: Any, x: Any) -> Any:
    weights = RANDOM.randn(3, 3, 4, 4).astype(np.float32) / 5
    return tf.concat([conv(tf, part, weights=weights) for part in split(tf, x)], 3)


@case(1)
def activations(tf: Any, x: Any) -> Any:
    return tf.concat([tf.nn.relu6(conv(tf, part)) for part in split(tf, x)], 3)


@case(1)
def activation_behind(tf: Any, x: Any) -> Any:
    return tf.nn.relu(plain(tf, x)) * 2.0


@case(1)
def part_read_elsewhere(tf: Any, x: Any) -> Any:
    parts = split(tf, x)
    return tf.concat([conv(tf, part) for part in parts], 3) + tf.concat([parts[2]] * 4, 3)


@case(2)
def one_after_the_other(tf: Any, x: Any) -> Any:
    return plain(tf, tf.nn.relu(plain(tf, x)))


@case(2)
def two_of_one_tensor(tf: Any, x: Any) -> Any:
    parts = split(tf, x)
    ends = [tf.concat([conv(tf, part) for part in parts], 3) for _ in range(2)]
    return ends[0] * ends[1]


@case(1)
def slices(tf: Any, x: Any) -> Any:
    parts = [x[:, :, :, 4 * i : 4 * i + 4] for i in range(4)]
    return tf.concat([conv(tf, part) for part in parts], 3)


@case(1)
def given_slices(tf: Any, x: Any) -> Any:
    parts = [tf.slice(x, [0, 0, 0, 4 * i], [-1, -1, -1, 4]) for i in range(4)]
    return tf.concat([conv(tf, part) for part in parts], 3)


@case(0)
def fewer_slices_than_axes(tf: Any, x: Any) -> Any:
    """The slice's constants have one entry, for the batch."""
    return tf.concat([conv(tf, x[:1]) for _ in range(2)], 3)


@case(0)
def parts_that_are_grouped(tf: Any, x: Any) -> Any:
    """A filter of four channels for parts of four and of twelve: that one has three groups."""
    weights = [RANDOM.randn(3, 3, 4, 12).astype(np.float32) / 5 for _ in range(2)]
    ends = [
        tf.nn.conv2d(part, value, 1, "SAME")
        for part, value in zip((x[:, :, :, :4], x[:, :, :, 4:]), weights)
    ]
    return tf.concat(ends, 3)


@case(0)
def slices_in_another_order(tf: Any, x: Any) -> Any:
    parts = [x[:, :, :, 4 * i : 4 * i + 4] for i in (1, 0, 2, 3)]
    return tf.concat([conv(tf, part) for part in parts], 3)


@case(0)
def slices_of_places(tf: Any, x: Any) -> Any:
    """Each is of all channels' middle, and they cover none."""
    parts = [x[:, 1:7, 1:7, 4 * i : 4 * i + 4] for i in range(4)]
    return tf.concat([conv(tf, part) for part in parts], 3)


@case(0)
def slices_with_steps(tf: Any, x: Any) -> Any:
    return tf.concat([conv(tf, x[:, :, :, i::4]) for i in range(4)], 3)


@case(0)
def overlapping_slices(tf: Any, x: Any) -> Any:
    parts = [x[:, :, :, 2 * i : 2 * i + 4] for i in range(4)]
    return tf.concat([conv(tf, part) for part in parts], 3)


@case(0)
def concatenated_in_another_order(tf: Any, x: Any) -> Any:
    ends = [conv(tf, part) for part in split(tf, x)]
    return tf.concat([ends[i] for i in (0, 2, 1, 3)], 3)


@case(0)
def some_parts_alone(tf: Any, x: Any) -> Any:
    return tf.concat([conv(tf, part) for part in split(tf, x)[:2]], 3)


@case(0)
def another_among_them(tf: Any, x: Any) -> Any:
    parts = split(tf, x)
    return tf.concat([*(conv(tf, part) for part in parts[:3]), parts[3] * 3.0], 3)


@case(0)
def a_convolution_that_is_read_elsewhere(tf: Any, x: Any) -> Any:
    ends = [conv(tf, part) for part in split(tf, x)]
    return tf.concat(ends, 3) + tf.concat([ends[1]] * 4, 3)


@case(0)
def other_dilations(tf: Any, x: Any) -> Any:
    parts = split(tf, x)
    return tf.concat([conv(tf, part, dilation=1 + i % 2) for i, part in enumerate(parts)], 3)


@case(0)
def other_kernels(tf: Any, x: Any) -> Any:
    return tf.concat([conv(tf, p, size=3 + 2 * (i % 2)) for i, p in enumerate(split(tf, x))], 3)


@case(0)
def other_channels(tf: Any, x: Any) -> Any:
    return tf.concat([conv(tf, p, outputs=4 + i) for i, p in enumerate(split(tf, x))], 3)


@case(0)
def other_activations(tf: Any, x: Any) -> Any:
    ends = [conv(tf, part) for part in split(tf, x)]
    return tf.concat([tf.nn.relu(ends[0]), *ends[1:]], 3)


@case(0)
def unequal_parts(tf: Any, x: Any) -> Any:
    parts = tf.split(x, [4, 4, 6, 2], 3)
    return tf.concat([conv(tf, part) for part in parts], 3)


@case(0)
def rows(tf: Any, x: Any) -> Any:
    return tf.concat([conv(tf, part) for part in split(tf, x, axis=1)], 1)


@case(0)
def rows_put_into_channels(tf: Any, x: Any) -> Any:
    return tf.concat([conv(tf, part) for part in split(tf, x, axis=1)], 3)


@case(0)
def weights_that_are_computed(tf: Any, x: Any) -> Any:
    parts = split(tf, x)
    weights = tf.reshape(tf.reduce_mean(x, [1, 2]), [1, 1, 4, 4])
    return tf.concat([tf.nn.conv2d(part, weights, 1, "SAME") for part in parts], 3)


def make(folder: Path) -> None:
    import tensorflow as tf

    (folder / "in_a_loop.tflite").write_bytes(make_loop(tf))
    for name, build in CASES.items():
        graph = tf.Graph()
        with graph.as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [1, 8, 8, 16], "x")
            y = tf.identity(build(tf, x), "y")
            converter = tf.compat.v1.lite.TFLiteConverter.from_session(session, [x], [y])
            (folder / f"{name}.tflite").write_bytes(converter.convert())


def make_loop(tf: Any) -> bytes:
    """A loop with a group in its body: a model of several graphs, with a SignatureDef's names."""

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 16], tf.float32)])
    def run(x: Any) -> Any:
        def body(i: Any, y: Any) -> Any:
            return i + 1, tf.tanh(plain(tf, y))

        y = tf.while_loop(
            lambda i, y: tf.reduce_mean(y) + tf.cast(i, "float32") < 3.0, body, (0, x)
        )
        return plain(tf, y[1])

    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()])
    content: bytes = converter.convert()
    return content


def join(folder: Path) -> Dict[str, Any]:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter

    from stages.frameworks.tflite_file import drop_unread, pack_model, read_model
    from stages.plain.grouped_convolutions import join_groups

    value = np.random.RandomState(1).randn(1, 8, 8, 16).astype(np.float32)

    def run(content: bytes) -> Sequence[Any]:
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value)
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        kinds = [op["op_name"] for op in interpreter._get_ops_details()]
        return found, [kind for kind in kinds if kind != "DELEGATE"]

    answers = {}
    for name in EXPECTED:
        content = (folder / f"{name}.tflite").read_bytes()
        model = read_model(content, schema)
        joined = join_groups(model, schema)
        drop_unread(model)
        before, after = run(content), run(pack_model(model))
        answers[name] = {
            "joined": joined,
            "moved": float(np.abs(before[0] - after[0]).max()),
            "mean": float(np.abs(before[0]).mean()),
            "before": before[1],
            "after": after[1],
            "versions": [code.version for code in model.operatorCodes],
            "runtime": bytes(model.buffers[model.metadata[0].buffer].data).decode().strip("\0"),
        }
    return answers


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        print(json.dumps(join(Path(sys.argv[2]))))
