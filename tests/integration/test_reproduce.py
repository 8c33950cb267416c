"""`runner reproduce`: a recorded run made again from its record alone, and what it catches."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from harness import (
    ARTIFACTS,
    BAD_INPUT,
    ENVIRONMENT,
    PASSED,
    ROOT,
    STAGE_FAILED,
    SUPPORT,
    USER_CODE,
    Convert,
    leftovers,
    run_cli,
    run_here,
    sha256,
)

from runner.conversion.settings import RunSettings
from runner.provenance.read import read_record
from runner.provenance.signing import encode_preauth
from runner.reproduction.reproduce import MovedFiles, make_plan_again

# Exit codes, as README.md documents them.
EQUIVALENT, DIFFERENT, UNVERIFIED = 7, 8, 9

Json = dict[str, Any]


class Outcome:
    """A finished `runner reproduce`."""

    def __init__(self, finished: subprocess.CompletedProcess[str], folder: Path) -> None:
        self.code, self.stdout, self.stderr = finished.returncode, finished.stdout, finished.stderr
        self.folder = folder

    @property
    def result(self) -> Json:
        loaded: Json = json.loads((self.folder / "reproduction.json").read_text())
        schema = json.loads((ROOT / "docs/schemas/reproduction.schema.json").read_text())
        jsonschema.validate(loaded, schema)
        assert loaded["exit_code"] == self.code
        return loaded

    @property
    def verdicts(self) -> dict[str, str]:
        return {artifact["path"]: artifact["verdict"] for artifact in self.result["artifacts"]}

    @property
    def measured(self) -> dict[str, str]:
        return {artifact["path"]: artifact["measured"] for artifact in self.result["artifacts"]}


Reproduce = Callable[..., Outcome]


@pytest.fixture
def reproduce(tmp_path: Path) -> Reproduce:
    def run(record: Path, *options: str | Path, engine: str = "process", **given: Any) -> Outcome:
        folder = tmp_path / "again"
        arguments = ("reproduce", record, "--output", folder, "--engine", engine, *options)
        return Outcome(run_cli(*arguments, cwd=tmp_path, **given), folder)

    return run


@pytest.fixture
def run_folder(convert: Convert, tmp_path: Path) -> Path:
    """A copy of a run's folder, to change."""
    return shutil.copytree(convert("cnn").folder, tmp_path / "run")


@pytest.fixture
def record_alone(run_folder: Path, tmp_path: Path) -> Path:
    """A run's record without anything that could lie beside it."""
    return Path(shutil.copy(run_folder / "provenance.json", tmp_path / "provenance.json"))


def change(record: Path, edit: Callable[[Json], None]) -> None:
    """Edit what a record says was built."""
    statement = json.loads(record.read_text())
    edit(statement)
    record.write_text(json.dumps(statement))


def definition(statement: Json) -> Json:
    found: Json = statement["predicate"]["buildDefinition"]
    return found


def set_option(stage: str, name: str, value: Any) -> Callable[[Json], None]:
    def edit(statement: Json) -> None:
        definition(statement)["externalParameters"]["options"][stage][name] = value

    return edit


@pytest.mark.docker
@pytest.mark.parametrize(("recorded", "engine"), [("docker", "process"), ("process", "docker")])
def test_a_record_gives_the_same_bytes_on_the_other_engine_elsewhere(
    convert: Convert,
    models: Path,
    reproduce: Reproduce,
    tmp_path: Path,
    recorded: str,
    engine: str,
) -> None:
    run = convert("cnn", engine=recorded)
    assert run.code == PASSED, run.stdout
    shutil.copy(run.folder / "provenance.json", tmp_path / "old.json")
    shutil.copy(models / "cnn.pt", tmp_path / "moved.pt")
    again = reproduce(tmp_path / "old.json", "--model", tmp_path / "moved.pt", engine=engine)
    assert again.code == PASSED, again.stdout + again.stderr
    assert again.result["verdict"] == "identical"
    assert {name: sha256(again.folder / name) for name in ARTIFACTS} == run.hashes
    assert set(again.verdicts.values()) == {"identical"}
    assert {e["engine"] for e in again.result["environments"]} == {engine}
    assert [d["what"] for d in again.result["differences"]] == ["the engine"]


@pytest.mark.docker
def test_the_recorded_images_are_taken_if_they_are_here(
    convert: Convert, reproduce: Reproduce
) -> None:
    again = reproduce(convert("cnn", engine="docker").folder, engine="docker")
    assert again.code == PASSED, again.stdout + again.stderr
    assert {e["source"] for e in again.result["environments"]} == {"here, as recorded"}
    assert "the recorded images are here" in again.stdout
    assert again.result["differences"] == []


def test_nothing_is_left_to_a_default(convert: Convert, run_folder: Path, tmp_path: Path) -> None:
    """What the stages are asked for is all that they reported, though next to nothing was given."""
    run = convert("cnn")
    plan = make_plan_again(
        read_record(run_folder), MovedFiles(), RunSettings(output=tmp_path / "new")
    )
    for stage in run.report["stages"]:
        assert plan.stage_options[stage["name"]] == stage["report"]["options"]
    assert [(i.name, i.shape, i.dtype) for i in plan.inputs] == [
        ("input", (1, 3, 32, 32), "float32")
    ]
    assert plan.check["samples"] == 8 and plan.check["noise_samples"] == 8


def test_given_options_and_files_that_have_moved(
    convert: Convert, models: Path, reproduce: Reproduce, tmp_path: Path
) -> None:
    """An architecture of the user's, inputs of the user's, an older opset, no fixes."""
    arrays = tmp_path / "samples.npy"
    np.save(arrays, np.random.default_rng(0).standard_normal((5, 1, 3, 16, 16), np.float32))
    options = ("--inputs", arrays, "--opset", "10", "--faithful")
    run = convert("own", *options)
    assert run.code == PASSED, run.stdout
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in SUPPORT.glob("*.py"):
        shutil.copy(file, moved)
    shutil.move(arrays, moved / "samples.npy")
    record = run.folder / "provenance.json"
    arch = moved / USER_CODE.name
    refused = reproduce(record, "--arch", arch)
    assert refused.code == BAD_INPUT and "The inputs file is not here" in refused.stderr
    again = reproduce(record, "--arch", arch, "--inputs", moved / "samples.npy")
    assert again.code == PASSED, again.stdout + again.stderr
    assert again.result["verdict"] == "identical"
    # Whoever changes the file changes what is run.
    arch.write_text(arch.read_text() + "\n# changed\n")
    changed = reproduce(record, "--arch", arch, "--inputs", moved / "samples.npy")
    assert changed.code == BAD_INPUT
    assert sha256(arch) in changed.stderr and sha256(USER_CODE) in changed.stderr


def test_an_altered_weight_is_refused(
    models: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "cnn.pt"
    content = bytearray((models / "cnn.pt").read_bytes())
    content[-100] ^= 1
    model.write_bytes(content)
    arguments = ("reproduce", run_folder, "--model", model, "--output", tmp_path / "again")
    finished = run_here(capsys, *arguments, cwd=tmp_path)
    assert finished.returncode == BAD_INPUT
    said = " ".join(finished.stderr.split())
    assert sha256(model) in said and sha256(models / "cnn.pt") in said and "the model" in said
    assert not (tmp_path / "again").exists()


def test_an_altered_option_beside_the_report(run_folder: Path, reproduce: Reproduce) -> None:
    change(run_folder / "provenance.json", set_option("torch", "opset", 10))
    again = reproduce(run_folder)
    assert again.code == DIFFERENT, again.stdout + again.stderr
    (alteration,) = again.result["alterations"]
    assert "torch.opset" in alteration["what"]
    assert (alteration["recorded"], alteration["here"]) == ("10", "11")
    assert again.result["first_differing_stage"] == "torch"
    assert any("torch.opset" in reason for reason in again.result["reasons"])
    assert "torch.opset" in again.stdout


def test_an_altered_option_of_a_record_alone(record_alone: Path, reproduce: Reproduce) -> None:
    """Nothing tells what the option was; that the artifacts are not its result, the bytes tell."""
    change(record_alone, set_option("onnx-tf", "fixes", "none"))
    again = reproduce(record_alone)
    assert again.code == EQUIVALENT, again.stdout + again.stderr
    assert again.verdicts == {
        **{"model.onnx": "identical", "model.pb": "equivalent"},
        "model.tflite": "equivalent",
    }
    assert set(again.measured.values()) == {"bytes", "figures of both runs"}
    assert again.result["first_differing_stage"] == "onnx-tf"
    assert any("the record was altered" in reason for reason in again.result["reasons"])
    assert "at most" in again.stdout


def test_bytes_that_differ_are_compared_by_their_outputs(
    run_folder: Path, reproduce: Reproduce
) -> None:
    """The recorded artifacts run beside the new ones, on the same samples."""
    (run_folder / "report.json").unlink()
    change(run_folder / "provenance.json", set_option("onnx-tf", "fixes", "none"))
    again = reproduce(run_folder, "--limit", "log=60")
    assert again.code == EQUIVALENT, again.stdout + again.stderr
    assert again.measured == {
        **{"model.onnx": "bytes", "model.pb": "outputs of both"},
        "model.tflite": "outputs of both",
    }
    for artifact in again.result["artifacts"][1:]:
        (output,) = artifact["outputs"]
        assert 0 < output["mean_abs"] <= output["allowed"] == 2 * output["noise_floor"]
        log = again.folder / "logs" / f"{artifact['stage']}-compared.log"
        assert "of output left out here" in log.read_text()
    assert leftovers(again.folder) == []


def test_another_models_artifact_is_different(run_folder: Path, reproduce: Reproduce) -> None:
    """One weight of the recorded .tflite is another, and the record says so."""
    path = run_folder / "model.tflite"
    content = bytearray(path.read_bytes())
    values = np.frombuffer(content, np.float32, count=len(content) // 4)
    like_weights = (np.abs(values) < 1) & (np.abs(values) > 1e-6)
    runs = np.convolve(like_weights, np.ones(64), "valid") == 64
    values[int(np.argmax(runs)) + 32] += 0.5
    path.write_bytes(content)
    (run_folder / "report.json").unlink()

    def edit(statement: Json) -> None:
        statement["subject"][2]["digest"]["sha256"] = sha256(path)

    change(run_folder / "provenance.json", edit)
    again = reproduce(run_folder)
    assert again.code == DIFFERENT, again.stdout + again.stderr
    assert again.result["alterations"] == []
    assert again.verdicts["model.tflite"] == "different"
    assert again.measured["model.tflite"] == "outputs of both"
    (output,) = again.result["artifacts"][2]["outputs"]
    assert output["mean_abs"] > 100 * output["allowed"]
    assert again.result["first_differing_stage"] == "tflite"


def test_an_altered_artifact_is_named(run_folder: Path, reproduce: Reproduce) -> None:
    recorded = sha256(run_folder / "model.pb")
    with open(run_folder / "model.pb", "ab") as file:
        file.write(b"\0")
    again = reproduce(run_folder)
    assert again.code == DIFFERENT
    (alteration,) = again.result["alterations"]
    assert "model.pb" in alteration["what"]
    assert alteration["recorded"] == recorded
    assert alteration["here"] == sha256(run_folder / "model.pb")
    # What the record says is right nevertheless, and that is said as well.
    assert set(again.verdicts.values()) == {"identical"}
    assert "model.pb" in again.stdout


def lock_of(statement: Json, image: str) -> tuple[Json, Json]:
    found = {item["name"]: item for item in definition(statement)["resolvedDependencies"]}
    return found[f"lock/{image}"], found[f"environment/{image}"]


def test_an_altered_lock_in_the_record(record_alone: Path, reproduce: Reproduce) -> None:
    def edit(statement: Json) -> None:
        lock_of(statement, "tflite")[0]["digest"]["sha256"] = "0" * 64

    change(record_alone, edit)
    again = reproduce(record_alone)
    assert again.code == DIFFERENT
    (alteration,) = again.result["alterations"]
    assert "the lock of tflite" in alteration["what"]
    assert "the lock of tflite" in again.stdout
    named = {item["what"]: item for item in again.result["differences"]}
    assert named["the lock of tflite"]["recorded"] == "0" * 64
    assert named["the lock of tflite"]["here"] == sha256(ROOT / "images/tflite/requirements.lock")
    assert named["the lock of tflite"]["stages"] == ["tflite"]


def test_another_lock_than_the_recorded_one_is_named(
    record_alone: Path, reproduce: Reproduce
) -> None:
    """A record of before the lock was changed: the bytes may be the same all the same."""

    def edit(statement: Json) -> None:
        lock, environment = lock_of(statement, "torch")
        lock["digest"]["sha256"] = "1" * 64
        key = hashlib.sha256(("3.8\n" + "1" * 64).encode()).hexdigest()
        environment["annotations"]["key"] = environment["digest"]["sha256"] = key

    change(record_alone, edit)
    again = reproduce(record_alone)
    assert again.code == PASSED, again.stdout + again.stderr
    named = [item["what"] for item in again.result["differences"]]
    assert named == ["the lock of torch", "the environment torch"]
    assert "differs: the lock of torch" in again.stdout
    assert again.result["environments"][0]["source"] == "here"


def test_a_failed_run_fails_the_same_way(convert: Convert, reproduce: Reproduce) -> None:
    run = convert("roi")
    assert run.code == STAGE_FAILED
    again = reproduce(run.folder)
    assert again.code == PASSED, again.stdout + again.stderr
    assert again.verdicts == {"model.onnx": "identical"}


def test_a_stage_that_fails_now(record_alone: Path, reproduce: Reproduce) -> None:
    def edit(statement: Json) -> None:
        definition(statement)["externalParameters"]["inputs"][0]["shape"] = [1, 3, 16, 16]

    change(record_alone, edit)
    again = reproduce(record_alone)
    assert again.code == DIFFERENT
    assert set(again.verdicts.values()) == {"missing"}
    assert any("does not run on inputs" in reason for reason in again.result["reasons"])


def private_key(kind: str) -> Any:
    return (
        ed25519.Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}[kind])
    )


def write_keys(folder: Path, kind: str) -> tuple[Path, Path]:
    """A private key and its public one, as openssl writes them."""
    key = private_key(kind)
    secret, public = folder / f"{kind}.pem", folder / f"{kind}.pub"
    pem = serialization.Encoding.PEM
    secret.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return secret, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("keys")
    return {kind: write_keys(folder, kind) for kind in ("ed25519", "p256", "p384")}


@pytest.fixture
def signed(
    convert: Convert, keys: dict[str, tuple[Path, Path]], tmp_path: Path
) -> Callable[[str], Path]:
    def run(kind: str) -> Path:
        made = convert("cnn", "--sign", keys[kind][0])
        assert made.code == PASSED, made.stderr
        return shutil.copytree(made.folder, tmp_path / f"signed-{kind}")

    return run


def test_the_encoding_is_that_of_the_specification() -> None:
    """The example of DSSE's protocol.md."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert encode_preauth("http://example.com/HelloWorld", b"hello world") == expected


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_signed_record_is_an_envelope_that_others_verify(
    signed: Callable[[str], Path], keys: dict[str, tuple[Path, Path]], kind: str
) -> None:
    """By the specification's own words, with nothing of the runner's."""
    folder = signed(kind)
    public: Any = serialization.load_pem_public_key(keys[kind][1].read_bytes())
    schema = json.loads((SUPPORT / "schemas/dsse-v1.json").read_text())
    for name in ("provenance", "test-result"):
        envelope = json.loads((folder / f"{name}.dsse.json").read_text())
        jsonschema.validate(envelope, schema)
        assert envelope["payloadType"] == "application/vnd.in-toto+json"
        payload = base64.b64decode(envelope["payload"])
        assert payload == (folder / f"{name}.json").read_bytes()
        message = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
        signature = base64.b64decode(envelope["signatures"][0]["sig"])
        if kind == "ed25519":
            public.verify(signature, message)
        else:
            public.verify(signature, message, ec.ECDSA(hashes.SHA256()))


def test_a_signed_record_verifies_and_reproduces(
    signed: Callable[[str], Path], keys: dict[str, tuple[Path, Path]], reproduce: Reproduce
) -> None:
    folder = signed("ed25519")
    again = reproduce(folder / "provenance.dsse.json", "--verify-key", keys["ed25519"][1])
    assert again.code == PASSED, again.stdout + again.stderr
    assert len(again.result["signed_by"]) == 64 and "is signed by" in again.stdout


def tampered(folder: Path) -> None:
    """Another option in the signed payload itself."""
    path = folder / "provenance.dsse.json"
    envelope = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    set_option("torch", "opset", 10)(statement)
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps(envelope))


def beside(folder: Path) -> None:
    change(folder / "provenance.json", set_option("torch", "opset", 10))


def unsigned(folder: Path) -> None:
    (folder / "provenance.dsse.json").unlink()


@pytest.mark.parametrize(
    ("edit", "key", "said"),
    [
        (tampered, "ed25519", "not by this key"),
        (lambda folder: None, "p256", "not by this key"),
        (beside, "ed25519", "not what was signed"),
        (unsigned, "ed25519", "is not signed"),
    ],
    ids=["tampered", "another key", "changed beside it", "unsigned"],
)
def test_what_the_key_did_not_sign_is_refused(
    signed: Callable[[str], Path],
    keys: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[Path], None],
    key: str,
    said: str,
) -> None:
    folder = signed("ed25519")
    edit(folder)
    arguments = ("reproduce", folder, "--verify-key", keys[key][1], "--output", tmp_path / "new")
    finished = run_here(capsys, *arguments, cwd=tmp_path)
    assert finished.returncode == UNVERIFIED
    assert said in " ".join(finished.stderr.split())
    assert not (tmp_path / "new").exists()


def another_build(statement: Json) -> None:
    definition(statement)["buildType"] = "https://example.org/another/v1"


def outside(statement: Json) -> None:
    statement["subject"][0]["name"] = "../../model.onnx"


def unknown_parameter(statement: Json) -> None:
    definition(statement)["externalParameters"]["hook"] = "rm -rf /"


def code_of_no_record(statement: Json) -> None:
    definition(statement)["externalParameters"]["options"]["torch"]["arch"] = "/tmp/evil.py:build"


def text_for_the_terminal(statement: Json) -> None:
    definition(statement)["externalParameters"]["\x1b]0;evil\x07"] = 1


def unknown_toolchain(statement: Json) -> None:
    definition(statement)["externalParameters"]["toolchain"] = "../../etc/passwd"


@pytest.mark.parametrize(
    "edit",
    [
        *(another_build, outside, unknown_parameter, code_of_no_record, unknown_toolchain),
        text_for_the_terminal,
    ],
)
def test_a_record_that_asks_for_something_else_is_refused(
    record_alone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[Json], None],
) -> None:
    change(record_alone, edit)
    finished = run_here(capsys, "reproduce", record_alone, cwd=tmp_path)
    assert finished.returncode == BAD_INPUT and "record" in finished.stderr
    assert "\x1b]0" not in finished.stderr


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"{}", b'{"payloadType": 1}'])
def test_what_is_no_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    record = tmp_path / "record.json"
    if content is not None:
        record.write_bytes(content)
    for argument in (record, tmp_path):
        finished = run_here(capsys, "reproduce", argument, cwd=tmp_path)
        assert finished.returncode == BAD_INPUT and finished.stderr.startswith("error: ")


def test_a_model_that_is_gone(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(statement: Json) -> None:
        definition(statement)["externalParameters"]["model"]["path"] = "/nowhere/cnn.pt"

    change(run_folder / "provenance.json", edit)
    finished = run_here(capsys, "reproduce", run_folder, cwd=tmp_path)
    assert finished.returncode == BAD_INPUT and "--model FILE" in finished.stderr


def test_no_environment(run_folder: Path, reproduce: Reproduce, tmp_path: Path) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "PATH": os.environ["PATH"]}
    again = reproduce(run_folder, engine="docker", environment=nowhere)
    assert again.code == ENVIRONMENT
    assert again.result["verdict"] == "environment-unavailable"
    assert "No Docker engine answers" in again.result["summary"]
