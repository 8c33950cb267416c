"""Conversions that begin half way: an ONNX model or a frozen graph made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness import (
    ARTIFACTS,
    DOCKER,
    RECORD,
    ROOT,
    SHOW_A_GPU,
    docker_leftovers,
    leftovers,
    run_cli,
    sha256,
)

# Depthwise, BatchNorm, ReLU6, a pool and a classifier: what a GPU machine's graph gets wrong.
MAKE_MODELS = """
import sys
import onnx
import torch
from torch import nn

torch.manual_seed(0)
folder = sys.argv[1]
depthwise = [nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), *depthwise,
    nn.MaxPool2d(2), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5))
for module in model.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = None
        module.reset_running_stats()
model.train()
with torch.no_grad():
    for _ in range(4):
        model(torch.randn(8, 3, 16, 16))
model.eval()


def export(model, name, *shape, **settings):
    settings.update(opset_version=11, input_names=["image"], output_names=["scores"])
    torch.onnx.export(model, torch.randn(*shape), f"{folder}/{name}.onnx", **settings)
    return onnx.load(f"{folder}/{name}.onnx")


fixed = export(model, "fixed", 1, 3, 16, 16)
export(model, "batch", 1, 3, 16, 16, dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}})
convolution = nn.Conv2d(3, 4, 3)
export(convolution, "sizes", 1, 3, 8, 8, dynamic_axes={"image": {2: "height", 3: "width"}})
for name, change in {
    "newer_ir": lambda m: setattr(m, "ir_version", 10),
    "newer_opset": lambda m: setattr(m.opset_import[0], "version", 24),
    "lost": lambda m: setattr(m.graph.node[0], "op_type", "NonMaxSuppression"),
    "foreign": lambda m: setattr(m.graph.node[0], "domain", "com.example"),
    "external": lambda m: setattr(m.graph.initializer[0], "data_location", 1),
    "invalid": lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"),
}.items():
    changed = onnx.ModelProto.FromString(fixed.SerializeToString())
    change(changed)
    open(f"{folder}/{name}.onnx", "wb").write(changed.SerializeToString())
"""
MAKE_CONTROL_FLOW = """
import sys
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def info(name, *shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def branch(op_type):
    node = helper.make_node(op_type, ["x"], [f"{op_type}_out"], op_type)
    return helper.make_graph([node], op_type, [], [info(f"{op_type}_out", 1, 6)])


weights = numpy_helper.from_array(np.random.RandomState(0).randn(6, 6).astype("f4") / 3, "w")
body = helper.make_graph(
    [
        helper.make_node("MatMul", ["state_in", "w"], ["product"], "product"),
        helper.make_node("Tanh", ["product"], ["state_out"], "squash"),
        helper.make_node("Identity", ["state_out"], ["step"], "keep"),
        helper.make_node("Identity", ["going_in"], ["going_out"], "go_on"),
    ],
    "body",
    [info("i", kind=TensorProto.INT64), info("going_in", kind=TensorProto.BOOL),
     info("state_in", 1, 6)],
    [info("going_out", kind=TensorProto.BOOL), info("state_out", 1, 6), info("step", 1, 6)],
)
nodes = [
    helper.make_node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
    helper.make_node("Greater", ["sum", "zero"], ["positive"], "compare"),
    helper.make_node("If", ["positive"], ["chosen"], "choose",
                     then_branch=branch("Sigmoid"), else_branch=branch("Neg")),
    helper.make_node("Loop", ["times", "always", "chosen"], ["last", "steps"], "repeat", body=body),
]
constants = [weights, numpy_helper.from_array(np.array(True), "always"),
             numpy_helper.from_array(np.array(3, "i8"), "times"),
             numpy_helper.from_array(np.array(0, "f4"), "zero")]
graph = helper.make_graph(nodes, "g", [info("x", 1, 6)],
                          [info("last", 1, 6), info("steps", 3, 1, 6)], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
onnx.checker.check_model(model)
onnx.save(model, f"{sys.argv[1]}/flow.onnx")
"""
MAKE_GRAPHS = """
import sys
import numpy as np
import tensorflow as tf
v1 = tf.compat.v1
folder = sys.argv[1]
with tf.Graph().as_default() as graph:
    image = v1.placeholder(tf.float32, [None, 8, 8, 3], "image")
    weights = tf.constant(np.random.RandomState(0).randn(3, 3, 3, 4), tf.float32)
    tf.identity(tf.nn.relu(tf.nn.conv2d(image, weights, 1, "SAME")), "result")
    given = graph.as_graph_def()
    open(f"{folder}/keras.pb", "wb").write(given.SerializeToString())
    v1.get_variable("state", [3])
    open(f"{folder}/variables.pb", "wb").write(graph.as_graph_def().SerializeToString())
open(f"{folder}/text.pb", "w").write(str(given))
module = tf.Module()
module.call = tf.function(lambda x: x + 1, [tf.TensorSpec([1, 2])])
tf.saved_model.save(module, f"{folder}/saved")
"""


@dataclass(frozen=True)
class Entry:
    """A finished `runner convert --from-...`."""

    code: int
    output: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return loaded

    def operators(self, stage: int) -> dict[str, int]:
        found: dict[str, int] = self.report["stages"][stage]["report"]["operators"]
        return found


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory, in_environment: Any) -> Path:
    """A folder of ONNX models and frozen graphs, as other people's tools leave them."""
    folder = tmp_path_factory.mktemp("given")
    made = in_environment("torch", "-c", MAKE_MODELS, folder)
    assert made.returncode == 0, made.stderr
    made = in_environment("torch", "-c", MAKE_CONTROL_FLOW, folder)
    assert made.returncode == 0, made.stderr
    made = in_environment("tflite", "-c", MAKE_GRAPHS, folder)
    assert made.returncode == 0, made.stderr
    arguments = ("--volume", folder, "--input", "fixed.onnx", "--fixes", "none")
    for name, sees_gpu in (("nchw", "true"), ("nhwc", "false")):
        made = in_environment(
            *("onnx-tf", "-c", SHOW_A_GPU, *arguments),
            *("--output", f"{name}.pb", "--prepare-sees-gpu", sees_gpu),
        )
        # The stage runs what it has written, which fails for NCHW; the graph is there.
        assert (folder / f"{name}.pb").exists(), made.stderr
    assert b"NCHW" in (folder / "nchw.pb").read_bytes()
    return folder


Enter = Callable[..., Entry]


@pytest.fixture(scope="session")
def enter(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Enter:
    """Convert a given file, once a session for the same arguments."""
    done: dict[tuple[str, ...], Entry] = {}

    def run(name: str, *options: str, engine: str = "process") -> Entry:
        key = (name, engine, *options)
        if key not in done:
            folder = tmp_path_factory.mktemp("entries") / "run"
            source = ("--from-onnx" if name.endswith(".onnx") else "--from-pb", given / name)
            finished = run_cli(
                *("convert", *source, "--output", folder, "--samples", "8", "--engine", engine),
                *options,
                cwd=given,
            )
            done[key] = Entry(finished.returncode, finished.stdout + finished.stderr, folder)
        return done[key]

    return run


@pytest.mark.parametrize("engine", ["process", DOCKER])
class TestOnnx:
    """A model whose batch size is open."""

    @pytest.fixture
    def run(self, enter: Enter, engine: str) -> Entry:
        return enter("batch.onnx", engine=engine)

    def test_it_converts(self, run: Entry, engine: str) -> None:
        assert run.code == 0, run.output
        report = run.report
        assert (report["outcome"], report["toolchain"]) == ("passed", "onnx-tflite-2020")
        assert [stage["name"] for stage in report["stages"]] == ["onnx", "onnx-tf", "tflite"]
        assert report["model"]["kind"] == "ONNX model"
        assert report["gate"]["value"] < 1e-6
        schema = json.loads((ROOT / "docs/schemas/report.schema.json").read_text())
        jsonschema.validate(report, schema)
        there = {path.name for path in run.folder.iterdir()}
        assert there == {*ARTIFACTS, *RECORD, "logs"}
        assert leftovers(run.folder) == []
        if engine == "docker":
            assert docker_leftovers(report["run"]) == ""

    def test_the_reference_is_named(self, run: Entry) -> None:
        assert run.report["reference"] == "ONNX Runtime"
        assert any("run by ONNX Runtime 1.4.0" in note for note in run.report["notes"])
        assert any("'image' (nx3x16x16) is open: 1 is taken" in n for n in run.report["notes"])

    def test_the_same_repairs_apply(self, run: Entry) -> None:
        operators = run.operators(2)
        assert operators.get("CONV_2D") == 2
        assert operators.get("DEPTHWISE_CONV_2D") == 1
        assert not operators.keys() & {"SPLIT", "MUL", "MINIMUM"}


def test_both_engines_give_the_same_bytes(enter: Enter, request: pytest.FixtureRequest) -> None:
    run = enter("fixed.onnx")
    assert run.code == 0, run.output
    again = enter("fixed.onnx", "--seed", "0")
    for name in ("model.onnx", "model.pb", "model.tflite"):
        assert sha256(run.folder / name) == sha256(again.folder / name)


def test_a_newer_ir_version_is_read_as_an_older_one(enter: Enter) -> None:
    run = enter("newer_ir.onnx")
    assert run.code == 0, run.output
    assert any("IR version 10, newer than" in note for note in run.report["notes"])


def test_branches_and_loops(enter: Enter) -> None:
    """An If whose condition depends on the input, and a Loop that runs a known number of times."""
    run = enter("flow.onnx")
    assert run.code == 0, run.output
    operators = run.operators(2)
    assert not operators.keys() & {"IF", "WHILE"}
    assert operators["TANH"] == 3
    assert "control-flow" in run.report["stages"][1]["report"]["fixes"]
    without = enter("flow.onnx", "--fixes=-control-flow")
    assert without.code == 3, without.output
    assert "'choose' (ONNX operator If" in " ".join(without.output.split())


def test_open_sizes_are_fixed_by_input(enter: Enter) -> None:
    run = enter("sizes.onnx", "--input", "image=1x3x9x11")
    assert run.code == 0, run.output
    record = run.report["stages"][-1]["report"]["signature"]["outputs"][0]
    assert record["shape"] == [1, 4, 7, 9]


@pytest.mark.parametrize("engine", ["process", DOCKER])
class TestGraphOfAGpuMachine:
    """A graph by onnx-tf where it saw a GPU: NCHW, which no CPU runs."""

    @pytest.fixture
    def run(self, enter: Enter, engine: str) -> Entry:
        return enter("nchw.pb", engine=engine)

    def test_it_converts(self, run: Entry, engine: str) -> None:
        assert run.code == 0, run.output
        report = run.report
        assert (report["outcome"], report["toolchain"]) == ("passed", "pb-tflite-2020")
        assert [stage["name"] for stage in report["stages"]] == ["graph", "tflite"]
        assert report["model"]["kind"] == "frozen graph"
        assert report["gate"]["value"] < 1e-6
        assert report["stages"][0]["report"]["noise_floor"]["samples"] == 8

    def test_the_reference_is_named(self, run: Entry) -> None:
        assert run.report["reference"] == "TensorFlow"
        assert any("layout changed by Grappler" in note for note in run.report["notes"])

    def test_the_graph_is_repaired(self, run: Entry) -> None:
        assert b"NCHW" not in (run.folder / "model.pb").read_bytes()
        operators = run.operators(1)
        assert operators.get("CONV_2D") == 2
        assert operators.get("DEPTHWISE_CONV_2D") == 1
        assert not operators.keys() & {"SPLIT", "MUL", "MINIMUM", "MAXIMUM"}
        # One at the input, and one before the features are flattened in PyTorch's order.
        assert operators.get("TRANSPOSE", 0) <= 2
        assert run.report["stages"][0]["report"]["fixes"] == [
            *("graph-constants", "graph-depthwise", "graph-layout", "graph-operators")
        ]


def test_transposes_of_a_cpu_graph_go_too(enter: Enter) -> None:
    run = enter("nhwc.pb")
    assert run.code == 0, run.output
    assert not any("Grappler" in note for note in run.report["notes"])
    assert run.operators(1) == enter("nchw.pb").operators(1)


def test_the_graph_computes_what_onnx_runtime_computes(
    enter: Enter, given: Path, in_environment: Any, tmp_path: Path
) -> None:
    """The layout is right, against another framework and not only against the graph itself."""
    script = """
import sys
import numpy as np
given, model, out = sys.argv[1:]
x = np.random.RandomState(1).randn(1, 3, 16, 16).astype(np.float32)
if model == "onnx":
    import onnxruntime
    y = onnxruntime.InferenceSession(given).run(None, {"image": x})[0]
else:
    import tensorflow as tf
    interpreter = tf.lite.Interpreter(model_path=given)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
np.save(out, y)
"""
    import numpy as np

    tflite = enter("nchw.pb").folder / "model.tflite"
    for image, path, kind in (
        ("torch", given / "fixed.onnx", "onnx"),
        ("tflite", tflite, "tflite"),
    ):
        done = in_environment(image, "-c", script, path, kind, tmp_path / f"{kind}.npy")
        assert done.returncode == 0, done.stderr
    expected, found = (np.load(tmp_path / f"{kind}.npy") for kind in ("onnx", "tflite"))
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_graph_of_channels_last_is_left_so(enter: Enter) -> None:
    run = enter("keras.pb")
    assert run.code == 0, run.output
    assert run.operators(1) == {"CONV_2D": 1}
    assert any("'image' (?x8x8x3) is open: 1 is taken" in n for n in run.report["notes"])


# Option and file; then the exit code and what the message says, in order.
REFUSED: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "opset": ("--from-onnx", "newer_opset.onnx", 2, ("operator set 24", "opset_version=18")),
    "operator": ("--from-onnx", "lost.onnx", 2, ("NonMaxSuppression cannot", "outside the model")),
    "foreign": ("--from-onnx", "foreign.onnx", 2, ("'Conv' of the domain 'com.example'",)),
    "external": ("--from-onnx", "external.onnx", 2, ("weights in other files", "onnx.save")),
    "invalid": ("--from-onnx", "invalid.onnx", 2, ("not a valid ONNX model", "Export it again")),
    "sizes": ("--from-onnx", "sizes.onnx", 2, ("1x3xheightxwidth", "--input image=NxNxNxN")),
    "graph as onnx": ("--from-onnx", "nhwc.pb", 2, ("a frozen graph, not", "--from-pb")),
    "onnx as graph": ("--from-pb", "fixed.onnx", 2, ("an ONNX model, not", "--from-onnx")),
    "onnx as pytorch": ("--model", "fixed.onnx", 2, ("an ONNX model", "--from-onnx")),
    "cut onnx": ("--from-onnx", "cut.onnx", 2, ("truncated", "Copy")),
    "cut graph": ("--from-pb", "cut.pb", 2, ("truncated", "Copy")),
    "variables": ("--from-pb", "variables.pb", 2, ("has variables", "Freeze it")),
    "text": ("--from-pb", "text.pb", 2, ("as text (.pbtxt)", "text_format.Parse")),
    "saved model": ("--from-pb", "saved/saved_model.pb", 2, ("SavedModel", "Freeze it")),
    "saved folder": ("--from-pb", "saved", 2, ("SavedModel", "Freeze it")),
    "none": ("--from-pb", "absent.pb", 2, ("There is no file",)),
    "tflite": ("--from-pb", "model.tflite", 2, ("TensorFlow Lite model already", "nothing left")),
    "keras": ("--from-pb", "model.h5", 2, ("HDF5", "export it")),
    "zip": ("--from-onnx", "model.zip", 2, ("a PyTorch file or another archive", "--model")),
    "empty": ("--from-onnx", "empty.onnx", 2, ("is empty",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named(given: Path, tmp_path: Path, name: str) -> None:
    (given / "cut.onnx").write_bytes((given / "fixed.onnx").read_bytes()[:-40])
    (given / "cut.pb").write_bytes((given / "nhwc.pb").read_bytes()[:900])
    (given / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(600))
    (given / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    (given / "model.zip").write_bytes(b"PK\x03\x04" + bytes(600))
    (given / "empty.onnx").write_bytes(b"")
    option, file, code, said = REFUSED[name]
    arguments = ("--samples", "2", "--engine", "process", "--output", tmp_path / "run")
    finished = run_cli("convert", option, given / file, *arguments, cwd=tmp_path)
    assert finished.returncode == code, finished.stdout + finished.stderr
    output = " ".join((finished.stdout + finished.stderr).split())
    position = 0
    for text in said:
        assert text in output[position:], output
        position = output.index(text, position)
    assert "Traceback" not in finished.stderr


def test_one_source_is_given(given: Path, tmp_path: Path) -> None:
    both = ("--model", given / "x.pt", "--from-onnx", given / "fixed.onnx")
    for arguments in ((), both):
        finished = run_cli("convert", *arguments, cwd=tmp_path)
        assert finished.returncode == 2
        assert "one of --model, --from-onnx and --from-pb" in finished.stderr
    wrong = ("--from-onnx", given / "fixed.onnx", "--toolchain", "pb-tflite-2020")
    finished = run_cli("convert", *wrong, cwd=tmp_path)
    assert finished.returncode == 2
    assert "does not start from what --from-onnx names" in finished.stderr
