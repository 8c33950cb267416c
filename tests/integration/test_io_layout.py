"""--io-layout nhwc: images with their channels last at the model's own inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import BAD_INPUT, DOCKER, PASSED, Convert, run_cli

# Runs two .tflite files that differ in the layout of their images alone, on the same values.
BOTH = """
import json, sys
import numpy as np
import tensorflow as tf

values, results, seen = {}, [], []
random = np.random.RandomState(0)
for file in sys.argv[1:]:
    interpreter = tf.lite.Interpreter(file)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    for detail in inputs:
        shape = list(detail["shape"])
        value = values.setdefault(detail["name"], random.randn(*shape).astype("float32"))
        if value.ndim == 4 and list(value.shape) != shape:
            value = value.transpose(0, 2, 3, 1)
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    results.append({len(d["shape"]): interpreter.get_tensor(d["index"]) for d in outputs})
    operators = [operator["op_name"] for operator in interpreter._get_ops_details()]
    shapes = [d["shape"].tolist() for d in (*inputs, *outputs)]
    seen.append({"operators": operators, "shapes": shapes})
first, second = results
seen.append(float(np.abs(first[4].transpose(0, 2, 3, 1) - second[4]).max()))
seen.append(float(np.abs(first[2] - second[2]).max()))
print(json.dumps(seen))
"""


def both(in_environment: Callable[..., Any], first: Path, second: Path) -> list[Any]:
    done = in_environment("tflite", "-c", BOTH, first, second)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("engine", ["process", DOCKER])
def test_images_are_nhwc_and_the_rest_is_not(
    convert: Convert, in_environment: Callable[..., Any], engine: str
) -> None:
    usual = convert("pictures")
    turned = convert("pictures", "--io-layout", "nhwc", engine=engine)
    assert (usual.code, turned.code) == (PASSED, PASSED), turned.stdout + turned.stderr
    before, after, image, scores = both(
        in_environment, usual.folder / "model.tflite", turned.folder / "model.tflite"
    )
    assert sorted(before["shapes"]) == [[1, 3, 10, 7], [1, 4, 10, 16], [1, 5], [1, 6]]
    assert sorted(after["shapes"]) == [[1, 5], [1, 6], [1, 10, 7, 3], [1, 10, 16, 4]]
    assert "TRANSPOSE" in before["operators"] and "TRANSPOSE" not in after["operators"]
    # The same values at the same places, by another program than the check's own.
    assert image < 1e-6 and scores < 1e-6
    signature = turned.stage("tflite")["report"]["signature"]
    axes = {t["name"]: t["axes"] for t in signature["inputs"] + signature["outputs"]}
    assert axes == {
        "image": [0, 2, 3, 1],
        "weights": [],
        "output_0": [0, 2, 3, 1],
        "output_1": [],
    }
    assert "'image' has its channels last: 1x10x7x3." in turned.report["notes"]


def test_a_graph_made_elsewhere(
    convert: Convert, in_environment: Callable[..., Any], tmp_path: Path
) -> None:
    faithful = convert("pictures", "--faithful")
    graph = faithful.folder / "model.pb"
    for layout in ("nchw", "nhwc"):
        done = run_cli(
            *("convert", "--from-pb", graph, "--output", tmp_path / layout, "--samples", "4"),
            *("--io-layout", layout, "--engine", "process"),
            cwd=tmp_path,
        )
        assert done.returncode == PASSED, done.stdout + done.stderr
    before, after, image, scores = both(
        in_environment, tmp_path / "nchw" / "model.tflite", tmp_path / "nhwc" / "model.tflite"
    )
    assert sorted(before["shapes"]) == [[1, 3, 10, 7], [1, 4, 10, 16], [1, 5], [1, 6]]
    assert sorted(after["shapes"]) == [[1, 5], [1, 6], [1, 10, 7, 3], [1, 10, 16, 4]]
    assert "TRANSPOSE" not in after["operators"]
    assert image < 1e-6 and scores < 1e-6


def test_a_model_without_images_is_left_alone(convert: Convert) -> None:
    usual, turned = convert("two"), convert("two", "--io-layout", "nhwc")
    assert usual.hashes == turned.hashes
    assert any("changes nothing" in note for note in turned.report["notes"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--io-layout", "nhwc", "--faithful"), "need the fix 'layout'"),
        (("--io-layout", "nhwc", "--fixes=-layout"), "need the fix 'layout'"),
        (("--io-layout", "nwhc"), "no layout 'nwhc'"),
    ],
)
def test_what_cannot_be(convert: Convert, options: tuple[str, ...], words: str) -> None:
    refused = convert("cnn", *options)
    assert refused.code == BAD_INPUT
    assert words in refused.stdout + refused.stderr
