"""The record that a run leaves: an in-toto statement with SLSA provenance, and a test result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness import (
    BAD_INPUT,
    DOCKER,
    ENGINES,
    ROOT,
    STAGE_FAILED,
    SUPPORT,
    USER_CODE,
    VACUOUS,
    Convert,
    Run,
    run_here,
    sha256,
)

from runner.packages.lockfile import parse_lock
from runner.toolchains.load import load_image, load_toolchain

PUBLISHED = {
    "provenance.json": "slsa-provenance-v1.json",
    "test-result.json": "test-result-v0.1.json",
}


def statement(run: Run, name: str = "provenance.json") -> dict[str, Any]:
    """A statement of a run, valid by the published schema and by this project's own."""
    loaded: dict[str, Any] = json.loads((run.folder / name).read_text())
    for schema in (
        SUPPORT / "schemas" / PUBLISHED[name],
        ROOT / "docs/schemas" / name.replace(".json", ".schema.json"),
    ):
        jsonschema.validate(loaded, json.loads(schema.read_text()))
    return loaded


def definition(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = statement(run)["predicate"]["buildDefinition"]
    return found


def dependencies(run: Run) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in definition(run)["resolvedDependencies"]}


@pytest.mark.parametrize("engine", ENGINES)
def test_it_names_every_artifact_by_content(convert: Convert, engine: str) -> None:
    run = convert("cnn", engine=engine)
    for name in PUBLISHED:
        subjects = statement(run, name)["subject"]
        assert {s["name"]: s["digest"]["sha256"] for s in subjects} == run.hashes


@pytest.mark.parametrize("engine", ENGINES)
def test_it_names_everything_that_went_in(convert: Convert, models: Path, engine: str) -> None:
    run = convert("cnn", engine=engine)
    known = dependencies(run)
    assert known["model/cnn.pt"]["digest"]["sha256"] == sha256(models / "cnn.pt")
    for name in load_toolchain().images:
        image = load_image(name)
        assert known[f"lock/{name}"]["digest"]["sha256"] == sha256(image.lock)
        stage = next(s for s in run.report["stages"] if s["environment"]["image"] == name)
        identity = stage["environment"]["identity"].removeprefix("sha256:")
        assert known[f"environment/{name}"]["digest"]["sha256"] == identity
        for pin in parse_lock(image.lock.read_text()):
            found, hashes = known[str(pin)], list(pin.hashes)
            noted = found["annotations"].get("sha256") or [found["digest"]["sha256"]]
            assert noted == hashes and len(hashes) > 0
            assert name in found["annotations"]["images"]
    assert len(known) > 60
    stand_in = known["tensorflow-cpu==2.4.0"]["annotations"]
    assert stand_in["stand_in_for"] == "tf-nightly==2.4.0.dev20200923" and stand_in["reason"]
    if engine == "docker":
        base = known["base/torch"]["digest"]["sha256"]
        assert run.stage("torch")["environment"]["details"]["base"] == f"sha256:{base}"
        packages = known["base-lock/torch"]["digest"]["sha256"]
        assert packages == sha256(ROOT / "images/base/packages.lock")


def test_the_stages_code_is_in_it_file_by_file(convert: Convert) -> None:
    recorded = dependencies(convert("cnn"))["stages"]
    files = recorded["annotations"]["files"]
    assert files == {name: sha256(ROOT / "stages" / name) for name in files}
    for used in ("convert/torch_to_onnx.py", "kit/samples.py", "fixes/onnx_tf/handlers/shapes.py"):
        assert used in files
    # Another toolchain's code does not matter.
    assert "convert/given_graph.py" not in files
    chain = load_toolchain()
    assert [name for name in files if name.endswith(".toml")] == [f"toolchains/{chain.name}.toml"]
    listing = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    assert recorded["digest"]["sha256"] == hashlib.sha256(listing.encode()).hexdigest()


def test_what_was_not_asked_for_is_in_it_too(convert: Convert) -> None:
    """Defaults may change; the record has to say what they were."""
    run = convert("cnn")
    parameters = definition(run)["externalParameters"]
    for stage in run.report["stages"]:
        assert parameters["options"][stage["name"]] == stage["report"]["options"]
    assert parameters["options"]["torch"]["opset"] == 11
    # 'all' is another list each time that a fix is added.
    assert "batchnorm" in parameters["options"]["onnx-tf"]["fixes"].split(",")
    (given,) = parameters["inputs"]
    assert given == {"name": "input", "shape": [1, 3, 32, 32], "dtype": "float32", "dims": []}
    assert parameters["check"] == {
        **{"samples": 8, "seed": 0, "metric": "mean_abs", "tolerance": 1e-6},
        **{"strict": False, "noise_samples": 8},
    }
    assert parameters["toolchain"] == "pytorch-tflite-2020"


def test_inputs_have_their_ranges(convert: Convert) -> None:
    (given,) = definition(convert("ids"))["externalParameters"]["inputs"]
    assert (given["name"], given["shape"], given["dtype"]) == ("ids", [1, 6], "int64")
    assert (given["low"], given["high"]) == (3.0, 9.0)


def test_files_of_the_users_are_in_it(convert: Convert) -> None:
    run = convert("weights")
    known = dependencies(run)
    assert known["user/user_code.py"]["digest"]["sha256"] == sha256(USER_CODE)
    parameters = definition(run)["externalParameters"]
    assert parameters["arch"] == "user/user_code.py:OwnNet"
    files = {file["name"]: file["path"] for file in parameters["arch_files"]}
    assert files["user/user_code.py"] == str(USER_CODE)
    assert parameters["options"]["torch"]["arch_args"] == '{"classes": 7}'


def test_who_ran_it_and_what_else_it_left(convert: Convert) -> None:
    run = convert("cnn")
    details = statement(run)["predicate"]["runDetails"]
    assert details["builder"]["id"] == "urn:tflite-runner:engine:process"
    assert details["metadata"]["invocationId"] == run.report["run"]
    assert details["metadata"]["startedOn"][:19] == run.report["started"][:19]
    assert details["metadata"]["finishedOn"] >= details["metadata"]["startedOn"]
    for item in details["byproducts"]:
        assert item["digest"]["sha256"] == sha256(run.folder / item["name"])
    names = {item["name"] for item in details["byproducts"]}
    assert names == {"report.json", "logs/torch.log", "logs/onnx-tf.log", "logs/tflite.log"}


def test_the_test_result_of_a_run_that_passed(convert: Convert) -> None:
    result = statement(convert("cnn"), "test-result.json")["predicate"]
    assert result["result"] == "PASSED"
    assert result["passedTests"] == ["torch/output", "onnx-tf/output", "tflite/output"]
    assert result["warnedTests"] == result["failedTests"] == []


def test_the_test_result_of_one_that_proves_nothing(convert: Convert) -> None:
    run = convert("vacuous", "--input", "1x8")
    assert run.code == VACUOUS
    result = statement(run, "test-result.json")["predicate"]
    assert result["result"] == "WARNED" and "tflite/output" in result["warnedTests"]


def test_the_test_result_of_one_out_of_tolerance(convert: Convert) -> None:
    result = statement(convert("cnn", "--tolerance", "1e-12", "--strict"), "test-result.json")[
        "predicate"
    ]
    assert result["result"] == "FAILED" and result["failedTests"] == ["tflite/output"]
    # The earlier stages' checks are a hint to where the error comes from, not the verdict.
    assert "onnx-tf/output" in result["warnedTests"]


def test_a_failed_run_is_recorded_as_far_as_it_went(convert: Convert) -> None:
    run = convert("roi")
    assert run.code == STAGE_FAILED
    recorded = statement(run)
    assert [s["name"] for s in recorded["subject"]] == ["model.onnx"]
    assert recorded["subject"][0]["digest"]["sha256"] == sha256(run.folder / "model.onnx")
    names = dependencies(run)
    assert "environment/onnx-tf" in names and "environment/tflite" not in names
    assert "lock/tflite" in names
    result = statement(run, "test-result.json")["predicate"]
    assert result["result"] == "FAILED" and {"onnx-tf", "tflite"} <= set(result["failedTests"])


@pytest.mark.parametrize("engine", ["process", DOCKER])
def test_a_run_without_any_artifact(convert: Convert, engine: str) -> None:
    run = convert("inverse", engine=engine)
    assert run.code == STAGE_FAILED
    assert statement(run)["subject"] == []
    assert statement(run, "test-result.json")["predicate"]["result"] == "FAILED"


def test_a_key_that_cannot_sign_is_refused_before_anything_starts(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key.pem"
    for content, said in ((None, "cannot be read"), (b"nonsense", "no private key")):
        if content is not None:
            key.write_bytes(content)
        arguments = ("convert", "--model", models / "cnn.pt", "--output", tmp_path / "run")
        finished = run_here(capsys, *arguments, "--sign", key, cwd=tmp_path)
        assert finished.returncode == BAD_INPUT and said in finished.stderr
        assert not (tmp_path / "run").exists()
