"""`runner inspect`: what a file is, on files that this toolchain and other tools wrote."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import (
    BAD_INPUT,
    DOCKER,
    ENVIRONMENT,
    USER_CODE,
    Convert,
    run_cli,
    run_here,
)

from runner.errors import BadInput
from runner.planning.source import identify_source, summarize
from runner.schemas.inspection import Inspection
from runner.toolchains.load import load_toolchain

NOWHERE = {"DOCKER_HOST": "unix:///nothing.sock"}


def inspect(file: Path, *options: str | Path, engine: str = "process", **settings: Any) -> Any:
    """The inspection of a file, as JSON tells it."""
    done = run_cli(
        *("inspect", file, "--json", "--engine", engine, *options), cwd=file.parent, **settings
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Inspection.model_validate_json(done.stdout)


FRAMEWORKS = {
    "model.onnx": "ONNX Runtime 1.4.0",
    "model.pb": "TensorFlow 2.4.0",
    "model.tflite": "TensorFlow Lite 2.4.0",
}


@pytest.mark.parametrize("engine", ["process", DOCKER])
def test_a_model_in_its_own_framework(models: Path, engine: str) -> None:
    found = inspect(models / "script.pt", engine=engine)
    assert (found.format, found.written_by) == ("torchscript", "PyTorch 1.4 or 1.5")
    assert found.loaded is not None and found.loaded.ok
    assert (found.loaded.framework, found.loaded.engine) == ("PyTorch 1.5.1", engine)
    assert found.loaded.facts["input that fits"] == "1x3x32x32:float32"
    assert found.operators is not None and found.operators["aten::_convolution"] == 2
    # Two convolutions, two normalizations and a classifier.
    assert found.parameters == (3 * 9 * 6 + 6) + 12 + 6 * 9 * 8 + 16 + (392 * 5 + 5)
    assert found.toolchain.accepted
    if engine == "docker":
        running = subprocess.run(
            ["docker", "ps", "-aq", "--filter", "label=org.runner.stage=inspect"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert not running.stdout.strip()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_artifacts_of_a_conversion(convert: Convert, name: str) -> None:
    run = convert("cnn")
    found = inspect(run.folder / name)
    assert found.loaded is not None and found.loaded.framework == FRAMEWORKS[name]
    assert found.loaded.ok, found.loaded.message
    assert [(t.shape, t.dtype) for t in found.inputs or []] == [([1, 3, 32, 32], "float32")]
    assert [(t.shape, t.dtype) for t in found.outputs or []] == [([1, 5], "float32")]
    stage = {"model.onnx": "torch", "model.pb": "onnx-tf", "model.tflite": "tflite"}[name]
    assert found.operators == run.stage(stage)["report"]["operators"]
    assert found.parameters is not None and 2_500 < found.parameters < 2_700
    if name == "model.tflite":
        assert found.toolchain.accepted is None
        assert found.layout.startswith("NHWC")
        assert "turned from NCHW first" in found.layout
        assert found.written_by.startswith("TensorFlow's converter")
    else:
        assert found.toolchain.accepted
    if name == "model.onnx":
        assert (found.written_by, found.details["operator set"]) == ("pytorch 1.5", "11")


def test_what_is_this_pb(foreign: Path) -> None:
    """The answer in words, of a graph that is frozen and of one that is not."""
    done = run_cli("inspect", foreign / "keras.pb", "--engine", "process", cwd=foreign)
    assert done.returncode == 0
    said = " ".join(done.stdout.split())  # lines break where the path is long
    for words in ("frozen TensorFlow graph", "TensorFlow 2.4.0", "1x16x16x3", "4,037", "--from-pb"):
        assert words in said
    for file in (foreign / "saved", foreign / "saved" / "saved_model.pb"):
        found = inspect(file)
        assert (found.format, found.written_by) == ("saved-model", "TensorFlow 2.4.0")
        assert "serving_default" in found.details["signatures"]
        assert [t.shape for t in found.inputs or []] == [["?", 16, 16, 3]]
        assert found.toolchain.accepted is False
        assert "convert_variables_to_constants" in found.toolchain.obstacles[0].remedy
    assert [summarize(foreign / f"{kind}.pb").layout for kind in ("NCHW", "NHWC")] == [
        "NCHW",
        "NHWC",
    ]
    assert inspect(foreign / "keras.h5").what == "Keras model (HDF5)"
    assert "without the model" in inspect(foreign / "weights.h5").what


def test_a_quantised_model(foreign: Path) -> None:
    found = inspect(foreign / "int8.tflite")
    assert found.inputs is not None and found.inputs[0].dtype == "int8"
    assert found.inputs[0].quantization.startswith("scale 0.0")
    assert found.parameter_types["int8 quantized"] > 4000
    assert found.details["oldest runtime"]


def test_operators_that_need_the_flex_delegate(foreign: Path) -> None:
    found = inspect(foreign / "flex.tflite")
    assert (found.flex, found.custom) == (["FlexErf"], [])
    assert any("Flex delegate" in note for note in found.notes)
    assert found.loaded is not None and found.loaded.ok, found.loaded
    assert found.loaded.facts["Flex"] == "FlexErf"


def test_files_of_newer_tools(newer: Path) -> None:
    model = inspect(newer / "newer.onnx")
    assert (model.details["operator set"], model.details["ONNX IR version"]) == ("17", "10")
    assert model.operators is not None and model.operators["Conv"] == 2
    assert model.toolchain.accepted
    assert any("Operator set 17 is rewritten for 12" in note for note in model.notes)
    assert model.loaded is not None and model.loaded.ok, model.loaded
    converted = inspect(newer / "cnn.onnx2tf.tflite")
    assert converted.written_by.startswith("onnx2tf")
    assert converted.loaded is not None and converted.loaded.ok
    assert converted.operators == {
        "CONV_2D": 2,
        "TRANSPOSE": 1,
        "RELU": 1,
        "RESHAPE": 1,
        "FULLY_CONNECTED": 1,
    }
    gelu = inspect(newer / "gelu.onnx2tf.tflite")
    assert gelu.operators is not None and gelu.operators["GELU"] == 1
    assert gelu.loaded is not None and not gelu.loaded.ok
    assert "code 150" in gelu.loaded.message


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """No environment at all: neither an engine nor what the process engine has installed."""
    return {**NOWHERE, "RUNNER_CACHE_DIR": str(tmp_path / "cache")}


def test_a_summary_needs_no_environment(
    convert: Convert, models: Path, foreign: Path, bare: dict[str, str], tmp_path: Path
) -> None:
    made = convert("cnn").folder
    for file in (*(made / name for name in FRAMEWORKS), models / "cnn.pt", foreign / "int8.tflite"):
        found = inspect(file, engine="auto", environment=bare)
        assert found.loaded is None
        assert "not on this machine" in found.not_loaded
        assert found.parameters and found.what and found.sha256
        asked = inspect(file, "--summary")
        assert asked.loaded is None and asked.parameters == found.parameters
    assert not (tmp_path / "cache").exists()
    done = run_cli("inspect", made / "model.pb", "--engine", "docker", cwd=made, environment=bare)
    assert done.returncode == ENVIRONMENT
    said = run_cli("inspect", made / "model.pb", cwd=made, environment=bare)
    assert "not loaded: the environment 'tflite' is not on this machine" in said.stdout


def test_convert_and_inspect_agree(models: Path, foreign: Path, newer: Path) -> None:
    """What the host says of a file when it is to be converted, it says when it is inspected."""
    files = [*models.glob("*.pt"), *foreign.glob("*.onnx"), *foreign.glob("*.p[bt]")]
    assert len(files) > 25
    for file in files:
        found = summarize(file)
        chains = {".pt": "pytorch", ".onnx": "onnx", ".pb": "frozen-graph"}
        try:
            chain = load_toolchain(accepts=chains[file.suffix])
            model = identify_source(chain, file)
        except BadInput as error:
            needs_arch = found.format in ("state-dict", "checkpoint")
            assert needs_arch or found.toolchain.accepted is False, f"{file.name}: {error}"
            continue
        assert found.toolchain.accepted, file.name
        assert found.what == model.kind or found.format == "frozen-graph"


def test_a_pickle_is_never_run_on_the_host(foreign: Path) -> None:
    bare = {
        "RUNNER_BWRAP": "/nonexistent",
        "RUNNER_TRUST_MODEL": "0",
        "DOCKER_HOST": "unix:///none",
    }
    for name in ("calls.pt", "checkpoint.pt"):
        arch = ("--arch", "torchvision.models:mobilenet_v2")
        found = inspect(foreign / name, *arch, engine="auto", environment=bare)
        assert found.loaded is None and found.not_loaded
        assert found.details["calls for"] == "posix.system"
        assert found.toolchain.accepted is False
    assert not (foreign / "pwned").exists()


def test_code_of_the_users(models: Path) -> None:
    without = inspect(models / "own.pt")
    assert "user_code.OwnNet" in without.toolchain.obstacles[0].reason
    assert "--arch" in without.not_loaded
    found = inspect(models / "own.pt", "--arch", USER_CODE)
    assert found.loaded is not None and found.loaded.ok, found.loaded
    assert found.toolchain.accepted
    weights = inspect(
        models / "weights.pt", "--arch", f"{USER_CODE}:OwnNet", "--arch-args", '{"classes": 7}'
    )
    assert weights.loaded is not None and weights.loaded.ok
    assert weights.parameters == 287
    wrong = inspect(models / "weights.pt", "--arch", f"{USER_CODE}:OwnNet")
    assert wrong.loaded is not None and not wrong.loaded.ok
    assert "do not fit" in wrong.loaded.message
    assert wrong.toolchain.accepted is False


@pytest.mark.parametrize(
    "name", ["cnn.pt", "script.pt", "cnn.onnx", "keras.pb", "keras.tflite", "keras.h5", "saved"]
)
def test_a_truncated_file(
    models: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = next(f / name for f in (models, foreign) if (f / name).exists())
    content = (source / "saved_model.pb" if source.is_dir() else source).read_bytes()
    for share in (0.3, 0.9, 0.999):
        file = tmp_path / "cut.bin"
        file.write_bytes(content[: int(len(content) * share)])
        done = run_here(capsys, "inspect", file, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["damaged"], share
        assert "truncated or damaged" in found["toolchain"]["obstacles"][0]["reason"]
        assert found["loaded"] is None


@pytest.mark.parametrize(
    "name", ["keras.tflite", "int8.tflite", "keras.pb", "cnn.onnx", "calls.pt"]
)
def test_flipped_bytes_break_no_reader(foreign: Path, tmp_path: Path, name: str) -> None:
    content = (foreign / name).read_bytes()
    chosen = random.Random(0)
    for _ in range(150):
        flipped = bytearray(content)
        for _ in range(chosen.randint(1, 6)):
            # The structure is in the front and at the back, the weights between.
            place = chosen.choice((chosen.randrange(len(content)), chosen.randrange(200)))
            flipped[place % len(content)] = chosen.randrange(256)
        (tmp_path / "flipped").write_bytes(flipped)
        summarize(tmp_path / "flipped")


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("not a model\n")
    for arguments, said in (
        (("nothing.onnx",), "There is no file"),
        (("empty.onnx",), "is empty"),
        ((".",), "no SavedModel"),
        (("text.onnx", "--engine", "none"), "no engine 'none'"),
        (("text.onnx", "--arch-args", "["), "not JSON"),
        ((), "Missing argument"),
    ):
        done = run_here(capsys, "inspect", *arguments, cwd=tmp_path)
        assert done.returncode == BAD_INPUT, arguments
        assert said in done.stderr
    strange = tmp_path / "a\x1b[31mred\nname.onnx"
    strange.write_text("hello\n")
    done = run_here(capsys, "inspect", strange, cwd=tmp_path)
    assert done.returncode == 0
    assert "\x1b[31m" not in done.stdout
    assert "Its name ends in .onnx, and it is something else." in done.stdout
