"""`--faithful` gives what the pinned tools alone give, as a script of 2020 would have used them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from harness import Run

EXPORT = """
import sys, torch
model = torch.load(sys.argv[1]).eval()
torch.onnx.export(model, torch.zeros(1, 3, 32, 32), sys.argv[2], opset_version=11,
                  input_names=["input"], output_names=["output"])
"""
PREPARE = """
import sys, onnx
from onnx_tf.backend import prepare
prepare(onnx.load(sys.argv[1])).export_graph(sys.argv[2])
"""
# The attributes of a node come in the order of a hash table, which differs from run to run; sorted,
# equal graphs are equal bytes.
SORTED = """
import sys, tensorflow as tf
for name in sys.argv[1:]:
    graph = tf.compat.v1.GraphDef.FromString(open(name, "rb").read())
    open(name, "wb").write(graph.SerializeToString(deterministic=True))
"""
CONVERT = """
import sys, tensorflow as tf
converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(sys.argv[1], ["input"], ["output"])
open(sys.argv[2], "wb").write(converter.convert())
"""
RunIn = Callable[..., "subprocess.CompletedProcess[str]"]


def test_each_artifact_is_that_of_the_tools_alone(
    convert: Callable[..., Run], models: Path, in_environment: RunIn, tmp_path: Path
) -> None:
    run = convert("cnn", "--faithful", "--input", "1x3x32x32")
    assert run.code == 0, run.stdout
    assert [stage["report"]["fixes"] for stage in run.report["stages"]] == [[], [], []]
    steps = (
        ("torch", EXPORT, models / "cnn.pt", "model.onnx"),
        ("onnx-tf", PREPARE, run.folder / "model.onnx", "model.pb"),
        ("tflite", CONVERT, run.folder / "model.pb", "model.tflite"),
    )
    for image, program, source, name in steps:
        done = in_environment(image, "-c", program, source, tmp_path / name)
        assert done.returncode == 0, done.stderr
        if name == "model.pb":
            in_environment("onnx-tf", "-c", SORTED, tmp_path / name)
        assert (tmp_path / name).read_bytes() == (run.folder / name).read_bytes(), name


def test_the_fixes_change_the_graph(convert: Callable[..., Run]) -> None:
    faithful = convert("cnn", "--faithful", "--input", "1x3x32x32")
    fixed = convert("cnn", "--input", "1x3x32x32")
    assert fixed.code == 0
    assert fixed.stage("onnx-tf")["report"]["fixes"]
    assert fixed.hashes["model.pb"] != faithful.hashes["model.pb"]
