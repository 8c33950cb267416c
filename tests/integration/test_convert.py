"""Conversions that succeed: the artifacts, the report, the same bytes everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from harness import (
    ARTIFACTS,
    ENGINES,
    RECORD,
    ROOT,
    STAGES,
    Convert,
    Run,
    docker_leftovers,
    leftovers,
    run_cli,
    sha256,
)

from runner.host.compat import tomllib
from runner.host.files import hash_file
from runner.toolchains.load import load_image

# Every form that a model may have. Those on docker differ in how files get into its volume.
KINDS = {
    "cnn": "pickled module",
    "script": "TorchScript archive",
    "loops": "TorchScript archive",
    "weights": "state_dict",
    "zip_weights": "state_dict",
    "checkpoint": "checkpoint with a state_dict",
    "own": "pickled module",
    "main": "pickled module",
    "two": "pickled module",
    "ids": "pickled module",
    "lstm": "pickled module",
    "half": "pickled module",
}
ON_DOCKER = ("cnn", "two", "weights")
CONVERSIONS = [pytest.param(name, "process", id=f"{name}-process") for name in KINDS] + [
    pytest.param(name, "docker", id=f"{name}-docker", marks=pytest.mark.docker)
    for name in ON_DOCKER
]
PINS = {"torch": "1.5.1", "onnx-tf": "1.6.0", "tflite": "2.4.0"}


@pytest.mark.parametrize(("name", "engine"), CONVERSIONS)
def test_it_converts(convert: Convert, name: str, engine: str) -> None:
    run = convert(name, engine=engine)
    assert run.code == 0, run.stdout + run.stderr
    report = run.report
    assert (report["outcome"], report["exit_code"]) == ("passed", 0)
    assert report["model"]["kind"] == KINDS[name]
    assert report["engine"]["name"] == engine
    assert report["gate"]["verdict"] == "passed"
    assert 0 <= report["gate"]["value"] < report["gate"]["tolerance"] == 1e-6
    assert [stage["status"] for stage in report["stages"]] == ["ok"] * 3


@pytest.mark.parametrize(("name", "engine"), CONVERSIONS)
def test_artifacts_are_whole_and_recorded(convert: Convert, name: str, engine: str) -> None:
    run = convert(name, engine=engine)
    recorded = {file["path"]: (file["sha256"], file["bytes"]) for file in run.report["artifacts"]}
    there = {n: (sha256(run.folder / n), (run.folder / n).stat().st_size) for n in ARTIFACTS}
    assert recorded == there
    assert (run.folder / "model.tflite").read_bytes()[4:8] == b"TFL3"
    # Each stage consumed just what the one before it made.
    inputs = [run.stage(stage)["report"]["input"]["sha256"] for stage in STAGES]
    assert inputs == [
        run.report["model"]["sha256"],
        run.hashes["model.onnx"],
        run.hashes["model.pb"],
    ]


@pytest.mark.parametrize(("name", "engine"), CONVERSIONS)
def test_nothing_is_left_behind(convert: Convert, name: str, engine: str) -> None:
    run = convert(name, engine=engine)
    there = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    assert there == {*RECORD, *ARTIFACTS, *(f"logs/{stage}.log" for stage in STAGES)}
    assert leftovers(run.folder) == []
    if engine == "docker":
        assert docker_leftovers(run.report["run"]) == ""


@pytest.mark.parametrize("engine", ENGINES)
class TestReport:
    """What report.json says of one conversion."""

    @pytest.fixture
    def run(self, convert: Convert, engine: str) -> Run:
        return convert("cnn", engine=engine)

    def test_validates(self, run: Run) -> None:
        schema = json.loads((ROOT / "docs/schemas/report.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(run.report, schema)
        schema = json.loads((ROOT / "docs/schemas/stage-report.schema.json").read_text())
        for stage in STAGES:
            jsonschema.validate(run.stage(stage)["report"], schema)

    def test_names_the_pins(self, run: Run) -> None:
        for name in STAGES:
            stage = run.stage(name)
            versions = stage["report"]["versions"]
            assert PINS[name] in versions.values()
            lock = load_image(name).lock.read_text().lower()
            for package, version in versions.items():
                locked = {f"{package}{cpu}=={version}" for cpu in ("", "-cpu")}
                assert any(f"\n{pin} " in lock for pin in locked), (package, version)
            assert stage["environment"]["lock_sha256"] == sha256(load_image(name).lock)
            assert stage["report"]["platform"]["python"].startswith("3.8.")

    def test_names_the_stand_in(self, run: Run) -> None:
        (stand_in,) = load_image("tflite").stand_ins
        assert run.stage("tflite")["environment"]["stand_ins"] == [str(stand_in)]
        assert run.stage("torch")["environment"]["stand_ins"] == []
        for word in (stand_in.pin, stand_in.use):
            assert word in run.stdout

    def test_identifies_the_environment(self, run: Run, engine: str) -> None:
        identities = [run.stage(stage)["environment"]["identity"] for stage in STAGES]
        assert len(set(identities)) == 3
        assert all(i.removeprefix("sha256:").isalnum() and len(i) >= 64 for i in identities)
        assert all(i.startswith("sha256:") == (engine == "docker") for i in identities)

    def test_measures_the_noise_floor(self, run: Run) -> None:
        floor = run.stage("torch")["report"]["noise_floor"]
        assert floor["samples"] == 8
        assert 1e-9 < floor["outputs"][0]["mean_abs"] < 1e-6
        (output,) = run.outputs("tflite")
        expected = output["mean_abs"] / floor["outputs"][0]["mean_abs"]
        assert output["times_noise_floor"] == pytest.approx(expected)

    def test_says_aloud_that_it_inferred_the_input(self, run: Run) -> None:
        (note,) = [note for note in run.report["notes"] if "inferred" in note]
        assert "1x3x32x32:float32" in note
        assert "Input inferred" in run.stdout
        assert run.report["inputs_from"] == "inferred from the first layer"

    def test_adds_up(self, run: Run) -> None:
        report = run.report
        phases = [run.stage(stage)["report"]["phases"] for stage in STAGES]
        assert all({"convert", "check"} <= set(phase) for phase in phases)
        assert report["seconds"] >= report["setup_seconds"] + report["overhead_seconds"] > 0
        assert all(run.stage(s)["report"]["peak_memory_bytes"] > 50_000_000 for s in STAGES)
        parameters = 3 * 6 * 9 + 6 + 2 * 6 + 6 * 8 * 9 + 2 * 8 + 8 * 49 * 5 + 5
        assert run.stage("torch")["report"]["parameters"] == parameters
        operators = run.stage("tflite")["report"]["operators"]
        assert operators["CONV_2D"] == 2 and operators["FULLY_CONNECTED"] == 1


@pytest.mark.docker
@pytest.mark.parametrize("name", ON_DOCKER)
def test_both_engines_make_the_same_bytes(convert: Convert, name: str) -> None:
    assert convert(name).hashes == convert(name, engine="docker").hashes


@pytest.mark.docker
@pytest.mark.parametrize("name", ON_DOCKER)
def test_both_engines_measure_the_same(convert: Convert, name: str) -> None:
    for stage in STAGES:
        assert convert(name).outputs(stage) == convert(name, engine="docker").outputs(stage)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "1", "TZ": "Pacific/Auckland"},
        {"PYTHONHASHSEED": "77", "LC_ALL": "tr_TR.UTF-8", "LANG": "C", "OMP_NUM_THREADS": "2"},
    ],
    ids=["zone", "locale"],
)
def test_the_environment_does_not_show(
    convert: Convert, tmp_path: Path, environment: dict[str, str]
) -> None:
    run = convert("cnn", cwd=tmp_path, environment=environment)
    assert run.hashes == convert("cnn").hashes
    assert [run.outputs(s) for s in STAGES] == [convert("cnn").outputs(s) for s in STAGES]


def test_the_files_name_and_the_seed_do_not_show_in_the_model(
    convert: Convert, models: Path
) -> None:
    other = models / "another name, with spaces.pt"
    other.write_bytes((models / "cnn.pt").read_bytes())
    run = convert(other.stem, "--seed", "7")
    assert run.hashes == convert("cnn").hashes
    assert run.outputs("tflite") != convert("cnn").outputs("tflite")


def test_equal_weights_in_another_form_make_an_equal_model(convert: Convert) -> None:
    assert convert("own").hashes == convert("main").hashes
    assert convert("own").hashes == convert("zip_weights").hashes
    assert convert("own").hashes == convert("checkpoint").hashes


class TestNotes:
    """What a conversion says aloud, since it was decided and not asked for."""

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("checkpoint", "its 'state_dict' is taken"),
            ("checkpoint", "Names of weights begin with 'module.', which is dropped."),
            ("half", "torch.float16; it is converted in float32"),
            ("lstm", "Input inferred from the first layer"),
        ],
    )
    def test_are_in_the_report_and_on_the_screen(
        self, convert: Convert, name: str, words: str
    ) -> None:
        run = convert(name)
        assert any(words in note for note in run.report["notes"])
        assert words in " ".join(run.stdout.split())

    def test_are_not_made_where_all_was_given(self, convert: Convert) -> None:
        assert convert("two").report["notes"] == []


def shapes(tensors: list[dict[str, Any]]) -> dict[str, list[int]]:
    return {tensor["name"]: tensor["shape"] for tensor in tensors}


def test_named_inputs_and_outputs_keep_their_order(convert: Convert) -> None:
    """The inputs were given in the other order; by name, they find their places."""
    for stage in STAGES:
        signature = convert("two").stage(stage)["report"]["signature"]
        assert list(shapes(signature["inputs"]).items()) == [("left", [1, 4]), ("right", [1, 6])]
        outputs = list(shapes(signature["outputs"]).items())
        assert outputs == [("output_0", [1, 3]), ("output_1", [1, 10])]
    assert [output["shape"] for output in convert("two").outputs("tflite")] == [[1, 3], [1, 10]]


def test_nested_outputs_are_flattened(convert: Convert) -> None:
    found = [output["shape"] for output in convert("lstm").outputs("tflite")]
    assert found == [[16, 1, 8], [1, 1, 8], [1, 1, 8]]


def test_a_toml_beside_the_model_gives_its_inputs(convert: Convert) -> None:
    run = convert("ids")
    (tensor,) = run.stage("tflite")["report"]["signature"]["inputs"]
    expected = {"name": "ids", "shape": [1, 6], "dtype": "int64", "low": 3.0, "high": 9.0}
    assert {key: tensor[key] for key in expected} == expected
    assert run.report["inputs_from"] == "ids.toml"
    assert not [note for note in run.report["notes"] if "inferred" in note]


def test_the_command_line_wins_over_the_toml(convert: Convert) -> None:
    run = convert("ids", "--input", "1x4:long")
    assert run.code == 0, run.stderr
    assert run.report["inputs_from"] == "--input"
    assert run.outputs("tflite")[0]["shape"] == [1, 4, 4]
    (note,) = [note for note in run.report["notes"] if "drawn from 0 to 49" in note]
    assert "smallest table" in note


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).normal(3, 2, (6, 1, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def from_full(convert: Convert, images: np.ndarray, models: Path) -> Run:
    np.save(models / "full.npy", images)
    return convert("cnn", "--inputs", models / "full.npy", "--input", "1x3x32x32")


class TestOwnInputs:
    """`--inputs`: the user's own samples."""

    def test_npy_with_the_batch_axis(self, from_full: Run, convert: Convert) -> None:
        assert from_full.code == 0, from_full.stderr
        assert from_full.report["options"]["inputs"] == "user/inputs.npy"
        assert from_full.outputs("tflite")[0]["samples"] == 6
        # Other inputs, other figures; the same model.
        ours, theirs = from_full.outputs("torch")[0], convert("cnn").outputs("torch")[0]
        assert ours["reference_std"] > 1.2 * theirs["reference_std"]
        assert from_full.hashes == convert("cnn").hashes

    def test_npy_without_the_batch_axis(
        self, from_full: Run, convert: Convert, images: np.ndarray, models: Path
    ) -> None:
        np.save(models / "flat.npy", images[:, 0])
        run = convert("cnn", "--inputs", models / "flat.npy")
        assert run.code == 0, run.stderr
        assert [run.outputs(s) for s in STAGES] == [from_full.outputs(s) for s in STAGES]

    def test_npz_by_name(
        self, from_full: Run, convert: Convert, images: np.ndarray, models: Path
    ) -> None:
        np.savez(models / "one.npz", whatever=images)
        run = convert("cnn", "--inputs", models / "one.npz", "--input", "1x3x32x32")
        assert run.code == 0, run.stderr
        assert [run.outputs(s) for s in STAGES] == [from_full.outputs(s) for s in STAGES]

    @pytest.mark.parametrize("engine", ENGINES)
    def test_npz_of_several_inputs(self, convert: Convert, models: Path, engine: str) -> None:
        generator = np.random.default_rng(5)
        left, right = generator.normal(size=(5, 4)), generator.normal(size=(5, 1, 6))
        file = models / f"several-{engine}.npz"
        # Named, in the other order, in float64, and one of them without its batch axis.
        np.savez(file, right=right.astype(np.float32), left=left)
        run = convert("two", "--inputs", file, engine=engine)
        assert run.code == 0, run.stdout + run.stderr
        second = run.outputs("tflite")[1]
        expected = np.concatenate([left[:, None], 2 * right], 2).astype(np.float32)
        assert second["reference_mean"] == pytest.approx(expected.mean(), rel=1e-5)
        assert second["reference_std"] == pytest.approx(expected.std(), rel=1e-5)


class TestOutput:
    """What is printed, and where files go."""

    def test_json(self, convert: Convert) -> None:
        run = convert("cnn", "--json")
        assert json.loads(run.stdout) == run.report

    def test_quiet(self, convert: Convert) -> None:
        run = convert("cnn", "--quiet")
        assert (run.code, run.stdout, run.stderr) == (0, "", "")

    def test_verbose_shows_the_stages_own_lines(self, convert: Convert) -> None:
        run = convert("cnn", "--verbose")
        assert "torch | note: Input inferred" in run.stdout
        assert "torch | " not in convert("cnn").stdout

    def test_by_default_into_runs(self, models: Path, tmp_path: Path) -> None:
        arguments = ("--engine", "process", "--samples", "2")
        finished = run_cli("convert", "--model", models / "cnn.pt", *arguments, cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
        (folder,) = (tmp_path / "runs").iterdir()
        assert folder.name.startswith("cnn-")
        assert f"runs/{folder.name}/model.tflite" in finished.stdout
        assert (folder / "logs" / "torch.log").read_text().startswith("note: Input inferred")

    def test_options_reach_their_stage(self, convert: Convert) -> None:
        run = convert("cnn", "--opset", "9", "--option", "tflite.flex=false")
        assert run.code == 0, run.stderr
        assert run.stage("torch")["report"]["options"]["opset"] == 9
        assert run.stage("tflite")["report"]["options"]["flex"] is False
        assert run.hashes["model.onnx"] != convert("cnn").hashes["model.onnx"]


def test_from_python(models: Path, tmp_path: Path) -> None:
    from runner import convert

    report = convert(models / "cnn.pt", output=tmp_path / "out", engine="process", samples=2)
    assert (report.outcome, report.exit_code) == ("passed", 0)
    artifact = report.artifacts[-1]
    assert hash_file(tmp_path / "out" / artifact.path) == artifact.sha256


@pytest.mark.slow
@pytest.mark.docker
def test_mobilenet_v2_is_the_same_on_both_engines_and_twice(convert: Convert) -> None:
    arguments = ("--samples", "4", "--input", "1x3x224x224")
    runs = [
        convert("mobilenet_v2", *arguments, engine=engine, again=again)
        for engine in ("process", "docker")
        for again in (1, 2)
    ]
    assert [run.code for run in runs] == [0] * 4, runs[0].stdout
    assert len({tuple(run.hashes.values()) for run in runs}) == 1
    assert len({run.folder for run in runs}) == 4
    (output,) = runs[0].outputs("tflite")
    assert output["reference_sample_std"] > 0.01 and output["mean_abs"] < 1e-6


def test_schemas_are_current(tmp_path: Path) -> None:
    finished = run_cli("schemas", tmp_path, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "docs/schemas").iterdir()}
    assert made == kept and len(made) >= 5


def test_the_pins_of_these_tests_are_those_of_the_intents() -> None:
    intents = {name: load_image(name).intent.read_text() for name in STAGES}
    assert "torch==1.5.1" in intents["torch"] and "onnx-tf==1.6.0" in intents["onnx-tf"]
    assert "tf-nightly==2.4.0.dev20200923" in intents["tflite"]
    data = tomllib.loads((ROOT / "images/tflite/image.toml").read_text())
    assert data["stand-in"][0]["use"] == "tensorflow-cpu==2.4.0"
