"""Each stage by itself, as a program of its own: its defaults, its requests, planted faults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from harness import ARTIFACTS, MODULES, ROOT, STAGES, Convert, leftovers, sha256

PRODUCTS = dict(zip(STAGES, ARTIFACTS, strict=True))


@pytest.fixture(scope="session")
def run_stage(in_environment: Any) -> Any:
    """Run a stage as a user may, by hand."""

    def run(stage: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = in_environment(
            stage, "-m", MODULES[stage], *arguments
        )
        return done

    return run


def report_of(volume: Path, stage: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((volume / "reports" / f"{stage}.json").read_text())
    schema = json.loads((ROOT / "docs/schemas/stage-report.schema.json").read_text())
    jsonschema.validate(loaded, schema)
    return loaded


@pytest.fixture(scope="session")
def chain(models: Path, run_stage: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three stages ran one after another, without any request."""
    volume = tmp_path_factory.mktemp("chain")
    shutil.copyfile(models / "cnn.pt", volume / "model.pt")
    for stage in STAGES:
        finished = run_stage(stage, "--volume", volume)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    return volume


@pytest.fixture
def volume(chain: Path, tmp_path: Path) -> Path:
    """A copy of the chain's folder, to change."""
    return shutil.copytree(chain, tmp_path / "volume")


@pytest.mark.parametrize("stage", STAGES)
def test_help(run_stage: Any, stage: str) -> None:
    finished = run_stage(stage, "--help")
    assert finished.returncode == 0
    for word in ("--volume", "--input", "--output", "default: /artifacts"):
        assert word in " ".join(finished.stdout.split())


@pytest.mark.parametrize("stage", STAGES)
def test_wrong_command_line(run_stage: Any, stage: str) -> None:
    finished = run_stage(stage, "--volumes", "x")
    assert finished.returncode == 2 and "usage:" in finished.stderr


def test_defaults_do_what_the_runner_does(chain: Path, convert: Convert) -> None:
    assert {name: sha256(chain / name) for name in ARTIFACTS} == convert("cnn").hashes
    for stage in STAGES:
        report = report_of(chain, stage)
        assert report["status"] == "ok"
        assert report["check"]["samples"] == 1000
        assert report["check"]["verdict"] == "passed"
        assert report["options"] == convert("cnn").stage(stage)["report"]["options"]
    assert leftovers(chain) == []


SAMPLES = """
import sys
import numpy as np
kept = np.load(sys.argv[1])[:1000]
assert kept.shape == (1000, 1, 3, 32, 32), kept.shape
generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([0, 0])))
assert np.array_equal(kept, generator.standard_normal(kept.shape, dtype=np.float32))
"""


def test_samples_are_what_the_contract_says(chain: Path, in_environment: Any) -> None:
    """It names the generator, so anybody can make the same samples."""
    index = json.loads((chain / "samples/samples.json").read_text())
    assert index["count"] == 1000
    made = in_environment("tflite", "-c", SAMPLES, chain / "samples/input-0.npy")
    assert made.returncode == 0, made.stderr
    assert np.load(chain / "samples/output-0.npy").shape == (1006, 1, 5)
    # Two of each other magnitude follow those that the gate judges.
    others = np.load(chain / "samples/input-0.npy")[1000:].reshape(3, -1).std(axis=1)
    assert np.allclose(others, (1e-3, 1e2, 1e4), rtol=0.1)


TAMPER = """
import sys
import numpy as np, tensorflow as tf
path = sys.argv[1]
graph = tf.compat.v1.GraphDef.FromString(open(path, 'rb').read())
nodes = [n for n in graph.node if n.op == 'Const' and n.attr['value'].tensor.dtype == 1]
tensors = [n.attr['value'].tensor for n in nodes]
tensor = max(tensors, key=lambda t: np.prod([d.size for d in t.tensor_shape.dim]))
values = np.frombuffer(tensor.tensor_content, np.float32).copy()
values[len(values) // 2] += 0.05
tensor.tensor_content = values.tobytes()
open(path, 'wb').write(graph.SerializeToString())
"""


def test_one_wrong_weight_is_caught(volume: Path, run_stage: Any, in_environment: Any) -> None:
    """A weight of 1,960 is off by 0.05: the mean error shows it at once."""
    before = sha256(volume / "model.pb")
    tampered = in_environment("tflite", "-c", TAMPER, volume / "model.pb")
    assert tampered.returncode == 0, tampered.stderr
    assert sha256(volume / "model.pb") != before
    assert run_stage("tflite", "--volume", volume).returncode == 0
    report = report_of(volume, "tflite")
    assert report["check"]["verdict"] == "exceeded"
    (output,) = report["check"]["outputs"]
    assert output["mean_abs"] > 1e-4 and output["times_noise_floor"] > 1000


def request(volume: Path, stage: str, **content: Any) -> None:
    (volume / "requests").mkdir(exist_ok=True)
    (volume / "requests" / f"{stage}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("stage", STAGES)
def test_another_file_than_the_requests_is_refused(
    volume: Path, run_stage: Any, stage: str
) -> None:
    """Before anything is loaded, or unpickled."""
    consumed = {"torch": "model.pt", "onnx-tf": "model.onnx", "tflite": "model.pb"}[stage]
    (volume / PRODUCTS[stage]).unlink()
    request(volume, stage, input={"path": consumed, "sha256": "0" * 64})
    finished = run_stage(stage, "--volume", volume)
    assert finished.returncode == 1
    report = report_of(volume, stage)
    assert report["status"] == "failed" and report["artifact"] is None
    assert "sha256 differs" in report["error"]["message"]
    assert report["error"]["remedy"]
    assert not {"torch", "tensorflow", "onnx"} & report["versions"].keys()
    assert not (volume / PRODUCTS[stage]).exists()
    assert leftovers(volume) == []


@pytest.mark.parametrize("stage", STAGES)
def test_an_empty_volume(tmp_path: Path, run_stage: Any, stage: str) -> None:
    finished = run_stage(stage, "--volume", tmp_path)
    assert finished.returncode == 1
    error = report_of(tmp_path, stage)["error"]
    assert error["blame"] == "input" and "--input" in error["remedy"]


@pytest.mark.parametrize(("stage", "name"), [("onnx-tf", "model.onnx"), ("tflite", "model.pb")])
@pytest.mark.parametrize("content", [b"", b"nonsense", None], ids=["empty", "nonsense", "cut off"])
def test_a_damaged_artifact(
    volume: Path, run_stage: Any, stage: str, name: str, content: bytes | None
) -> None:
    file = volume / name
    file.write_bytes(file.read_bytes()[:-700] if content is None else content)
    finished = run_stage(stage, "--volume", volume)
    assert finished.returncode == 1, finished.stdout
    error = report_of(volume, stage)["error"]
    assert error["blame"] == "input" and error["remedy"]
    assert name in error["message"]


def test_a_graph_made_elsewhere_without_samples(
    chain: Path, tmp_path: Path, run_stage: Any
) -> None:
    """Another name in, another name out, nothing to compare with: which is said."""
    shutil.copyfile(chain / "model.pb", tmp_path / "theirs.pb")
    arguments = ("--volume", tmp_path, "--input", "theirs.pb", "--output", "ours.tflite")
    finished = run_stage("tflite", *arguments)
    assert finished.returncode == 0, finished.stderr
    report = report_of(tmp_path, "tflite")
    assert report["check"] is None
    notes = " ".join(report["notes"])
    assert "not checked" in notes and "Inputs: " in notes
    assert report["artifact"]["path"] == "ours.tflite"
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.pb", "ours.tflite", "reports"}
    named = run_stage("tflite", *arguments, "--inputs", "input", "--outputs", "nothing")
    assert named.returncode == 1
    assert "no tensor 'nothing'" in report_of(tmp_path, "tflite")["error"]["message"]


def test_the_command_line_wins_over_the_request(volume: Path, run_stage: Any) -> None:
    request(volume, "torch", options={"opset": 9}, check={"samples": 3})
    assert run_stage("torch", "--volume", volume, "--opset", "10").returncode == 0
    report = report_of(volume, "torch")
    assert report["options"]["opset"] == 10
    assert report["check"]["samples"] == 3


@pytest.mark.parametrize(
    ("stage", "option", "value"),
    [("torch", "opset", "eleven"), ("torch", "opset", 11.5), ("tflite", "flex", "perhaps")],
)
def test_an_option_of_another_type_is_refused(
    volume: Path, run_stage: Any, stage: str, option: str, value: Any
) -> None:
    request(volume, stage, options={option: value})
    assert run_stage(stage, "--volume", volume).returncode == 1
    error = report_of(volume, stage)["error"]
    assert error["blame"] == "input" and error["remedy"]
    assert f"{stage}.{option}" in error["message"] and repr(value) in error["message"]


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch, convert: Convert) -> Any:
    """`docker compose` in a project of its own, which is removed afterwards."""
    assert convert("cnn", engine="docker").code == 0  # the images are there, and current
    environment = {**os.environ, "COMPOSE_PROJECT_NAME": f"runner-test-{os.getpid()}"}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )

    yield run
    removed = run("down", "--volumes", "--timeout", "0")
    assert removed.returncode == 0, removed.stderr


@pytest.mark.docker
def test_tflite_stage_by_compose(
    compose: Any, chain: Path, tmp_path: Path, convert: Convert
) -> None:
    """`docker compose run --rm tflite-stage` on a volume that holds a frozen graph alone."""
    for arguments in (
        ("create", "tflite-stage"),
        ("cp", chain / "model.pb", "tflite-stage:/artifacts/model.pb"),
        ("run", "--rm", "tflite-stage"),
        ("cp", "tflite-stage:/artifacts/model.tflite", tmp_path / "model.tflite"),
        ("cp", "tflite-stage:/artifacts/reports/tflite.json", tmp_path / "tflite.json"),
    ):
        finished = compose(*arguments)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    assert sha256(tmp_path / "model.tflite") == convert("cnn").hashes["model.tflite"]
    assert json.loads((tmp_path / "tflite.json").read_text())["status"] == "ok"
    # A stage that fails is seen by its exit status.
    assert compose("run", "--rm", "onnx-tf-stage").returncode == 1
